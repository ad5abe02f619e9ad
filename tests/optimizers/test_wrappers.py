"""The table of the README of `optimizers`: which wrappers of Optax stay on the manifolds."""

import functools
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import random_like

import fgsgd_jax as fg

README = Path(fg.__file__).parent / "optimizers" / "README.md"
ROWS = re.findall(r"^\| `(.+)` \| ([a-z ]+) \| .+ \|$", README.read_text(), re.MULTILINE)
VERDICTS = ("as it is", "with the link", "refused")


@functools.cache
def problem():
    """A matrix on Stiefel at scale 2, and a bias."""
    params = {"w": jnp.ones((5, 3)), "b": jnp.ones(3)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel(), scale=2.0)), default=None)
    return fg.project(random_like(params, seed=0), spec), spec


def wrapped(code, tx=None):
    _, spec = problem()
    names = {"optax": optax, "fg": fg, "spec": spec, "tx": tx or fg.rsgd(0.1, spec)}
    return eval(code, names)


def largest_residual(tx, pair, steps=6, names=("value", "grad", "value_fn")):
    """The largest residual of the weights over some steps, of fast and slow weights for pairs.

    Args:
        tx: The optimizer.
        pair: Whether its parameters are pairs, as for `optax.lookahead`.
        steps: The number of steps.
        names: The further arguments that an update gets.
    """
    params, spec = problem()
    target = random_like(params, seed=5)
    weights = _pair(params) if pair else params
    tx = optax.with_extra_args_support(tx)

    def loss(params):
        gaps = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 2), params, target)
        return jax.tree.reduce(jnp.add, gaps)

    @jax.jit
    def step(weights, state):
        fast = weights.fast if pair else weights
        value, grad = jax.value_and_grad(loss)(fast)
        further = {"value": value, "grad": grad, "value_fn": loss}
        further["grad_fn"] = lambda weights, _: jax.grad(loss)(weights)
        given = {name: further[name] for name in names}
        updates, state = tx.update(grad, state, weights, **given)
        return optax.apply_updates(weights, updates), state

    state, worst = tx.init(weights), 0.0
    for _ in range(steps):
        weights, state = step(weights, state)
        halves = weights if pair else (weights,)
        worst = max(worst, *(float(fg.residual(half, spec)["w"]) for half in halves))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(weights))
    return worst


def _pair(params):
    return optax.LookaheadParams.init_synced(jax.tree.map(jnp.asarray, params))


def test_the_table_is_read_whole():
    table = [line for line in README.read_text().splitlines() if line.startswith("| `")]
    assert len(ROWS) == len(table) > 15
    assert {verdict for _, verdict in ROWS} == set(VERDICTS)


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize(("code", "verdict"), ROWS, ids=[code for code, _ in ROWS])
def test_every_row_of_the_table_holds(code, verdict):
    _, spec = problem()
    pair = "lookahead" in code  # of fast and slow weights
    measured = largest_residual
    if "contrib.sam" in code:  # whose update takes no other argument
        measured = functools.partial(largest_residual, names=("grad_fn",))
    if verdict == "refused":
        assert_refused(code)
        return
    bare = measured(wrapped(code), pair)
    if verdict == "as it is":
        assert bare < 2e-6
        return
    assert bare > 1e-4, "the link is not needed"
    kept = optax.chain(wrapped(code), fg.keep_on_manifolds(spec))
    assert measured(kept, pair) < 2e-6


def assert_refused(code):
    """At `init`, jitted or not, on either side of the wrapper, whose steps leave the manifolds."""
    params, spec = problem()
    inside = fg.on_manifold(wrapped(code, tx=optax.sgd(0.1)), spec)
    kept = optax.chain(wrapped(code), fg.keep_on_manifolds(spec))
    before = wrapped(code, tx=optax.chain(optax.sgd(0.1), fg.keep_on_manifolds(spec)))
    for tx in (inside, kept, before, wrapped(code)):
        for init in (tx.init, jax.jit(tx.init)):
            with pytest.raises(ValueError, match="averages of weights along straight lines"):
                init(params)
    base = fg.rsgd(0.1, spec)
    state = base.init(params)
    hidden = optax.GradientTransformation(lambda _: state, base.update)
    assert largest_residual(wrapped(code, tx=hidden), pair=False) > 1e-4


def test_flat_leaves_may_have_averages_along_straight_lines():
    params, spec = problem()
    averaging = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
    fg.rsgd(0.1, spec, euclidean=averaging).init(params)
    flat = fg.collection(params, ("w", fg.pom("layer", fg.Euclidean())), default=None)
    optax.contrib.schedule_free(fg.rsgd(0.1, flat), 0.1).init(params)


