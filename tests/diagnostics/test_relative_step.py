"""`relative_step` is ‖update‖/‖weight‖ of every leaf, of any optimizer."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import random_like

import fgsgd_jax as fg
from fgsgd_jax.diagnostics import relative_step

PARAMS = {"conv": {"kernel": jnp.ones((3, 3, 2, 4))}, "bias": jnp.ones(3), "scale": jnp.ones(())}


@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_quotient_of_norms(dtype, size):
    params = random_like(jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS), 0, size)
    updates = random_like(params, 1, 0.01 * size)
    found = jax.jit(relative_step)(updates, params)
    assert set(found) == {"conv/kernel", "bias", "scale"}
    for path, (u, w) in {
        "conv/kernel": (updates["conv"]["kernel"], params["conv"]["kernel"]),
        "bias": (updates["bias"], params["bias"]),
        "scale": (updates["scale"], params["scale"]),
    }.items():
        u, w = (np.ravel(np.asarray(array, np.float64)) for array in (u, w))
        np.testing.assert_allclose(found[path], np.linalg.norm(u) / np.linalg.norm(w), rtol=1e-5)


@pytest.mark.slow
def test_it_finds_the_relative_step_of_on_manifold():
    spec = fg.collection(PARAMS, ("conv/kernel", fg.pom("PO", fg.Sphere())), default=None)
    params = fg.project(random_like(PARAMS, 0), spec)
    tx = fg.on_manifold(
        optax.adam(1.0), spec, tangent="direction", relative_step=0.01, euclidean=optax.sgd(0.1)
    )
    updates, _ = tx.update(random_like(params, 1), tx.init(params), params)
    found = relative_step(updates, params)
    assert found["conv/kernel"] == pytest.approx(0.01, rel=1e-3)
    assert found["bias"] == pytest.approx(
        0.1 * np.linalg.norm(random_like(params, 1)["bias"]) / np.linalg.norm(params["bias"]),
        rel=1e-5,
    )


def test_a_weight_of_0_has_an_infinite_step_or_none():
    params = {"moves": jnp.zeros(3), "rests": jnp.zeros((2, 2))}
    found = relative_step({"moves": jnp.ones(3), "rests": jnp.zeros((2, 2))}, params)
    assert found["moves"] == np.inf
    assert found["rests"] == 0


@pytest.mark.parametrize(
    ("updates", "said"),
    [
        ({"other": jnp.ones(3)}, "'other' has shape (3,), but its weight is missing"),
        ({"bias": jnp.ones(4)}, "'bias' has shape (4,), but its weight is of shape (3,)"),
    ],
)
def test_updates_of_other_parameters_are_refused(updates, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        relative_step(updates, PARAMS)
