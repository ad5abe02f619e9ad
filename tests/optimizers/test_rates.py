"""Rates that are negative, as numbers, arrays or from schedules; schedules that give no number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from tests.optimizers.test_arguments import BOTH, GRADIENT, PARAMS, SPEC, first_update

FALLING = optax.linear_schedule(0.1, -0.1, 2)
SCHEDULES = {
    "fgsgd": ("learning_rate", lambda schedule: fg.fgsgd(schedule, SPEC)),
    "rsgd": ("learning_rate", lambda schedule: fg.rsgd(schedule, SPEC, momentum=0.9)),
    "inside a chain": (
        "learning_rate",
        lambda schedule: optax.chain(optax.clip_by_global_norm(1.0), fg.fgsgd(schedule, SPEC)),
    ),
    "own Euclidean leaves": (
        "learning_rate",
        lambda schedule: fg.fgsgd(schedule, SPEC, euclidean=optax.adamw(1e-3)),
    ),
    "riemannian_adam": ("learning_rate", lambda schedule: fg.riemannian_adam(schedule, SPEC)),
    "on_manifold": (
        "relative_step",
        lambda schedule: fg.on_manifold(optax.sgd(1.0), SPEC, relative_step=schedule),
    ),
    "decay": ("weight_decay", lambda schedule: fg.fgsgd(0.1, SPEC, weight_decay=schedule)),
}


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_becomes_negative_is_refused_at_the_step_where_it_does(name):
    argument, make = SCHEDULES[name]
    tx = make(FALLING)
    state = tx.init(PARAMS)
    for _ in range(2):  # 0.1 and 0
        _, state = tx.update(GRADIENT, state, PARAMS)
    with pytest.raises(ValueError, match=rf"{argument} must be .*gives -0\.1 after 2 steps"):
        tx.update(GRADIENT, state, PARAMS)


@BOTH
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), np.float32(-0.1)])
def test_a_schedule_may_give_what_a_constant_may_and_nothing_else(optimizer, value):
    tx = optimizer(lambda count: value, SPEC)
    with pytest.raises(ValueError, match=rf"the schedule gives {value:g} after 0 steps"):
        first_update(tx)


@BOTH
def test_a_constant_schedule_in_a_jitted_function_is_refused_without_naming_a_step(optimizer):
    tx = optimizer(lambda count: -1.0, SPEC)
    with pytest.raises(ValueError, match=r"the schedule gives -1\. Give one"):
        jax.jit(tx.update)(GRADIENT, tx.init(PARAMS), PARAMS)


def test_a_schedule_in_a_jitted_function_is_taken_as_it_is():
    tx = fg.rsgd(lambda count: -0.1 + 0.0 * count, SPEC)
    steps, _ = jax.jit(tx.update)(GRADIENT, tx.init(PARAMS), PARAMS)
    assert np.isfinite(steps["w"]).all()


ARRAYS = [jnp.asarray(-0.1), jnp.asarray(-1, jnp.int32), np.asarray(-0.1), jnp.bfloat16(-0.5)]


@pytest.mark.parametrize("make", [fg.fgsgd, fg.rsgd, fg.riemannian_adam, fg.manifold_muon, fg.rdog])
@pytest.mark.parametrize("rate", ARRAYS, ids=lambda rate: str(rate.dtype))
def test_a_negative_rate_in_an_array_is_refused_as_a_number_is(make, rate):
    with pytest.raises(
        ValueError, match=r"learning_rate must be .*To ascend.*optax\.scale\(-1\.0\)"
    ):
        make(learning_rate=rate, spec=SPEC)


def test_gradients_that_are_turned_around_ascend():
    tx = optax.chain(optax.scale(-1.0), fg.rsgd(0.1, SPEC))
    moved = np.asarray(PARAMS["w"] + first_update(tx)["w"], np.float64)
    # x + 0.1·P(g) of every 3×3 slice, divided by its norm.
    x, g = (np.asarray(tree["w"], np.float64) for tree in (PARAMS, GRADIENT))
    ahead = x + 0.1 * (g - x * np.sum(x * g, (0, 1)))
    np.testing.assert_allclose(moved, ahead / np.linalg.norm(ahead, axis=(0, 1)), atol=1e-6)
    assert np.sum(moved * g) > np.sum(x * g)


NO_NUMBERS = {
    "text": ("0.1", r"'0\.1'"),
    "None": (None, "None"),
    "an optimizer": (optax.sgd(0.1), "GradientTransformation"),
    "an array": (jnp.ones(2), r"an array of shape \(2,\)"),
    "complex": (jnp.asarray(0.1j), "Array"),
    "a truth": (True, "True"),
}


@pytest.mark.sweep(fast=6)
@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_gives_no_number_is_named_also_in_a_jitted_function(name, value):
    argument, make = SCHEDULES[name]
    given, said = NO_NUMBERS[value]
    tx = make(lambda count: given)
    message = rf"{argument} must be a number, but the schedule gives {said}.*returns a number"
    with pytest.raises(TypeError, match=message):
        first_update(tx)
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(tx.update, GRADIENT, jax.eval_shape(tx.init, PARAMS), PARAMS)


@pytest.mark.parametrize("name", ["rho", "curvature"])
def test_schedules_and_functions_of_the_group_that_give_no_number_are_named(name):
    of_group = fg.per_group(lambda group: None)
    for number, message in (
        (lambda count: "1", f"{name} must be a number, but the schedule gives '1'"),
        (of_group, f"{name} of 'w' must be a number, got None"),
    ):
        with pytest.raises(TypeError, match=message):
            first_update(fg.fgsgd(0.1, SPEC, **{name: number}))
    with pytest.raises(TypeError, match=rf"{name} must be .* got an array of shape \(2,\)"):
        fg.fgsgd(0.1, SPEC, **{name: jnp.ones(2)})


def test_a_rho_that_becomes_negative_is_refused_where_its_value_is_known():
    tx = fg.fgsgd(0.1, SPEC, rho=lambda count: -1.0)
    with pytest.raises(ValueError, match=r"rho must be .*at least 0, but the schedule gives -1"):
        first_update(tx)
    tx = fg.fgsgd(0.1, SPEC, rho=fg.per_group(lambda group: -1.0))
    with pytest.raises(ValueError, match=r"rho of 'w' must be .*at least 0, got -1"):
        first_update(tx)


def test_an_array_of_rates_is_refused():
    params = {"w": jnp.eye(4, 2)}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
    with pytest.raises(TypeError, match=r"learning_rate must be .* got an array of shape \(2,\)"):
        fg.fgsgd(jnp.ones(2), spec)


@pytest.mark.parametrize("argument", ["learning_rate", "weight_decay"])
def test_schedules_of_path_sgd_are_checked_as_well(argument):
    params = {"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}
    gradient = jax.tree.map(jnp.ones_like, params)
    network = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]  # noqa: E731
    for given, error, said in ((-0.1, ValueError, r"gives -0\.1"), (None, TypeError, "gives None")):
        numbers = {"learning_rate": 0.1, argument: lambda count, given=given: given}
        tx = fg.path_sgd(apply_fn=network, input_shape=(3,), **numbers)
        with pytest.raises(error, match=f"{argument} must be .*the schedule {said} after 0 steps"):
            tx.update(gradient, tx.init(params), params)
