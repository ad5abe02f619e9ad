"""Path-SGD commutes with rescalings of hidden units; and what happens at the edges of floats."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fgsgd_jax as fg

INPUTS, HIDDEN, OUTPUTS = 4, (6, 5), 2
RATE = 0.02


def network(params, x):
    x = jax.nn.relu(x @ params["a"] + params["b"])
    x = jax.nn.relu(x @ params["c"] + params["d"])
    return x @ params["e"] + params["f"]


def start(dtype, seed=0):
    generator = np.random.default_rng(seed)
    first, second = HIDDEN
    shapes = {
        "a": (INPUTS, first), "b": (first,), "c": (first, second), "d": (second,),
        "e": (second, OUTPUTS), "f": (OUTPUTS,),
    }  # fmt: skip
    return {key: jnp.asarray(generator.normal(size=shape), dtype) for key, shape in shapes.items()}


def rescaled(params, factors):
    """Weights into a unit times its factor, weights out of it over it; in NumPy's float64."""
    wide = {key: np.asarray(value, np.float64) for key, value in params.items()}
    first, second = factors
    changed = {
        "a": wide["a"] * first,
        "b": wide["b"] * first,
        "c": wide["c"] * second / first[:, None],
        "d": wide["d"] * second,
        "e": wide["e"] / second[:, None],
        "f": wide["f"],
    }
    return {key: jnp.asarray(value, params[key].dtype) for key, value in changed.items()}


def random_factors(seed=1):
    generator = np.random.default_rng(seed)
    return [10 ** generator.uniform(-3, 3, size) for size in HIDDEN]


@functools.cache
def step_of(tx):
    """A step on a small regression, compiled once for all starts."""

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            return jnp.mean((network(params, x) - y) ** 2)

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step


def after_steps(tx, params, steps=10):
    """Ten steps, on data drawn anew at each step."""
    generator = np.random.default_rng(2)
    dtype = params["a"].dtype
    step, state = step_of(tx), tx.init(params)
    for _ in range(steps):
        x = jnp.asarray(generator.normal(size=(8, INPUTS)), dtype)
        y = jnp.asarray(generator.normal(size=(8, OUTPUTS)), dtype)
        params, state = step(params, state, x, y)
    return params


def largest_difference(params, others):
    """The largest difference of a leaf, in its own norm, unit by unit."""
    differences = []
    for key in params:
        one, other = (np.asarray(tree[key], np.float64) for tree in (params, others))
        differences.append(np.max(np.abs(one - other) / np.linalg.norm(other, axis=0)))
    return max(differences)


def disagreement(tx, dtype):
    """How far ten steps and a rescaling are from the rescaling and ten steps."""
    params, factors = start(dtype), random_factors()
    one = after_steps(tx, rescaled(params, factors))
    other = after_steps(tx, params)
    # Compared where units have their usual size, as differences of all units count alike there.
    back = [1 / factor for factor in factors]
    moved = largest_difference(other, params)
    assert moved > 1e-2, "the steps do something"
    return largest_difference(rescaled(one, back), other)


PATH = functools.partial(fg.path_sgd, RATE, network, (INPUTS,))

INVARIANT = {
    "p = 1": PATH(1),
    "p = 1.5": PATH(1.5),
    "p = 2": PATH(2),
    "p = 2, with exponents": PATH(2, extended_range=True),
    "p = 3": PATH(3),
    "momentum": PATH(momentum=0.9),
    "Nesterov": PATH(momentum=0.9, nesterov=True),
    "decoupled decay": PATH(momentum=0.9, weight_decay=0.01),
}


