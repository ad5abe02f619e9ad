"""Trees whose leaves do not fit the spec: the message names the leaf and what changed it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg

PARAMS = {
    "conv": np.eye(3, dtype=np.float32)[:, :, None, None] * np.ones((2, 4), np.float32),
    "bias": np.zeros(4, np.float32),
}
SPEC = fg.collection(PARAMS, ("conv", fg.pom("PO", fg.Stiefel())))


@pytest.mark.parametrize("where", ["init", "update", "project", "residual"])
def test_a_tree_with_further_leaves_names_them_all(where):
    larger = PARAMS | {"head": np.ones((4, 2), np.float32), "scale": np.ones(4, np.float32)}
    tx = fg.fgsgd(0.1, SPEC)
    calls = {
        "init": lambda: tx.init(larger),
        "update": lambda: tx.update(larger, tx.init(PARAMS), larger),
        "project": lambda: fg.project(larger, SPEC),
        "residual": lambda: fg.residual(larger, SPEC),
    }
    with pytest.raises(ValueError, match=r"no leaves 'head', 'scale'; .*'bias', 'conv'.* Build"):
        calls[where]()


@pytest.mark.parametrize("path", ["conv", "bias"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_gradient_of_a_wrong_shape_is_compared_with_its_weight(path, fused):
    tx = fg.fgsgd(0.1, SPEC) if fused else fg.project_to_tangent(SPEC)
    wrong = PARAMS | {path: PARAMS[path][..., :1]}
    shapes = rf"'{path}' has shape \({wrong[path].shape[0]}.*{PARAMS[path].shape[-1]},?\)"
    with pytest.raises(ValueError, match=f"gradient.*{shapes}.*Give gradients"):
        tx.update(wrong, tx.init(PARAMS), PARAMS)


def test_a_momentum_of_a_wrong_shape_is_compared_with_its_weight():
    tx = fg.fgsgd(0.1, SPEC, momentum=0.9)
    state = tx.init(PARAMS)
    trace = state.trace | {"bias": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"momentum of 'bias'.*state that was made for them"):
        tx.update(PARAMS, state._replace(trace=trace), PARAMS)


def test_wrappers_that_hide_the_leaves_are_named():
    tx = fg.fgsgd(0.1, SPEC)
    with pytest.raises(ValueError, match=r"optax\.flatten, which hides the shapes.*`euclidean`"):
        optax.flatten(tx).init(PARAMS)
    params = {"w": PARAMS["conv"], "c": jnp.ones(3, jnp.complex64)}
    spec = fg.collection(params, ("w", fg.pom("PO", fg.Stiefel())))
    split = optax.contrib.split_real_and_imaginary
    expected = r"no leaves 'c/(real|imaginary)'.*split_real_and_imaginary.*`euclidean`"
    with pytest.raises(ValueError, match=expected):
        split(fg.fgsgd(0.1, spec)).init(params)
    # What the message says to do works.
    inside = fg.fgsgd(0.1, spec, euclidean=split(optax.sgd(0.1)))
    updates, _ = inside.update(params, inside.init(params), params)
    np.testing.assert_allclose(updates["c"], -0.1 * np.ones(3))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bool", "complex64"])
@pytest.mark.parametrize("where", ["init", "update", "project", "residual"])
def test_a_dtype_without_geometry_is_named_with_its_path(dtype, where):
    short = PARAMS | {"conv": jnp.asarray(PARAMS["conv"]).astype(dtype)}
    tx = fg.fgsgd(0.1, SPEC)
    calls = {
        "init": lambda: tx.init(short),
        "update": lambda: tx.update(short, tx.init(PARAMS), PARAMS),
        "project": lambda: fg.project(short, SPEC),
        "residual": lambda: fg.residual(short, SPEC),
    }
    with pytest.raises(ValueError, match=f"'conv' has dtype {dtype}.*float16.*Cast"):
        calls[where]()


@pytest.mark.slow
def test_gradients_of_whole_numbers_are_still_taken():
    tx = fg.fgsgd(0.1, SPEC)
    whole = jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape), PARAMS)
    floats = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), whole)
    updates, _ = tx.update(whole, tx.init(PARAMS), PARAMS)
    expected, _ = tx.update(floats, tx.init(PARAMS), PARAMS)
    assert np.max(np.abs(expected["conv"])) > 1e-4
    np.testing.assert_array_equal(updates["conv"], expected["conv"])


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e6, jnp.float16), (1e39, jnp.float32), ("array", jnp.float16)]
)
def test_a_scale_beyond_a_dtype_is_refused(scale, dtype):
    params = {"w": jnp.ones((3, 3, 2, 4), dtype)}
    scale = jnp.full((2, 4), 3e5) if isinstance(scale, str) else scale
    spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere(), scale=scale)))
    with pytest.raises(ValueError, match=r"scale of 'w', .*, is too large for its dtype, float"):
        fg.project(params, spec)


@pytest.mark.parametrize("manifold", [fg.Sphere(), fg.Oblique(), fg.Stiefel()])
def test_a_weight_that_starts_at_zero_is_said_to_stay_euclidean(manifold):
    params = {"lora_b": jnp.zeros((4, 16))}
    spec = fg.collection(params, ("lora_b", fg.pom("layer", manifold, component="matrix")))
    with pytest.raises(
        ValueError, match=r"'lora_b' is zero, .* Leave it Euclidean \(None\) if it must"
    ):
        fg.project(params, spec)
