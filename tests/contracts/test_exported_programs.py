"""Updates are exported for GPUs and TPUs from a host that has none."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export

import fgsgd_jax as fg
from tests.kernels.test_xla_cpu import MANIFOLDS

OPTIMIZERS = {
    "fgsgd": lambda spec: fg.fgsgd(0.1, spec, momentum=0.9, nesterov=True),
    "rsgd": lambda spec: fg.rsgd(0.1, spec),
    "riemannian_adam": lambda spec: fg.riemannian_adam(0.1, spec),
    "riemannian_adam by entry": lambda spec: fg.riemannian_adam(0.1, spec, moment="entry"),
    "rdog": lambda spec: fg.rdog(spec),
    "on_manifold": lambda spec: fg.on_manifold(optax.adam(0.1), spec),
    "average": lambda spec: optax.chain(fg.fgsgd(0.1, spec), fg.average_on_manifolds(spec)),
}


def exported(tx: optax.GradientTransformation, params) -> str:
    """The update, lowered for GPUs of both makers and for TPUs at once."""
    arguments = params, tx.init(params), params
    update = export.export(jax.jit(tx.update), platforms=("cuda", "rocm", "tpu"))
    return update(*arguments).mlir_module()


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize("manifold", MANIFOLDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_slices_are_moved_without_a_library(optimizer, manifold):
    params = {"w": jnp.ones((3, 3, 4, 6)), "bias": jnp.ones(6)}
    spec = fg.collection(params, ("w", fg.pom("PIO", MANIFOLDS[manifold])))
    program = exported(OPTIMIZERS[optimizer](spec), fg.initialize(jax.random.key(0), params, spec))
    # LAPACK and its like are reached by custom calls.
    assert re.findall(r"custom_call @(\w+)", program) == []
    # Atomic additions of floats would give other bits in every run.
    assert "stablehlo.scatter" not in program


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["manifold_muon", "land_updates", "fgsgd"])
def test_matrices_are_moved_by_products_alone(optimizer):
    params = {"w": jnp.ones((64, 16))}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel(), component="matrix")))
    tx = {
        "manifold_muon": lambda: fg.manifold_muon(0.1, spec),
        "land_updates": lambda: optax.chain(
            fg.project_to_tangent(spec), optax.scale(-0.1), fg.land_updates(spec)
        ),
        "fgsgd": lambda: fg.fgsgd(0.1, spec),
    }[optimizer]()
    program = exported(tx, fg.initialize(jax.random.key(0), params, spec))
    assert re.findall(r"custom_call @(\w+)", program) == []


def test_path_sgd_is_exported_too():
    params = [jnp.ones((8, 8)), jnp.ones((8, 4))]
    tx = fg.path_sgd(0.1, lambda p, x: jax.nn.relu(x @ p[0]) @ p[1], input_shape=(8,))
    assert re.findall(r"custom_call @(\w+)", exported(tx, params)) == []
