"""The contract of an Optax optimizer, and the laws an optimizer on manifolds adds to it."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import (
    assert_trees_equal,
    by_kind,
    compilations,
    fgsgd_trajectory,
    from_slices,
    nearest,
    normal_part,
    precision,
    random_like,
    residual,
    tangent,
    to_slices,
    types_of,
)

import fgsgd_jax as fg

SPHERE, OBLIQUE, STIEFEL = fg.Sphere(), fg.Oblique(), fg.Stiefel()
MIXTURE = (SPHERE, OBLIQUE, STIEFEL)

OPTIMIZERS = {
    "fgsgd": fg.fgsgd,
    "fgsgd with momentum": functools.partial(fg.fgsgd, momentum=0.9),
    "rsgd": fg.rsgd,
    "rsgd with momentum": functools.partial(fg.rsgd, momentum=0.9),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@functools.cache
def mixed_problem(dtype="float32"):
    """Weights on every type under PIO, on Stiefel as one matrix, and Euclidean; and their spec."""
    params = {
        "conv": jnp.ones((3, 3, 2, 3), dtype),
        "head": jnp.ones((5, 3), dtype),
        "bias": jnp.ones((3,), dtype),
    }
    spec = fg.collection(
        params,
        ("conv", fg.pom("PIO", MIXTURE, groups=2)),
        ("head", fg.pom("layer", STIEFEL, component="matrix")),
        default=None,
    )
    return fg.project(random_like(params, seed=0), spec), spec


# One weight of every kind that takes a path of its own through the geometry: name, shape, pom.
ZOO = {
    "sphere": ((3, 3, 2, 3), fg.pom("PO", SPHERE)),
    "oblique": ((3, 3, 2, 3), fg.pom("PI", OBLIQUE)),
    "stiefel": ((3, 3, 2, 3), fg.pom("PO", STIEFEL)),
    "stiefel tall": ((4, 3, 2, 3), fg.pom("PO", STIEFEL)),
    "stiefel wide": ((2, 3, 2, 3), fg.pom("PI", STIEFEL)),
    "stiefel qr": ((3, 3, 2, 3), fg.pom("PO", fg.Stiefel("qr"))),
    "stiefel cayley": ((3, 3, 2, 3), fg.pom("PO", fg.Stiefel("cayley"))),
    "mixture": ((3, 3, 2, 3), fg.pom("PIO", MIXTURE, groups=2)),
}


@functools.cache
def zoo(dtype="float32", names=tuple(ZOO)):
    params = {name: jnp.ones(ZOO[name][0], dtype) for name in names}
    spec = fg.collection(params, *((name, ZOO[name][1]) for name in names), default=None)
    return fg.project(random_like(params, seed=1), spec), spec


def manifold_names(pom: fg.Pom) -> tuple[str, ...]:
    return tuple(type(manifold).__name__.lower() for manifold in pom.manifolds)


def zoo_residuals(params, spec) -> dict[str, float]:
    """The largest residual of every weight of the zoo, by the formulas of NumPy."""
    manifold_ids = {path: np.asarray(drawn) for path, drawn in spec.manifold_ids().items()}
    return {
        name: by_kind(
            residual, manifold_names(ZOO[name][1]), manifold_ids.get(name), to_slices(weight)
        ).max()
        for name, weight in params.items()
    }


def assert_on_manifolds(params, spec) -> None:
    # 1e-6 is ten times what rounding in float32 leaves of the equations of a 4 × 3 point.
    off = zoo_residuals(params, spec)
    assert all(distance <= 1e-6 for distance in off.values()), off


def zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def assert_trees_close(actual, expected) -> None:
    """Equal but for a few roundings of float32 at size 1, as two compilations of one thing are."""
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-7)


# --- what Optax asks of every optimizer ---------------------------------------------------------


@pytest.mark.sweep(fast=1)
@every_optimizer
def test_unexpected_extra_arguments_are_ignored(name):
    params, spec = mixed_problem()
    tx, gradients = OPTIMIZERS[name](0.1, spec), random_like(params, seed=2)
    state = tx.init(params)
    plain = tx.update(gradients, state, params)
    with_extra = tx.update(gradients, state, params, value=jnp.ones([]), nobody_knows_this=1)
    assert_trees_equal(with_extra, plain)


@pytest.mark.sweep(fast=1)
@every_optimizer
def test_the_second_jitted_update_compiles_nothing(name):
    params, spec = mixed_problem()
    tx, gradients = OPTIMIZERS[name](0.1, spec), random_like(params, seed=2)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    with compilations() as first:
        params, state = step(params, state)
    with compilations() as second:
        step(params, state)
    assert "jit(step)" in first
    assert second == []


def plain_problems():
    """Optax's targets, all Euclidean: the start, the minimum, and a loss that sums them."""
    start = {
        "parabola": [-1.0, 10.0, 1.0],
        "rosenbrock": [0.0, 0.0],
        "matrix": [[0.0, 0.0], [0.0, 0.0]],
        "mixed": ([0.0, 0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]]),
    }
    minimum = {
        "parabola": [1.0, -1.0, 1.0],
        "rosenbrock": [1.0, 1.0],
        "matrix": [[3.0, -2.0], [1.0, 4.0]],
        "mixed": ([1.0, -1.0, 2.0], [[1.0, 0.0], [-1.0, 1.0]]),
    }
    is_vector = lambda tree: isinstance(tree, list)  # noqa: E731
    start, minimum = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree, is_leaf=is_vector)
        for tree in (start, minimum)
    )

    def loss(params):
        others, x = dict(params), params["rosenbrock"]
        del others["rosenbrock"]
        targets = {name: minimum[name] for name in others}
        squares = jax.tree.map(lambda p, target: jnp.sum((p - target) ** 2), others, targets)
        valley = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        return jax.tree.reduce(jnp.add, squares) + valley

    return jax.tree.map(jnp.asarray, start), minimum, loss