def test_a_wrapper_without_the_link_is_named_where_values_are_known():
    params, spec = problem()
    tx = optax.lookahead(fg.rsgd(0.3, spec), 1, 0.5)  # synchronized after every step
    weights, gradient = _pair(params), random_like(params, 1)
    updates, state = tx.update(gradient, tx.init(weights), weights)
    with pytest.raises(ValueError, match=r"optax\.lookahead or another wrapper without keep_on"):
        tx.update(gradient, state, optax.apply_updates(weights, updates))


@pytest.mark.parametrize("code", ["optax.scale(0.5)", "optax.trace(0.9)"])
def test_a_link_behind_the_last_one_is_named_where_values_are_known(code):
    params, spec = problem()
    gradient = random_like(params, 1)
    tx = optax.chain(optax.adam(0.1), fg.keep_on_manifolds(spec), wrapped(code))
    state = tx.init(params)
    for _ in range(2):
        updates, state = jax.jit(tx.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
    with pytest.raises(ValueError, match=r"other links behind it or behind keep_on_manifolds"):
        tx.update(gradient, state, params)


def test_the_last_link_refuses_weights_off_their_manifolds_from_the_start():
    params, spec = problem()
    link = fg.keep_on_manifolds(spec)
    with pytest.raises(ValueError, match=r"not on their manifolds.*'w'.*project"):
        link.init(params | {"w": 2 * params["w"]})
    jax.jit(link.init)(params | {"w": 2 * params["w"]})


# --- leaves that a mask leaves to something else -------------------------------------------------


def four_leaves(scale):
    """Parameters and a spec; every scale has a spec of its own, since warnings come once for it."""
    shapes = {"conv": (3, 3, 2, 4), "fc": {"w": (5, 3)}, "b": (3,)}
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    params = jax.tree.map(jnp.ones, shapes, is_leaf=is_shape)
    rules = (
        ("conv", fg.pom("PO", fg.Sphere(), scale=scale)),
        ("fc/*", fg.pom("layer", fg.Stiefel())),
    )
    spec = fg.collection(params, *rules, default=None)
    return fg.project(random_like(params, seed=0), spec), spec


LABELS = {"conv": "on", "fc": "other", "b": "flat"}
LEFT_OUT = r"'fc/w' on manifolds, but optax\.masked or optax\.partition leaves them out.*Include"


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["masked", "partition", "on_manifold"])
def test_leaves_on_manifolds_that_are_left_to_another_optimizer_are_named_once(name, inside):
    params, spec = four_leaves(
        2.0 + ["masked", "partition", "on_manifold"].index(name) + inside / 2
    )
    parts = {"on": fg.fgsgd(0.1, spec), "other": optax.adam(0.1), "flat": optax.sgd(0.1)}
    mask = {"conv": True, "fc": False, "b": True}
    tx = {
        "masked": optax.masked(fg.fgsgd(0.1, spec, momentum=0.9), mask),
        "partition": optax.partition(parts, LABELS),
        "on_manifold": optax.masked(fg.on_manifold(optax.adam(0.1), spec), mask),
    }[name]
    state = tx.init(params)
    update = (lambda *args: jax.eval_shape(tx.update, *args)) if inside else tx.update
    with pytest.warns(UserWarning, match=LEFT_OUT):
        update(params, state, params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        update(params, state, params)


@pytest.mark.filterwarnings("error")
def test_leaves_that_another_part_keeps_on_manifolds_are_not_named():
    params, spec = four_leaves(6.0)
    parts = {"on": fg.fgsgd(0.1, spec), "other": fg.rsgd(0.1, spec), "flat": optax.sgd(0.1)}
    both = optax.partition(parts, LABELS)
    flat = optax.masked(fg.fgsgd(0.1, spec), {"conv": True, "fc": True, "b": False})
    own = fg.fgsgd(0.1, spec, euclidean=optax.adam(0.1))
    for tx in (both, flat, own):
        tx.update(params, tx.init(params), params)


def test_sam_leaves_the_manifolds_between_synchronizations_only():
    params, spec = problem()
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    tx = optax.contrib.sam(fg.rsgd(0.1, spec), adversary, sync_period=3)
    state, target = tx.init(params), random_like(params, seed=5)
    for number in range(1, 7):
        gradient = jax.tree.map(lambda p, t: p - t, params, target)
        updates, state = jax.jit(tx.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
        off = float(fg.residual(params, spec)["w"])
        assert off < 2e-6 if number % 3 == 0 else off > 1e-3


@pytest.mark.slow
def test_fast_and_slow_weights_are_equal_after_they_are_synchronized():
    params, spec = problem()
    tx = optax.chain(optax.lookahead(fg.rsgd(0.1, spec), 2, 0.5), fg.keep_on_manifolds(spec))
    weights = _pair(params)
    state = tx.init(weights)
    for _ in range(2):
        updates, state = tx.update(random_like(params, 1), state, weights)
        weights = optax.apply_updates(weights, updates)
    assert jnp.allclose(weights.fast["w"], weights.slow["w"], atol=1e-6)
    assert not jnp.allclose(weights.fast["w"], params["w"], atol=1e-2)


@pytest.mark.parametrize("name", ["w", "b"])
def test_a_zero_update_stays_zero_and_euclidean_leaves_pass(name):
    params, spec = problem()
    link = fg.keep_on_manifolds(spec)
    update = {"w": jnp.zeros((5, 3)), "b": jnp.zeros(3)} | {name: 0.1 * jnp.ones_like(params[name])}
    kept, _ = link.update(update, link.init(params), params)
    if name == "b":
        assert not kept["w"].any()
        assert (kept["b"] == update["b"]).all()
    else:
        assert kept["w"].any()
        assert not kept["b"].any()


def test_the_link_keeps_weights_at_their_measured_scale():
    params, spec = problem()
    tx = optax.chain(fg.rsgd(0.1, spec), optax.ema(0.9), fg.keep_on_manifolds(spec))
    state = fg.set_feature_std(tx.init(params), {"w": 4.0})
    for seed in (1, 2):
        updates, state = tx.update(random_like(params, seed), state, params)
        params = optax.apply_updates(params, updates)
        stds = fg.get_feature_std(state)
        assert fg.residual(params, spec, feature_std=stds)["w"] < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 3, 2, 4), (4, 3, 2, 4), (2, 3, 2, 4)])
