"""The step that GPUs take is the chain of the links too; here it is compiled for the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax.kernels import _pallas
from fgsgd_jax.linalg import Entries
from tests.kernels.test_fused_step import (
    MOMENTA,
    RATE,
    SCHEMES,
    assert_far_weights_land,
    compare,
    weights,
)

TYPES = ("sphere", "oblique")


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """Programs for the CPU take the step of GPUs, and no program compiled otherwise is used."""
    jax.clear_caches()
    monkeypatch.setattr(_pallas, "GPUS", ("cpu",))
    yield
    jax.clear_caches()


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("names", TYPES)
def test_every_manifold_and_scheme(names, scheme):
    turn = (TYPES.index(names) + SCHEMES.index(scheme)) % len(MOMENTA)
    compare((3, 3, 4, 6), "float64", names, scheme, list(MOMENTA)[turn])


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("names", TYPES)
def test_every_dtype(names, dtype):
    compare((3, 3, 4, 6), dtype, names, "PO", "heavy ball", size=0.3)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((3, 3, 1, 1), "sphere"),
        ((3, 3, 7, 11), "oblique"),
        ((2, 4, 4, 6), "oblique"),
        ((5, 5, 2, 3), "sphere"),
    ],
)
def test_odd_shapes(shape, names):
    compare(shape, "float64", names, "PI", "nesterov")


@pytest.mark.parametrize("names", ["sphere", "oblique"])
@pytest.mark.parametrize("normalized", [False, True])
def test_steps_that_no_group_shares(names, normalized):
    params, spec = weights((3, 3, 4, 6), "float32", names, "PO")
    gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)
    normalize = [fg.scale_by_fgsgd(spec, per_component=True)] if normalized else []
    chain = optax.chain(
        fg.project_to_tangent(spec),
        *normalize,
        optax.scale_by_learning_rate(RATE),
        fg.retract_updates(spec),
    )
    one, other = (
        jax.jit(tx.update)(gradient, tx.init(params), params)[0]["w"]
        for tx in (chain, fg.rsgd(RATE, spec, normalize=normalized))
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


@pytest.mark.parametrize("names", ["sphere", "oblique"])
def test_points_at_rest_stay_and_points_without_a_direction_become_nan(names):
    params, spec = weights((3, 3, 4, 6), "float32", names, "kernel")
    gradient = jax.tree.map(jnp.zeros_like, params)
    gradient["w"] = gradient["w"].at[..., 1, 2].set(jnp.nan)
    tx = fg.fgsgd(RATE, spec)
    update = np.array(jax.jit(tx.update)(gradient, tx.init(params), params)[0]["w"])
    assert np.isnan(update[..., 1, 2]).all()
    update[..., 1, 2] = 0
    assert not update.any()


@pytest.mark.parametrize("names", ["sphere", "oblique"])
def test_long_gradients_lead_weights_far_off_onto_their_manifolds(names):
    assert_far_weights_land(names)


@pytest.mark.slow
def test_rounding_does_not_pile_up_and_what_is_off_a_sphere_returns_in_one_step():
    for names in ("sphere", "oblique"):
        params, spec = weights((3, 3, 4, 6), "float32", names, "PO")
        tx = fg.fgsgd(0.3, spec, momentum=0.9)
        off = params | {"w": 1.5 * params["w"]}
        gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)
        updates, _ = jax.jit(tx.update)(gradient, tx.init(params), off)
        returned = optax.apply_updates(off, updates)
        assert float(fg.residual(returned, spec)["w"]) < 1e-6, names

        def step(index, carried, tx=tx):
            params, state = carried
            gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf + index), params)
            updates, state = tx.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        start = returned, tx.init(params)
        params, _ = jax.jit(lambda start=start, step=step: jax.lax.fori_loop(0, 200, step, start))()
        assert float(fg.residual(params, spec)["w"]) < 1e-6, names


def test_the_update_is_differentiable_and_maps_over_batches():
    params, spec = weights((3, 3, 4, 6), "float32", "oblique", "PO")
    gradient = jax.tree.map(lambda leaf: jnp.cos(100 * leaf), params)
    tx = fg.fgsgd(RATE, spec)
    state = tx.init(params)

    def moved(size):
        updates, _ = tx.update(jax.tree.map(lambda g: size * g, gradient), state, params)
        return updates["w"]

    at, h = jnp.float32(0.5), 1e-2
    slope = jax.jit(jax.jacfwd(moved))(at)
    difference = (jax.jit(moved)(at + h) - jax.jit(moved)(at - h)) / (2 * h)
    np.testing.assert_allclose(slope, difference, atol=2e-3)
    backward = jax.jit(jax.grad(lambda size: jnp.sum(moved(size) ** 2)))(at)
    np.testing.assert_allclose(backward, 2 * np.sum(np.asarray(moved(at)) * slope), rtol=1e-3)
    both = jax.jit(jax.vmap(moved))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(both[0], jax.jit(moved)(at), atol=1e-6)


def test_entries_are_a_tree_that_computes_like_the_array():
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(3, 2, 5)), jnp.float32) for _ in range(2))
    a, b = Entries.of(x), Entries.of(y)
    number = jnp.arange(5.0)
    np.testing.assert_array_equal((number * a - b / 2 + 1).array(), number * x - y / 2 + 1)
    np.testing.assert_array_equal((2 - a[0] * b).array(), 2 - x[0] * y)
    np.testing.assert_array_equal(jax.tree.map(jnp.cos, a[:, 1]).array(), jnp.cos(x[:, 1]))
    assert (a.shape, a[1].shape, a.dtype) == (x.shape, x[1].shape, x.dtype)