@every_optimizer
def test_descends_to_the_minima_of_the_plain_problems(name):
    params, minimum, loss = plain_problems()
    # Euclidean leaves take a twentieth of the rate: 1e-3.
    tx = OPTIMIZERS[name](2e-2, fg.collection(params, default=None))

    def step(_, carry):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    # Rosenbrock's valley has the curvature 0.4, so at this rate plain descent shrinks the error by
    # 1 − 4e-4 a step: from 1 to 1e-3 in 17,000 steps. Momentum of 0.9 makes that ten times faster.
    steps = 2_500 if "momentum" in name else 20_000
    params, _ = jax.jit(lambda *carry: jax.lax.fori_loop(0, steps, step, carry))(
        params, tx.init(params)
    )
    for leaf, target in zip(jax.tree.leaves(params), jax.tree.leaves(minimum), strict=True):
        np.testing.assert_allclose(leaf, target, atol=5e-3)  # the 1e-3 above, with a margin


@pytest.mark.slow
@every_optimizer
def test_mapping_the_identity_over_the_state_changes_nothing(name):
    params, spec = mixed_problem()
    tx = OPTIMIZERS[name](0.1, spec)
    _, state = tx.update(random_like(params, seed=2), tx.init(params), params)
    assert_trees_equal(optax.tree.map_params(tx, lambda leaf: leaf, state), state)


@pytest.mark.slow
def test_mapping_over_the_state_reaches_the_momentum_and_nothing_else():
    params, spec = mixed_problem()
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    _, state = tx.update(random_like(params, seed=2), tx.init(params), params)
    doubled = optax.tree.map_params(tx, lambda leaf: 2 * leaf, state)
    momentum = optax.tree.get(state, "trace")
    assert_trees_equal(
        optax.tree.get(doubled, "trace"), jax.tree.map(lambda leaf: 2 * leaf, momentum)
    )
    assert_trees_equal(optax.tree.set(doubled, trace=momentum), state)


@pytest.mark.slow
@every_optimizer
def test_injected_hyperparameters_give_the_same_update(name):
    params, spec = mixed_problem()
    make, gradients = OPTIMIZERS[name], random_like(params, seed=2)
    plain, injected = make(0.1, spec), optax.inject_hyperparams(make)(0.1, spec)
    updates, state = plain.update(gradients, plain.init(params), params)
    updates_injected, state_injected = injected.update(gradients, injected.init(params), params)
    # Optax allows 1e-5; the same operations on an array instead of a constant give the same bits.
    assert_trees_equal(updates_injected, updates)
    assert_trees_equal(jax.tree.leaves(state_injected.inner_state), jax.tree.leaves(state))