def test_the_link_ends_at_the_point_that_project_gives(shape):
    params = {"w": jnp.ones(shape)}
    manifolds = (fg.Sphere(), fg.Oblique(), fg.Stiefel())
    spec = fg.collection(params, ("w", fg.pom("PIO", manifolds, groups=2)))
    params = fg.project(random_like(params, 0), spec)
    link = fg.keep_on_manifolds(spec)
    for size in (1e-3, 0.3, 1.0, 30.0):
        update = random_like(params, 1, scale=size)
        kept, _ = jax.jit(link.update)(update, link.init(params), params)
        expected = fg.project(optax.apply_updates(params, update), spec)
        assert jnp.allclose(params["w"] + kept["w"], expected["w"], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_a_bound_of_the_norm_is_a_projection_and_a_fixed_norm_is_a_sphere(bound):
    params = {"w": jnp.ones((4, 1))}
    pull = {"w": -jnp.arange(4.0)[:, None]}  # away from 0
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere(), scale=bound)))
    on_sphere, tx = fg.project(params, spec), fg.rsgd(0.1, spec)
    updates, _ = tx.update(pull, tx.init(on_sphere), on_sphere)
    ends = optax.apply_updates(on_sphere, updates)
    assert float(jnp.linalg.norm(ends["w"])) == pytest.approx(bound, rel=1e-6)
    for size, norm in ((1.0, bound), (0.01, None)):
        inside = {"w": 0.1 * bound * params["w"]}
        moved = jax.tree.map(lambda x, g, size=size: x - size * g, inside, pull)
        kept = optax.projections.projection_l2_ball(moved, bound)
        norm = float(jnp.linalg.norm(moved["w"])) if norm is None else norm
        assert float(jnp.linalg.norm(kept["w"])) == pytest.approx(norm, rel=1e-6)


def test_apply_gradients_steps_the_fast_and_slow_weights_of_a_lookahead():
    params, spec = problem()
    tx = optax.chain(optax.lookahead(fg.rsgd(0.1, spec), 2, 0.5), fg.keep_on_manifolds(spec))
    gradients = jax.tree.map(jnp.cos, params)
    one = other = _pair(params)
    state, of_two_calls = tx.init(one), tx.init(other)
    for _ in range(2):
        one, state = fg.apply_gradients(tx, gradients, state, one)
        updates, of_two_calls = tx.update(gradients, of_two_calls, other)
        other = optax.apply_updates(other, updates)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert max(jax.tree.leaves(fg.residual(one.slow, spec))) < 1e-6


def test_an_optimizer_that_shrinks_weights_by_itself_is_told_from_decay():
    params, spec = problem()
    tx = fg.on_manifold(optax.fromage(0.1), spec)
    with pytest.raises(ValueError, match=r"optax\.fromage, fits no fixed norm"):
        tx.update(params, tx.init(params), params)
