"""Gradients that are missing, or of a shorter dtype than their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg

MAKERS = {
    "fgsgd": lambda spec: fg.fgsgd(0.1, spec, momentum=0.9),
    "riemannian_adam": lambda spec: fg.riemannian_adam(0.1, spec),
    "a moment per entry": lambda spec: fg.riemannian_adam(0.1, spec, moment="entry"),
    "manifold_muon": lambda spec: fg.manifold_muon(0.1, spec),
    "rdog": lambda spec: fg.rdog(spec),
    "on_manifold": lambda spec: fg.on_manifold(optax.sgd(0.1), spec),
    "links": lambda spec: optax.chain(
        fg.project_to_tangent(spec),
        fg.scale_by_fgsgd(spec),
        optax.scale(-0.1),
        fg.retract_updates(spec),
    ),
}
SHAPE = (8, 4)
SPEC = fg.collection(
    {"w": jnp.ones(SHAPE), "bias": jnp.ones(4)}, ("w", fg.pom("layer", fg.Stiefel()))
)
PARAMS = fg.project({"w": jax.random.normal(jax.random.key(0), SHAPE), "bias": jnp.ones(4)}, SPEC)


# Without a state of every weight, None leaves a weight as it is, as elsewhere in Optax.
@pytest.mark.parametrize("name", [name for name in MAKERS if name != "links"])
def test_a_gradient_that_is_none_is_named(name):
    tx = MAKERS[name](SPEC)
    state = tx.init(PARAMS)
    for update in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match=r"gradient of .w. is None\. Give zeros"):
            update({"w": None, "bias": jnp.ones(4)}, state, PARAMS)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.int32])
@pytest.mark.parametrize("name", MAKERS)
def test_gradients_of_other_dtypes_count_as_those_of_the_dtype_of_the_weights(name, dtype):
    tx = MAKERS[name](SPEC)
    # Squares of these overflow in float16, and all are whole numbers that float16 can hold.
    gradient = {"w": 32 * jnp.round(1000 * PARAMS["w"][::-1]), "bias": jnp.ones(4)}
    assert float(jnp.max(jnp.abs(gradient["w"]))) > 256
    other = jax.tree.map(lambda leaf: leaf.astype(dtype), gradient)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    expected, found = (update(g, state, PARAMS)[0]["w"] for g in (gradient, other))
    assert found.dtype == jnp.float32
    assert float(jnp.max(jnp.abs(expected))) > 1e-7
    np.testing.assert_allclose(found, expected, atol=1e-6)