@pytest.mark.slow
def test_an_injected_hyperparameter_can_be_changed_between_steps():
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)
    tx = optax.inject_hyperparams(fg.rsgd)(0.1, spec, euclidean="sgd")
    state = tx.init(params)
    state = optax.tree.set(state, learning_rate=jnp.asarray(0.3))
    updates, _ = tx.update(gradients, state, params)
    # −0.3·g in float32: two roundings.
    np.testing.assert_allclose(updates["bias"], -0.3 * gradients["bias"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@every_optimizer
def test_updates_have_the_dtype_of_the_parameters(name, dtype):
    params, spec = mixed_problem(dtype)
    tx = OPTIMIZERS[name](0.1, spec)
    updates, _ = tx.update(random_like(params, seed=2), tx.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


@pytest.mark.slow
@every_optimizer
def test_accumulating_steps_move_nothing_and_the_last_one_takes_the_mean(name):
    params, spec = mixed_problem()
    inner = OPTIMIZERS[name](0.1, spec)
    tx = optax.MultiSteps(inner, every_k_schedule=3)
    state, updates, update = tx.init(params), None, jax.jit(tx.update)
    gradients = [random_like(params, seed) for seed in (2, 3, 4)]
    for mini_step, g in enumerate(gradients):
        updates, state = update(g, state, params)
        if mini_step < 2:
            assert_trees_equal(updates, zeros(params))
    mean = jax.tree.map(lambda *g: sum(g) / 3, *gradients)
    expected, _ = inner.update(mean, inner.init(params), params)
    assert_trees_close(updates, expected)  # a running mean rounds apart from a sum


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, optax.constant_schedule(0.1)], ids=["rate", "schedule"])
@every_optimizer
def test_types_of_the_state_survive_a_branch(name, rate, dtype):
    with precision(dtype):
        params, spec = mixed_problem(dtype)
        tx = OPTIMIZERS[name](rate, spec)
        state = tx.init(params)

        def maybe_step(params, state, go):  # raises where the branches differ in type
            step = lambda: tx.update(params, state, params)  # noqa: E731
            updates, state = jax.lax.cond(go, step, lambda: (params, state))
            return optax.apply_updates(params, updates), state

        after = jax.eval_shape(maybe_step, params, state, True)
        assert types_of(after) == types_of((params, state))
        _, after_update = tx.update(random_like(params, seed=2), state, params)
        assert types_of(after_update) == types_of(state)


@pytest.mark.slow
@every_optimizer
def test_a_constant_schedule_equals_a_constant_rate(name):
    params, spec = mixed_problem()
    results = []
    for rate in (0.1, optax.constant_schedule(0.1)):
        tx, weights = OPTIMIZERS[name](rate, spec), params
        state = tx.init(weights)
        for seed in (2, 3, 4):
            updates, state = tx.update(random_like(params, seed), state, weights)
            weights = optax.apply_updates(weights, updates)
        results.append(weights)
    assert_trees_equal(*results)


def test_a_schedule_sees_the_count_of_steps():
    params, spec = mixed_problem()
    tx = fg.fgsgd(fg.robbins_monro(0.5, transition_steps=2), spec, euclidean="sgd")
    state, gradients = tx.init(params), random_like(params, seed=2)
    for step in range(4):
        updates, state = tx.update(gradients, state, params)
        expected = -0.5 / (1 + step / 2) * np.asarray(gradients["bias"])
        np.testing.assert_allclose(updates["bias"], expected, rtol=1e-6)  # three roundings


@pytest.mark.parametrize("rate", [jnp.asarray(0.1), np.asarray(0.1, np.float32)])
def test_an_array_can_be_the_rate(rate):
    params, spec = mixed_problem()
    gradients, results = random_like(params, seed=2), []
    for learning_rate in (0.1, rate):
        tx = fg.fgsgd(learning_rate, spec)
        results.append(tx.update(gradients, tx.init(params), params)[0])
    assert_trees_equal(*results)


def test_a_traced_number_can_be_the_rate_and_the_momentum():
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)

    @jax.jit
    def bias_update(params, rate, momentum):
        tx = fg.fgsgd(rate, spec, momentum=momentum, euclidean="sgd")
        state = tx.init(params)
        _, state = tx.update(gradients, state, params)
        return tx.update(gradients, state, params)[0]["bias"]

    # On a Euclidean leaf the second step is −r·(1 + d)·g; a few roundings.
    expected = -0.25 * 1.5 * np.asarray(gradients["bias"])
    np.testing.assert_allclose(bias_update(params, 0.25, 0.5), expected, rtol=1e-6)


def test_init_inside_a_traced_function_takes_known_weights():
    params, spec = mixed_problem()
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    shapes = jax.eval_shape(lambda: tx.init(params))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, tx.init(params))


@every_optimizer
def test_init_takes_shapes_for_parameters(name):
    params, spec = mixed_problem()
    shapes = jax.eval_shape(lambda tree: tree, params)
    assert fg.collection(shapes, default=None).shapes == spec.shapes
    tx = OPTIMIZERS[name](0.1, spec)
    assert_trees_equal(tx.init(shapes), tx.init(params))


def test_update_without_parameters_says_what_is_missing():
    params, spec = mixed_problem()
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    with pytest.raises(ValueError, match="not passing `params`"):
        tx.update(params, tx.init(params))


# --- inside other transformations ---------------------------------------------------------------


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_whole_numbers_as_gradients_are_those_numbers(momentum):
    params = {"w": jnp.eye(3).reshape(3, 3, 1, 1), "bias": jnp.ones(4)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
    tx = fg.fgsgd(0.1, spec, momentum=momentum)
    whole = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 3, jnp.int32), params)
    exact = jax.tree.map(lambda leaf, weight: leaf.astype(weight.dtype), whole, params)
    found, expected = (tx.update(g, tx.init(params), params)[0] for g in (whole, exact))
    assert_trees_equal(found, expected)