IN_FLOAT32 = ("p = 2", "p = 2, with exponents", "momentum")


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [(name, "float64", 1e-8) for name in INVARIANT]
    + [(name, "float32", 1e-3) for name in IN_FLOAT32],
)
def test_ten_steps_commute_with_rescalings(name, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        assert disagreement(INVARIANT[name], dtype) < tolerance


def test_rescalings_by_powers_of_two_change_no_bit():
    """So what else float32 loses of the invariance is rounding, and no term that is dropped."""
    generator = np.random.default_rng(1)
    factors = [2.0 ** generator.integers(-20, 20, size) for size in HIDDEN]
    params = start("float32")
    one = after_steps(INVARIANT["p = 2"], rescaled(params, factors))
    other = rescaled(after_steps(INVARIANT["p = 2"], params), factors)
    assert_array_equal(numbers(one), numbers(other))


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize(
    "tx",
    [
        optax.sgd(1e-7),
        optax.adam(RATE),
        optax.chain(fg.scale_by_path(network, (INPUTS,)), optax.adam(RATE)),
        optax.chain(optax.add_decayed_weights(0.1), PATH()),
    ],
    ids=["SGD", "Adam", "Adam behind path scaling", "L2 decay"],
)
def test_others_do_not_commute_with_rescalings(tx):
    """The same test, failed: so it can fail. SGD at a rate so small that it does not blow up."""
    with jax.enable_x64(True):
        params, factors = start("float64"), random_factors()
        one = rescaled(after_steps(tx, rescaled(params, factors)), [1 / f for f in factors])
        assert not largest_difference(one, after_steps(tx, params)) < 1e-3


# --- the edges of floats -------------------------------------------------------------------------


@functools.cache
def update_of(options):
    tx = fg.path_sgd(1.0, network, (INPUTS,), **dict(options))
    return jax.jit(lambda gradient, params: tx.update(gradient, tx.init(params), params)[0])


def one_step(params, gradient, **options):
    """One update, compiled once for each set of options."""
    return update_of(tuple(options.items()))(gradient, params)


def numbers(tree):
    return np.concatenate(
        [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)]
    )


EXTREME = {
    "one unit up": ([1e15, 1, 1, 1, 1, 1], [1] * 5),
    "one unit down": ([1e-15, 1, 1, 1, 1, 1], [1] * 5),
    "a layer up": ([1e15] * 6, [1] * 5),
    "up and down": ([1e15, 1e-15, 1, 1, 1, 1], [1, 1e-15, 1, 1e15, 1]),
}


# A weight of 1e-30 between a unit that is up and one that is down has no square in float32.
@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize(
    ("name", "p", "extended_range"),
    [(name, p, wide) for name in EXTREME for p, wide in ((2, None), (2, True), (3, None))],
)
def test_units_with_kappa_of_1e30(name, p, extended_range):
    """In float32. κ of the weights around a unit goes with the square of its factor."""
    factors = [np.array(parts, np.float64) for parts in EXTREME[name]]
    params = start("float32")
    gradient = start("float32", seed=3)
    inverse = [1 / factor for factor in factors]
    expected = rescaled(one_step(params, gradient, p=p), factors)
    updates = one_step(
        rescaled(params, factors), rescaled(gradient, inverse), p=p, extended_range=extended_range
    )
    for key in params:
        assert_allclose(updates[key], expected[key], rtol=1e-4, err_msg=key)


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_weights_of_zero_where_units_up_and_down_meet(p):
    """Their κ is 1e±60, more than a float32."""
    factors = [np.array(parts, np.float64) for parts in EXTREME["up and down"]]
    params, gradient = start("float32"), start("float32", seed=3)
    params = {**params, "b": jnp.zeros(6), "c": params["c"].at[[0, 1], [1, 3]].set(0)}
    expected = rescaled(one_step(params, gradient, p=p), factors)
    inverse = [1 / factor for factor in factors]
    updates = one_step(rescaled(params, factors), rescaled(gradient, inverse), p=p)
    for key in params:
        assert_allclose(updates[key], expected[key], rtol=1e-4, err_msg=key)


def test_channels_up_and_down():
    """Of convolutions, and of a kernel that is kept in another shape."""

    def maps(params, x):
        for kernel in (params["a"], params["c"].reshape(3, 3, 2, 2)):
            x = jax.lax.conv(x, kernel, (1, 1), "VALID")
        return x.sum((2, 3)) @ params["e"]

    shapes = {"a": (3, 2, 2, 2), "c": (3, 12), "e": (3, 2)}
    generator = np.random.default_rng(0)
    params, gradient = (
        {key: generator.normal(size=shape) for key, shape in shapes.items()} for _ in range(2)
    )
    first, second = np.array([1e15, 1e-15, 1]), np.array([1, 1e-15, 1e15])
    factors = {
        "a": first[:, None, None, None],
        "c": second[:, None] / np.repeat(first, 4),
        "e": 1 / second[:, None],
    }
    tx = fg.scale_by_path(maps, (2, 4, 4))

    def updates(params, gradient):
        params, gradient = (
            {key: jnp.asarray(leaf, "float32") for key, leaf in tree.items()}
            for tree in (params, gradient)
        )
        return tx.update(gradient, tx.init(params), params)[0]

    usual = updates(params, gradient)
    scaled = updates(
        {key: params[key] * factors[key] for key in params},
        {key: gradient[key] / factors[key] for key in params},
    )
    for key in params:
        assert_allclose(scaled[key] / factors[key], usual[key], rtol=1e-4, err_msg=key)


