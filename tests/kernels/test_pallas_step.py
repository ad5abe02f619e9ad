"""The step by Pallas kernels is the chain of the links too; here JAX interprets the kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import kernels
from fgsgd_jax.kernels import _blocks, _pallas, _step
from fgsgd_jax.kernels._scalars import NotScalar, Scalars
from tests.kernels.test_fused_step import MOMENTA, RATE, SCHEMES, compare, weights

TYPES = ("stiefel", "oblique", "four types")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Programs for the CPU take the kernels, and no program compiled otherwise is used."""
    jax.clear_caches()
    monkeypatch.setattr(kernels, "PALLAS", True)
    monkeypatch.setattr(_step, "GPUS", ("cpu",))
    monkeypatch.setattr(_pallas, "INTERPRET", True)
    yield
    jax.clear_caches()


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that are launched."""
    names, call = [], _pallas.OneKernel.__call__

    def counted(self, **options):
        names.append(self.name)
        return call(self, **options)

    monkeypatch.setattr(_pallas.OneKernel, "__call__", counted)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("names", TYPES)
def test_every_manifold_and_scheme(names, scheme, launched):
    turn = (TYPES.index(names) + SCHEMES.index(scheme)) % len(MOMENTA)
    compare((3, 3, 4, 6), "float64", names, scheme, list(MOMENTA)[turn])
    assert launched == ["measured", "moved"]