def test_clipping_before_it_in_a_chain_clips_the_gradient():
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)
    inner = fg.fgsgd(0.1, spec)
    tx = optax.chain(optax.clip_by_global_norm(1.0), inner)
    updates, _ = tx.update(gradients, tx.init(params), params)
    length = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(gradients)))
    assert length > 1
    clipped = jax.tree.map(lambda g: g / np.float32(length), gradients)
    expected, _ = inner.update(clipped, inner.init(params), params)
    assert_trees_close(updates, expected)


@pytest.mark.slow
def test_a_named_chain_finds_its_momentum_by_name():
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)
    tx = optax.named_chain(
        ("tangent", fg.project_to_tangent(spec)),
        ("momentum", fg.trace_on_manifold(spec, 0.9)),
        ("normalizer", fg.scale_by_fgsgd(spec)),
        ("rate", optax.scale_by_learning_rate(0.1)),
        ("retraction", fg.retract_updates(spec)),
    )
    whole = fg.fgsgd(0.1, spec, momentum=0.9, euclidean="sgd")
    updates, state = tx.update(gradients, tx.init(params), params)
    expected, expected_state = whole.update(gradients, whole.init(params), params)
    assert_trees_close(updates, expected)
    assert list(state) == ["tangent", "momentum", "normalizer", "rate", "retraction"]
    assert_trees_close(state["momentum"].trace, optax.tree.get(expected_state, "trace"))


@pytest.mark.parametrize("partition", [optax.partition, optax.multi_transform])
def test_a_partition_gives_every_label_its_own_optimizer(partition):
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)
    labels = {"conv": "fine", "head": "coarse", "bias": "plain"}
    inner = {
        "fine": fg.fgsgd(0.1, spec, momentum=0.9),
        "coarse": fg.rsgd(0.3, spec),
        "plain": optax.sgd(0.5),
    }
    tx = partition(inner, labels)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(gradients, state, params)
    for path, label in labels.items():
        alone = inner[label]
        alone_state = alone.init(params)
        for _ in range(2):
            expected, alone_state = alone.update(gradients, alone_state, params)
        np.testing.assert_array_equal(updates[path], expected[path], err_msg=path)


def test_a_mask_leaves_the_other_gradients_as_they_are():
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)
    inner = fg.fgsgd(0.1, spec, momentum=0.9)
    tx = optax.masked(inner, {"conv": True, "head": False, "bias": False})
    updates, _ = tx.update(gradients, tx.init(params), params)
    expected, _ = inner.update(gradients, inner.init(params), params)
    assert_trees_equal(updates, {**gradients, "conv": expected["conv"]})


def test_masked_nodes_and_none_are_no_leaves():
    params, _ = mixed_problem()
    params = {"conv": params["conv"], "frozen": optax.MaskedNode(), "absent": None}
    spec = fg.collection(params)
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    updates, state = tx.update(random_like(params, seed=2), tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(optax.tree.get(state, "trace")) == jax.tree.structure(params)
    assert optax.apply_updates(params, updates)["absent"] is None


def test_a_weight_without_a_gradient_keeps_the_others_going():
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)
    tx = fg.fgsgd(0.1, spec)
    expected, _ = tx.update(gradients, tx.init(params), params)
    updates, _ = tx.update({**gradients, "head": None}, tx.init(params), params)
    assert_trees_equal(updates, {**expected, "head": None})


def with_nan(gradients):
    """The gradients with one NaN, in the component (1, 2) of the convolution."""
    return {**gradients, "conv": gradients["conv"].at[0, 1, 1, 2].set(jnp.nan)}


@pytest.mark.slow
@every_optimizer
def test_apply_if_finite_skips_a_step_with_a_nan(name):
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)
    inner = OPTIMIZERS[name](0.1, spec)
    tx = optax.apply_if_finite(inner, max_consecutive_errors=3)
    start, update = tx.init(params), jax.jit(tx.update)
    skipped, state = update(with_nan(gradients), start, params)
    assert_trees_equal(skipped, zeros(params))
    assert (int(state.notfinite_count), int(state.total_notfinite)) == (1, 1)
    assert_trees_equal(state.inner_state, start.inner_state)
    updates, state = update(gradients, state, params)
    assert int(state.notfinite_count) == 0
    assert_trees_close(updates, inner.update(gradients, inner.init(params), params)[0])