@pytest.mark.parametrize("factor", [1e25, 1e-25])
def test_units_out_of_range_are_nan_and_not_a_wrong_number(factor):
    factors = [np.array([factor, 1, 1, 1, 1, 1]), np.ones(5)]
    params = rescaled(start("float32"), factors)
    gradient = rescaled(start("float32", seed=3), [1 / each for each in factors])
    updates = one_step(params, gradient)
    assert np.isnan(updates["a"][:, 0]).all()
    updates = one_step(params, gradient, extended_range=True)
    expected = one_step(start("float32"), start("float32", seed=3))
    assert_allclose(updates["a"][:, 0] / factor, expected["a"][:, 0], rtol=1e-4)


def test_kappa_spans_more_than_sixty_powers_of_ten():
    factors = [np.array([1e15, 1e-15, 1, 1, 1, 1]), np.ones(5)]
    scales = fg.path_scales(network, rescaled(start("float32"), factors), (INPUTS,))
    usual = fg.path_scales(network, start("float32"), (INPUTS,))
    assert_allclose(scales["b"][0] / usual["b"][0], 1e-30, rtol=1e-4)
    assert_allclose(scales["b"][1] / usual["b"][1], 1e30, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"extended_range": True}])
def test_dead_units_and_zero_layers_are_no_nan(options):
    params, gradient = start("float32"), start("float32", seed=3)
    no_way_out = {**params, "c": params["c"].at[2].set(0)}  # of the third unit of the first layer
    updates = one_step(no_way_out, gradient, **options)
    assert np.isfinite(numbers(updates)).all()
    assert np.all(updates["a"][:, 2] == 0)
    assert updates["b"][2] == 0
    assert np.all(updates["a"][:, :2] != 0)
    # A zero layer at the end: paths lead into it, so it learns, and nothing before it does.
    updates = one_step({**params, "e": jnp.zeros_like(params["e"])}, gradient, **options)
    assert np.isfinite(numbers(updates)).all()
    assert np.all(updates["e"] != 0)
    assert not np.any(updates["a"])
    assert not np.any(updates["c"])
    # All zero: only the last biases are on a path that is alive, of their own.
    updates = one_step(jax.tree.map(jnp.zeros_like, params), gradient, **options)
    assert_allclose(updates["f"], -gradient["f"], rtol=1e-6)
    assert not np.any(numbers({key: updates[key] for key in "abcde"}))


@pytest.mark.slow
def test_zero_weights_that_are_alive_have_the_kappa_of_their_paths():
    """Against small ones in their place, which change nothing for themselves."""
    params = start("float32")
    zeros = {**params, "b": jnp.zeros(6), "c": params["c"].at[0, 1].set(0)}
    tiny = {**params, "b": jnp.full(6, 1e-9), "c": params["c"].at[0, 1].set(1e-9)}
    gradient = start("float32", seed=3)
    for options in ({}, {"extended_range": True}, {"p": 3}):
        one, other = (one_step(each, gradient, **options) for each in (zeros, tiny))
        for key in params:
            assert_allclose(one[key], other[key], rtol=1e-5, err_msg=key)


def test_too_many_paths_for_floats_are_nan_and_not_a_wrong_number():
    def deep(params, x):
        for _ in range(4):
            x = jax.nn.relu(x @ params)
        return x

    params = jnp.full((100, 100), 1e8)  # of 1e10 paths, each of 1e32
    tx = fg.scale_by_path(deep, (100,), 1)
    assert np.isnan(tx.update(params, tx.init(params), params)[0]).all()
    tx = fg.scale_by_path(deep, (100,), 1, extended_range=True)
    assert not np.any(tx.update(params, tx.init(params), params)[0])  # over κ = 1e60 and more


def test_nan_stays_nan_and_zero_stays_zero():
    params, gradient = start("float32"), start("float32", seed=3)
    gradient["a"] = gradient["a"].at[0, 0].set(jnp.nan).at[1, 1].set(0)
    for options in ({}, {"extended_range": True}):
        updates = one_step(params, gradient, **options)
        assert np.isnan(updates["a"][0, 0])
        assert updates["a"][1, 1] == 0
        assert np.isnan(numbers(updates)).sum() == 1
        dead = {**params, "e": jnp.zeros_like(params["e"])}
        assert np.isnan(one_step(dead, gradient, **options)["a"][0, 0])


@pytest.mark.slow
def test_the_penalty_has_a_finite_gradient_everywhere():
    zeros = jax.tree.map(jnp.zeros_like, start("float32"))
    for p in (1, 2, 3):
        gradient = jax.jit(jax.grad(lambda w, p=p: fg.path_norm(network, w, (INPUTS,), p)))(zeros)
        assert not np.any(numbers(gradient))
