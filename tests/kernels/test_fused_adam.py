"""The fused step of `riemannian_adam` is the chain of its links, up to rounding, in fewer passes.

The links are held to the formulas in `tests/optimizers/test_riemannian_adam.py`; here the fast path
is held to them: every manifold, scheme and moment.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import assert_trees_equal, random_like

import fgsgd_jax as fg
from fgsgd_jax import _xla_cpu
from fgsgd_jax.transforms import ScaleByRiemannianAdamState

MANIFOLDS = {
    "sphere": (fg.Sphere(),),
    "oblique": (fg.Oblique(),),
    "stiefel": (fg.Stiefel(),),
    "qr": (fg.Stiefel(retraction="qr"),),
    "four types": (fg.Sphere(), fg.Oblique(), fg.Stiefel(), fg.Euclidean()),
}
# Some thirty operations on numbers of size 1, in three steps; 1 − b2 keeps four digits in float32;
# in bfloat16 every link of the chain rounds its vectors to 8 bits, and the fast path does not.
TOLERANCES = {"float64": 1e-13, "float32": 2e-5, "bfloat16": 3e-2}
RATE, SIZES = 0.2, (1.0, 0.03, 10.0)


def problem(shape, dtype, names, scheme, scale=None):
    params = {"w": jnp.ones(shape, dtype), "bias": jnp.ones(3, dtype)}
    rule = ("w", fg.pom(scheme, MANIFOLDS[names]))
    spec = fg.collection(params, rule, default=None, scale=scale)
    return fg.project(random_like(params, 0), spec), spec


def links(spec, **settings):
    return optax.chain(
        fg.project_to_tangent(spec),
        fg.scale_by_riemannian_adam(spec, **settings),
        optax.scale_by_learning_rate(RATE),
        fg.retract_updates(spec),
    )


def run(tx, params, sizes=SIZES):
    """The weights, and the state of Adam, after steps along gradients of these sizes."""
    state, update = tx.init(params), jax.jit(tx.update)
    for seed, size in enumerate(sizes, start=1):
        updates, state = update(random_like(params, seed, size), state, params)
        params = optax.apply_updates(params, updates)
    if not isinstance(state, ScaleByRiemannianAdamState):
        state = state[1]
    return params, (state.mu["w"], state.nu, state.nu_max, state.count, state.euclidean)


def compare(shape, dtype, names, scheme, sizes=SIZES, scale=None, **settings):
    with jax.enable_x64(dtype == "float64"):
        params, spec = problem(shape, dtype, names, scheme, scale)
        fused = fg.riemannian_adam(RATE, spec, **settings)
        assert isinstance(fused.init(params), ScaleByRiemannianAdamState)
        one, other = (run(tx, params, sizes) for tx in (fused, links(spec, **settings)))
        assert float(jnp.max(jnp.abs(one[0]["w"] - params["w"]))) > 3 * TOLERANCES[dtype]
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            a, b = (np.asarray(array, np.float64) for array in (a, b))
            largest = max(np.max(np.abs(b)), 1e-3)  # of a moment, after gradients of any size
            np.testing.assert_allclose(a / largest, b / largest, atol=TOLERANCES[dtype])


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(
    ("names", "scheme", "moment"),
    [
        ("sphere", "PO", "component"),
        ("sphere", "PIO", "group"),
        ("oblique", "PI", "group"),
        ("stiefel", "layer", "component"),
        ("qr", "PO", "group"),
        ("four types", "PIO", "component"),
        ("four types", "layer", "group"),
    ],
)
def test_every_manifold_and_moment(names, scheme, moment):
    compare((3, 3, 4, 6), "float64", names, scheme, moment=moment, amsgrad=scheme == "PO")


@pytest.mark.slow
@pytest.mark.parametrize("names", ["sphere", "stiefel"])
def test_weights_at_a_scale_in_bfloat16(names):
    compare((3, 3, 4, 6), "bfloat16", names, "PO", scale=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("names", ["sphere", "oblique", "stiefel", "four types"])
def test_weights_large_enough_to_be_computed_in_stages(names):
    shape = (3, 3, 64, 128)
    assert np.prod(shape) >= _xla_cpu.MATERIALIZED_SIZE
    compare(shape, "float32", names, "PIO", moment="group" if names == "sphere" else "component")


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_large_weights_take_the_same_steps_whatever_the_size_of_their_gradients(size):
    # ‖g‖² would overflow, or vanish.
    params, spec = problem((3, 3, 64, 128), "float32", "sphere", "PO")
    tx = fg.riemannian_adam(RATE, spec, eps=0.0)
    expected, _ = run(tx, params, (1.0, 0.03))
    moved, _ = run(tx, params, (size, 0.03 * size))
    np.testing.assert_allclose(moved["w"], expected["w"], atol=2e-6)
    assert fg.residual(moved, spec)["w"] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("names", ["sphere", "four types"])
def test_components_without_a_gradient_do_not_move(names):
    params, spec = problem((3, 3, 64, 128), "float32", names, "PO")
    tx = fg.riemannian_adam(RATE, spec)
    gradient = random_like(params, 1)
    gradient["w"] = gradient["w"].at[..., :5].set(0)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"][..., :5], 0)
    assert jnp.all(jnp.max(jnp.abs(updates["w"][..., 5:]), axis=(0, 1)) > 0)


def test_a_gradient_that_is_not_finite_makes_its_component_nan_and_no_other():
    params, spec = problem((3, 3, 64, 128), "float32", "sphere", "PO")
    tx = fg.riemannian_adam(RATE, spec)
    gradient = random_like(params, 1)
    gradient["w"] = gradient["w"].at[0, 0, 0, 0].set(jnp.inf)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(params), params)
    isnan = np.isnan(updates["w"])
    assert isnan[..., 0, 0].all()
    assert isnan.sum() == 9


@pytest.mark.slow
def test_moments_per_entry_take_the_links_themselves():
    params, spec = problem((3, 3, 4, 6), "float32", "sphere", "PO")
    one, other = (
        run(tx, params)
        for tx in (fg.riemannian_adam(RATE, spec, moment="entry"), links(spec, moment="entry"))
    )
    assert_trees_equal(one[0], other[0])