@pytest.mark.slow
@every_optimizer
@pytest.mark.parametrize("path", ZOO)
def test_a_nan_stays_a_nan_in_its_own_component(path, name):
    params, spec = zoo()
    gradients = random_like(params, seed=2)
    gradients[path] = gradients[path].at[0, 1, 1, 2].set(jnp.nan)
    tx = OPTIMIZERS[name](0.1, spec)
    updates, _ = tx.update(gradients, tx.init(params), params)
    assert np.isnan(updates[path][:, :, 1, 2]).any()
    if name.startswith("rsgd"):  # no group shares its step size with the component
        others = np.ones((2, 3), bool)
        others[1, 2] = False
        assert np.isfinite(np.asarray(updates[path])[:, :, others]).all()
    del updates[path]
    assert all(np.isfinite(leaf).all() for leaf in updates.values())


def test_euclidean_leaves_can_have_an_optimizer_of_their_own():
    params, spec = mixed_problem()
    gradients = random_like(params, seed=2)
    tx, plain = fg.fgsgd(0.1, spec, euclidean=optax.adam(0.01)), fg.fgsgd(0.1, spec)
    updates, state = tx.update(gradients, tx.init(params), params)
    # The first step of Adam is −r·g/(|g| + ε), whatever its decays; float32 keeps six digits.
    g = np.float64(gradients["bias"])
    np.testing.assert_allclose(updates["bias"], -0.01 * g / (np.abs(g) + 1e-8), rtol=1e-5)
    expected, _ = plain.update(gradients, plain.init(params), params)
    np.testing.assert_array_equal(updates["conv"], expected["conv"])
    np.testing.assert_array_equal(updates["head"], expected["head"])
    tx.update(gradients, state, params)


# --- short dtypes -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", [fg.fgsgd, fg.rsgd])
def test_injected_float32_hyperparameters_leave_short_weights_and_momentum_short(make):
    params, spec = mixed_problem("bfloat16")
    inject = optax.inject_hyperparams(make, hyperparam_dtype=jnp.float32)
    tx = inject(0.1, spec, momentum=0.9)
    state = tx.init(params)
    updates, after = tx.update(random_like(params, seed=2), state, params)
    assert after.hyperparams["momentum"] == np.float32(0.9)
    assert types_of(after) == types_of(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
@pytest.mark.parametrize("make", [fg.fgsgd, fg.rsgd])
def test_a_long_accumulator_gives_short_updates_to_short_weights(make):
    params, spec = mixed_problem("bfloat16")
    tx = make(0.1, spec, momentum=0.9, accumulator_dtype=jnp.float32)
    state = tx.init(params)
    updates, after = tx.update(random_like(params, seed=2), state, params)
    assert types_of(after) == types_of(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
def test_hyperparameters_keep_the_precision_of_float32_under_short_weights():
    # In bfloat16 a momentum of 0.999 is 1 and never decays, and a rate of 1.003 is 1.
    params, spec = mixed_problem("bfloat16")
    options = {"accumulator_dtype": jnp.float32, "euclidean": "sgd"}
    tx = fg.fgsgd(1.003, spec, momentum=0.999, **options)
    state = tx.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    _, state = tx.update(gradients, state, params)
    for _ in range(100):
        updates, state = tx.update(zeros(params), state, params)
    trace = optax.tree.get(state, "trace")["bias"]
    # 0.999¹⁰⁰ = 0.905, rounded a hundred times in float32: 1e-5; in bfloat16 it would be 1.
    np.testing.assert_allclose(trace, 0.999**100, rtol=1e-5)
    # The update is rounded once, to the 8 bits of a bfloat16.
    np.testing.assert_allclose(np.float64(updates["bias"]), -1.003 * 0.999**100, rtol=2**-9)


# --- laws of descent on manifolds ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("problem", [zoo, lambda: mixed_problem("bfloat16")], ids=["f32", "bf16"])
@every_optimizer
def test_zero_gradient_moves_nothing(name, problem):
    params, spec = problem()
    tx = OPTIMIZERS[name](0.1, spec)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(zeros(params), state, params)
        assert_trees_equal(updates, zeros(params))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-40], ids=["huge", "tiny", "denormal"])
@every_optimizer
def test_extreme_gradients_end_on_the_manifolds(name, scale):
    params, spec = zoo()
    tx = OPTIMIZERS[name](0.1, spec)
    state = tx.init(params)
    for seed in range(3):
        updates, state = tx.update(random_like(params, seed, scale), state, params)
        params = optax.apply_updates(params, updates)
        assert_on_manifolds(params, spec)  # NaN is not


@pytest.mark.slow
@pytest.mark.parametrize("curvature", [0.0, 1.0, 5.0])
def test_huge_gradients_end_on_the_manifolds_for_every_bound_of_the_curvature(curvature):
    params, spec = zoo()
    tx = fg.fgsgd(0.1, spec, curvature=curvature)
    updates, _ = tx.update(random_like(params, seed=2, scale=1e30), tx.init(params), params)
    assert_on_manifolds(optax.apply_updates(params, updates), spec)


GROUP_AXES = {"PI": 2, "PO": 3}


def one_weight(shape, pom, seed=0):
    params = {"w": jnp.ones(shape)}
    spec = fg.collection(params, ("w", pom))
    return fg.project(random_like(params, seed), spec), spec


@pytest.mark.slow
@pytest.mark.parametrize("side", [3, 4])
@pytest.mark.parametrize("manifold", MIXTURE, ids=str)
@pytest.mark.parametrize("scheme", GROUP_AXES)
def test_permuting_groups_permutes_updates(scheme, manifold, side):
    params, spec = one_weight((side, 3, 4, 5), fg.pom(scheme, manifold))
    axis = GROUP_AXES[scheme]
    order = np.random.default_rng(0).permutation(params["w"].shape[axis])
    tx = fg.fgsgd(1.0, spec, momentum=0.9)

    def two_updates(arrange):
        weights = arrange(params["w"])
        state, updates = tx.init({"w": weights}), []
        for seed in (1, 2):
            g = arrange(random_like(params, seed)["w"])
            update, state = tx.update({"w": g}, state, {"w": weights})
            updates.append(update["w"])
            weights = weights + update["w"]
        return updates

    permuted = two_updates(lambda leaf: jnp.take(leaf, order, axis=axis))
    for ours, plain in zip(permuted, two_updates(lambda leaf: leaf), strict=True):
        np.testing.assert_array_equal(ours, jnp.take(plain, order, axis=axis))


def group_numbers(spec, shape) -> np.ndarray:
    """The group of every component (C, D): drawn under PIO, else its channel."""
    layer = spec["w"]
    drawn = spec.groups().get("w")
    channels = np.indices(shape[2:])
    return np.asarray(drawn) if drawn is not None else channels[{"PI": 0, "PO": 1}[layer.scheme]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fgsgd with momentum", "rsgd"])
@pytest.mark.parametrize(
    ("side", "manifolds"),
    [(3, SPHERE), (3, OBLIQUE), (3, STIEFEL), (4, STIEFEL), (3, MIXTURE), (4, MIXTURE)],
    ids=["sphere", "oblique", "stiefel 3x3", "stiefel 4x3", "mixture 3x3", "mixture 4x3"],
)
@pytest.mark.parametrize("scheme", ["PI", "PO", "PIO"])
def test_freezing_a_group_changes_no_bit_of_the_others(scheme, side, manifolds, name):
    shape = (side, 3, 4, 5)
    params, spec = one_weight(shape, fg.pom(scheme, manifolds))
    frozen = group_numbers(spec, shape) == 1
    tx = OPTIMIZERS[name](2.0, spec)

    def two_updates(gradient):
        weights, state, updates = params, tx.init(params), []
        for _ in range(2):
            update, state = tx.update({"w": gradient}, state, weights)
            updates.append(np.asarray(update["w"]))
            weights = optax.apply_updates(weights, update)
        return np.stack(updates)

    # Long gradients are normalized. Of short ones the frozen group's are five times the others':
    # whatever is decided for all components at once by the longest step is decided otherwise.
    for scale, ratio in ((1.0, 1.0), (0.01, 5.0)):
        gradient = random_like(params, seed=1, scale=scale)["w"]
        gradient = gradient * jnp.where(frozen, ratio, 1.0)
        all_moving = two_updates(gradient)
        one_frozen = two_updates(jnp.where(frozen, 0.0, gradient))
        assert (all_moving[..., frozen] != 0).any()
        assert (one_frozen[..., frozen] == 0).all()
        np.testing.assert_array_equal(one_frozen[..., ~frozen], all_moving[..., ~frozen])


def reference_problem(dtype):
    """One weight of every type and of every way to group, their manifolds and their groups."""
    shape = (3, 3, 2, 3)
    poms = {
        "PIO": fg.pom("PIO", MIXTURE, groups=2),
        "PI": fg.pom("PI", SPHERE),
        "PO": fg.pom("PO", OBLIQUE),
        "layer": fg.pom("layer", STIEFEL),
        "kernel": fg.pom("kernel", STIEFEL),
    }
    params = {name: jnp.ones(shape, dtype) for name in poms}
    params["bias"] = jnp.ones(3, dtype)
    spec = fg.collection(params, *poms.items())
    inputs, outputs = np.indices(shape[2:])
    groups = {
        "PIO": np.asarray(spec.groups()["PIO"]),
        "PI": inputs,
        "PO": outputs,
        "layer": np.zeros((2, 3), int),
        "kernel": 3 * inputs + outputs,
    }
    names = {name: manifold_names(pom) for name, pom in poms.items()}
    return fg.project(random_like(params, seed=3), spec), spec, names, groups


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nesterov", [False, True], ids=["heavy ball", "nesterov"])
@pytest.mark.parametrize("optimizer", ["fgsgd", "rsgd", "normalized rsgd"])
def test_three_steps_with_momentum_follow_the_formulas(optimizer, nesterov, dtype):
    # Weights and momentum are of size 1 to 3; three steps round some ten times each.
    tolerance = 32 * float(jnp.finfo(dtype).eps)  # 3.8e-6 and 7.1e-15
    with precision(dtype):
        params, spec, names, groups = reference_problem(dtype)
        make = fg.fgsgd if optimizer == "fgsgd" else fg.rsgd
        if optimizer == "normalized rsgd":
            make = functools.partial(fg.rsgd, normalize=True)
            groups = dict.fromkeys(groups, groups["kernel"])
        rate, decay = 0.5, 0.9
        tx = make(rate, spec, momentum=decay, nesterov=nesterov)
        state = tx.init(params)
        gradients = [random_like(params, seed, scale=0.5) for seed in (4, 5, 6)]
        manifold_ids = {path: np.asarray(drawn) for path, drawn in spec.manifold_ids().items()}
        reference = {
            path: fgsgd_trajectory(
                to_slices(params[path]),
                [to_slices(g[path]) for g in gradients],
                names=names[path],
                manifold_ids=manifold_ids.get(path),
                groups=groups[path],
                rate=rate,
                decay=decay,
                nesterov=nesterov,
                normalize=optimizer != "rsgd",
            )
            for path in names
        }
        for g in gradients:
            given = params
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            trace = optax.tree.get(state, "trace")
            for path, steps in reference.items():
                _, momentum, after = next(steps)
                np.testing.assert_allclose(
                    trace[path], from_slices(momentum), rtol=0, atol=tolerance, err_msg=path
                )
                np.testing.assert_allclose(
                    params[path], from_slices(after), rtol=0, atol=tolerance, err_msg=path
                )
                off = by_kind(
                    normal_part,
                    names[path],
                    manifold_ids.get(path),
                    to_slices(given[path]),
                    to_slices(trace[path]),
                )
                assert off.max() <= tolerance, f"{path}: the momentum is not tangent, {off.max()}"


def test_two_momenta_give_different_trajectories():
    params, spec = mixed_problem()
    ends = []
    for momentum in (0.5, 0.9):
        tx, weights = fg.fgsgd(1.0, spec, momentum=momentum), params
        state = tx.init(weights)
        for seed in (2, 3):
            updates, state = tx.update(random_like(params, seed), state, weights)
            weights = optax.apply_updates(weights, updates)
        ends.append(weights)
    for path in params:  # steps are about 0.1 long; 1e-3 is far above rounding
        assert (np.abs(ends[0][path] - ends[1][path]) > 1e-3).any(), path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fgsgd with momentum", "rsgd"])
def test_finds_the_nearest_point_of_every_manifold(name):
    # ½‖x − a‖² has its only minimum within reach at the nearest point to a, known in NumPy. With a
    # = 1.5·(start + tangent vector) its singular values are at least 1.5, so the problem is well
    # conditioned and the nearest point in the same component of O(3) as the start.
    names = ("sphere", "oblique", "stiefel", "stiefel tall", "mixture")
    params, spec = zoo(names=names)
    manifold_ids = {path: np.asarray(drawn) for path, drawn in spec.manifold_ids().items()}
    targets, expected = {}, {}
    for path, noise in random_like(params, seed=7, scale=0.5).items():
        types, x = manifold_names(ZOO[path][1]), to_slices(params[path])
        target = 1.5 * (x + by_kind(tangent, types, manifold_ids.get(path), x, to_slices(noise)))
        expected[path] = from_slices(by_kind(nearest, types, manifold_ids.get(path), target))
        targets[path] = jnp.asarray(from_slices(target), jnp.float32)

    def loss(params):
        # The penalty is flat along the manifolds and steep across them (its value on them does not
        # matter), so a gradient that is not projected would throw the weights far away.
        distances = jax.tree.map(lambda w, a: 0.5 * jnp.sum((w - a) ** 2), params, targets)
        penalties = jax.tree.map(lambda w: 100 * jnp.sum(w**2), params)
        return jax.tree.reduce(jnp.add, (distances, penalties))

    tx = OPTIMIZERS[name](0.1, spec)

    def step(_, carry):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, _ = jax.jit(lambda *carry: jax.lax.fori_loop(0, 1_000, step, carry))(
        params, tx.init(params)
    )
    for path, weight in params.items():
        # The penalty's gradient, 200·x, rounds by 1e-5, of which the projection leaves a tenth of
        # that in tangent directions; at the curvature 1 the minimum is found as well as that.
        np.testing.assert_allclose(weight, expected[path], rtol=0, atol=1e-5, err_msg=path)


# --- one compilation for leaves that are alike ----------------------------------------------------

TRACES = collections.Counter()


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CountedSphere(fg.Sphere):
    """A sphere that counts how often its verbs are traced."""

    def to_tangent(self, x, g, /):
        TRACES["to_tangent"] += 1
        return super().to_tangent(x, g)

    def retract(self, x, v, /):
        TRACES["retract"] += 1
        return super().retract(x, v)


def test_leaves_that_are_alike_are_traced_once():
    # Shapes that no other test has, so that nothing is cached: 30 leaves of one, 5 of another.
    shapes = [(3, 2, 3, 2)] * 30 + [(2, 3, 3, 2)] * 5
    params = {f"conv{i:02}": jnp.ones(shape) for i, shape in enumerate(shapes)}
    spec = fg.collection(params, default=fg.pom("PO", CountedSphere()))
    params = fg.project(params, spec)
    TRACES.clear()
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    jax.jit(tx.update).lower(params, tx.init(params), params)
    # For each of the two shapes; gradients and the momentum are projected by links of their own.
    assert TRACES == {"to_tangent": 2 * 2, "retract": 2}


@pytest.mark.slow
def test_eager_updates_compile_once_for_leaves_that_are_alike():
    params = {f"conv{i:02}": jnp.ones((2, 2, 3, 2)) for i in range(30)}
    spec = fg.collection(params, default=fg.pom("PI", SPHERE))
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec)
    state = tx.init(params)
    with compilations() as compiled:
        tx.update(params, state, params)
    counts = collections.Counter(compiled)
    assert counts["jit(_step)"] == 1, counts


# --- drift --------------------------------------------------------------------------------------

DRIFTING = ("sphere", "oblique", "stiefel", "stiefel tall", "mixture")


@functools.cache
def after_many_steps(dtype, names=DRIFTING, steps=10_000):
    """The weights after random steps as long as FG-SGD takes them, in one loop."""
    params, spec = zoo(dtype, names)
    tx, key = fg.fgsgd(1.0, spec, momentum=0.9), jax.random.key(0)

    def step(i, carry):
        params, state = carry
        gradients = {
            name: jax.random.normal(jax.random.fold_in(key, i), weight.shape, weight.dtype)
            for name, weight in params.items()
        }
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, _ = jax.jit(lambda *carry: jax.lax.fori_loop(0, steps, step, carry))(
        params, tx.init(params)
    )
    return params, spec


@pytest.mark.slow
def test_ten_thousand_steps_do_not_leave_the_manifolds():
    params, spec = after_many_steps("float32", tuple(ZOO))
    start, _ = zoo("float32", tuple(ZOO))
    off = zoo_residuals(params, spec)
    for name, distance in off.items():
        assert (np.abs(params[name] - start[name]) > 0.1).any(), f"{name} did not move"
        assert distance <= 1e-6, off


# u is the unit roundoff: adding an update rounds it and the sum, each entry by u relative. So a
# column of norm 1 misses its norm by u·(1 + ‖step‖), at most 1.42·u: stated as 2u.
UNIT_COLUMN = {"bfloat16": 2**-8, "float16": 2 * 2**-10}
UNIT_ROUNDOFF = {"bfloat16": 2**-9, "float16": 2**-11}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", UNIT_COLUMN)
def test_ten_thousand_steps_in_a_short_dtype_stay_within_its_resolution(dtype):
    params, spec = after_many_steps(dtype)
    off = zoo_residuals(params, spec)
    manifold_ids = np.asarray(spec.manifold_ids()["mixture"])
    mixed = by_kind(
        residual, ("sphere", "oblique", "stiefel"), manifold_ids, to_slices(params["mixture"])
    )
    unit_columns = {
        "sphere": off["sphere"],
        "oblique": off["oblique"],
        "columns of stiefel": residual("oblique", to_slices(params["stiefel"])).max(),
        "columns of stiefel tall": residual("oblique", to_slices(params["stiefel tall"])).max(),
        "mixture": mixed[manifold_ids < 2].max(),
    }
    assert all(distance <= UNIT_COLUMN[dtype] for distance in unit_columns.values()), unit_columns
    # ‖(x+δ)ᵀ(x+δ) − 1‖ ≤ 2‖δ‖ to first order, and δ is the rounding of three columns.
    bound = 2 * np.sqrt(3) * 1.42 * UNIT_ROUNDOFF[dtype]
    stiefel = {
        "stiefel": off["stiefel"],
        "stiefel tall": off["stiefel tall"],
        "mixture": mixed[manifold_ids == 2].max(),
    }
    assert all(distance <= bound for distance in stiefel.values()), (stiefel, bound)
