"""`path_sgd` among Optax's tools, and what it says to those who use it wrongly."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import fgsgd_jax as fg
from fgsgd_jax.pathsgd import _optimizer

SHAPE = (3,)


def network(params, x):
    return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


def start(dtype="float32"):
    generator = np.random.default_rng(0)
    shapes = {"in": (3, 4), "bias": (4,), "out": (4, 2)}
    return {key: jnp.asarray(generator.normal(size=shape), dtype) for key, shape in shapes.items()}


GRADIENT = jax.tree.map(lambda w: jnp.cos(w), start())


def trees_equal(one, other):
    jax.tree.map(assert_array_equal, one, other)


def test_the_chain_is_what_the_docstring_says():
    params = start()
    tx = fg.path_sgd(0.1, network, SHAPE, momentum=0.9, weight_decay=0.01)
    chain = optax.chain(
        fg.scale_by_path(network, SHAPE),
        optax.trace(0.9),
        optax.add_decayed_weights(0.01),
        optax.scale_by_learning_rate(0.1),
    )
    states = [each.init(params) for each in (tx, chain)]
    for _ in range(3):
        updates, states[0] = tx.update(GRADIENT, states[0], params)
        others, states[1] = chain.update(GRADIENT, states[1], params)
        trees_equal(updates, others)
        params = optax.apply_updates(params, updates)


def test_jit_and_unexpected_arguments_change_nothing():
    params = start()
    tx = fg.path_sgd(0.1, network, SHAPE, momentum=0.9)
    state = tx.init(params)
    plain, _ = tx.update(GRADIENT, state, params)
    jitted, _ = jax.jit(tx.update)(GRADIENT, state, params)
    extra, _ = tx.update(GRADIENT, state, params, loss=1.0, surprise="x")
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-6), plain, jitted)
    trees_equal(plain, extra)


@pytest.mark.slow
def test_a_schedule_and_an_injected_rate():
    params = start()
    plain = fg.path_sgd(0.1, network, SHAPE)
    expected, _ = plain.update(GRADIENT, plain.init(params), params)
    inject = optax.inject_hyperparams(fg.path_sgd, static_args=("apply_fn",))
    injected = inject(0.1, apply_fn=network, input_shape=SHAPE)
    scheduled = fg.path_sgd(optax.constant_schedule(0.1), network, SHAPE)
    for tx in (injected, scheduled):
        updates, _ = jax.jit(tx.update)(GRADIENT, tx.init(params), params)
        jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5), updates, expected)
    with_p = optax.inject_hyperparams(fg.path_sgd, static_args=("apply_fn", "p"))
    tx = with_p(0.1, apply_fn=network, input_shape=SHAPE, p=2, momentum=0.9)
    updates, state = tx.update(GRADIENT, tx.init(params), params)
    trees_equal(updates, expected)
    assert float(state.hyperparams["momentum"]) == pytest.approx(0.9)


def test_multi_steps_wait_and_then_step():
    params = start()
    plain = fg.path_sgd(0.1, network, SHAPE)
    expected, _ = plain.update(GRADIENT, plain.init(params), params)
    tx = optax.MultiSteps(plain, 2)
    first, state = tx.update(GRADIENT, tx.init(params), params)
    second, _ = tx.update(GRADIENT, state, params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(first))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5), second, expected)


def test_apply_if_finite_sees_nan():
    params = start()
    tx = optax.apply_if_finite(fg.path_sgd(0.1, network, SHAPE), 3)
    bad = {**GRADIENT, "in": GRADIENT["in"].at[0, 0].set(jnp.nan)}
    updates, state = tx.update(bad, tx.init(params), params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates))
    assert int(state.total_notfinite) == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_have_kappa_in_float32(dtype):
    params = start(dtype)
    scales = fg.path_scales(network, params, SHAPE)
    wide = fg.path_scales(network, jax.tree.map(lambda w: w.astype("float32"), params), SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(scales)} == {jnp.dtype("float32")}
    trees_equal(scales, wide)
    tx = fg.path_sgd(0.1, network, SHAPE, momentum=0.9)
    gradient = jax.tree.map(lambda g: g.astype(dtype), GRADIENT)
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


def test_a_network_that_casts_by_itself_has_the_kappa_of_one_that_does_not():
    def casting(params, x):
        half = {key: value.astype("bfloat16") for key, value in params.items()}
        return network(half, x.astype("bfloat16")).astype("float32")

    trees_equal(fg.path_scales(casting, start(), SHAPE), fg.path_scales(network, start(), SHAPE))


def test_shapes_are_enough_for_init_and_states_keep_their_types():
    params = start()
    tx = fg.path_sgd(0.1, network, SHAPE, momentum=0.9)
    shapes = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), params)
    state = jax.eval_shape(tx.init, shapes)
    fg.path_sgd(0.1, network, SHAPE).init(shapes)
    after = jax.eval_shape(tx.update, params, state, params)[1]
    assert jax.tree.map(lambda s: (s.shape, s.dtype), state) == jax.tree.map(
        lambda s: (s.shape, s.dtype), after
    )
    mapped = optax.tree.map_params(tx, lambda leaf: leaf + 1, tx.init(params))
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(mapped))


def test_a_second_update_compiles_nothing():
    params = start()
    traced = []

    def counting(params, x):
        traced.append(1)
        return network(params, x)

    tx = fg.path_sgd(0.1, counting, SHAPE)
    state = tx.init(params)
    tx.update(GRADIENT, state, params)
    before = len(traced)
    tx.update(GRADIENT, state, jax.tree.map(lambda w: 2 * w, params))
    assert len(traced) == before


def test_a_step_in_place_copies_no_large_weight(monkeypatch):
    """As XLA's CPU compiler does in a step of SGD, for it cannot tell the last reader."""
    monkeypatch.setattr(_optimizer, "LARGE_SIZE", 1)
    side = 128
    params = [jnp.eye(side), jnp.eye(side), jnp.ones((side, 2))]

    def deep(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params[0]) @ params[1]) @ params[2]

    tx = fg.path_sgd(0.1, deep, (side,))

    def step(params, x):
        gradient = jax.grad(lambda params: deep(params, x).sum())(params)
        updates, _ = tx.update(gradient, tx.init(params), params)
        return optax.apply_updates(params, updates)

    compiled = jax.jit(step, donate_argnums=0).lower(params, jnp.ones((4, side))).compile()
    assert "f32[128,128]" in compiled.as_text()
    assert re.findall(r"f32\[128,128\]\S* copy\(%param", compiled.as_text()) == []


def test_leaves_that_are_no_floats_pass():
    def counted(params, x):
        return network(params, x) * params["times"]

    params = {**start(), "times": jnp.asarray(3), "nothing": None}
    scales = fg.path_scales(counted, params, SHAPE)
    assert scales["nothing"] is None
    assert_allclose(scales["in"], 9 * fg.path_scales(network, start(), SHAPE)["in"], rtol=1e-6)
    tx = fg.path_sgd(0.1, counted, SHAPE)
    gradient = {**GRADIENT, "times": jnp.asarray(0), "nothing": None}
    updates, _ = tx.update(gradient, tx.init(params), params)
    assert updates["nothing"] is None


@pytest.mark.slow
def test_other_scales_can_be_given():
    """The hook for data-dependent κ: here, that of a batch of extra arguments."""
    params = start()

    def scales(params, *, factor, **_):
        return jax.tree.map(lambda w: jnp.full(w.shape, factor), params)

    tx = fg.scale_by_path(network, SHAPE, scales=scales)
    updates, _ = tx.update(GRADIENT, tx.init(params), params, factor=4.0)
    jax.tree.map(lambda u, g: assert_allclose(u, g / 4, rtol=1e-6), updates, GRADIENT)


def test_a_power_of_weights_is_divided_alike_with_and_without_extended_range():
    def squared(params, x):
        return jnp.maximum(x @ params["in"] ** 2, 0) @ params["out"]

    params = start()
    gradient = jax.tree.map(jnp.ones_like, params)
    updates = []
    for extended_range in (False, True):
        link = fg.scale_by_path(squared, SHAPE, extended_range=extended_range)
        updates.append(link.update(gradient, link.init(params), params)[0])
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-5), *updates)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["partition", "masked"])
def test_inside_partition_and_masked_it_says_to_be_put_outermost(wrap):
    params, tx = start(), fg.path_sgd(0.1, network, SHAPE)
    labels = {"in": "path", "bias": "rest", "out": "path"}
    if wrap == "partition":
        wrapped = optax.partition({"path": tx, "rest": optax.sgd(0.1)}, labels)
    else:
        wrapped = optax.masked(tx, jax.tree.map(lambda label: label == "path", labels))
    with pytest.raises(ValueError, match=r"'bias' is masked out.*outermost"):
        wrapped.init(params)


def test_missing_params_are_told():
    tx = fg.path_sgd(0.1, network, SHAPE)
    with pytest.raises(ValueError, match=r"paths run over the present weights"):
        tx.update(GRADIENT, tx.init(start()))


def test_the_gradient_of_other_params_is_told():
    tx = fg.path_sgd(0.1, network, SHAPE)
    with pytest.raises(ValueError, match="different shapes"):
        tx.update({**GRADIENT, "bias": jnp.ones(5)}, tx.init(start()), start())


REFUSED = {
    "tanh": (jnp.tanh, "uses tanh"),
    "sigmoid": (jax.nn.sigmoid, "uses sigmoid"),
    "gelu": (jax.nn.gelu, "raises units to a power|uses"),
    "silu": (jax.nn.silu, "sigmoid, in silu"),
    "softplus": (jax.nn.softplus, "in softplus"),
    "relu6": (jax.nn.relu6, "bounds units by a number other than 0, in relu6"),
    "softmax": (jax.nn.softmax, r"uses exp"),
    "square": (lambda x: x * x, "multiplies units with units"),
    "power": (lambda x: x**2, "raises units to a power"),
    "layer norm": (jax.nn.standardize, "multiplies units|raises units|divides by units|uses"),
    "shifted where": (lambda x: jnp.where(x > 1, x, 0), "compares units"),
    "wrong where": (lambda x: jnp.where(x > 0, 1.0, x), "chooses between values by a sign"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_relu_network_is_refused_with_its_line(name):
    activation, said = REFUSED[name]

    def refused(params, x):
        return activation(x @ params["in"]) @ params["out"]

    for attempt in (
        lambda: fg.path_norm(refused, start(), SHAPE),
        lambda: fg.path_sgd(0.1, refused, SHAPE).init(start()),
    ):
        with pytest.raises(ValueError, match=rf"({said}).*test_path_contract.py:\d+.*Use relu"):
            attempt()


def test_a_learned_slope_is_refused():
    def prelu(params, x):
        x = x @ params["in"]
        return jnp.where(x > 0, x, params["bias"] * x) @ params["out"]

    with pytest.raises(ValueError, match="chooses between values by a sign"):
        fg.path_norm(prelu, start(), SHAPE)


@pytest.mark.parametrize("function", [fg.path_norm, fg.path_scales])
def test_parameters_in_the_place_of_the_network_are_told(function):
    with pytest.raises(TypeError, match="a dict was given in its place"):
        function(start(), network, SHAPE)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("name", ["in", "out"])
def test_the_norm_of_a_diverged_network_is_not_finite(name, bad):
    params = start()
    params[name] = params[name].at[0, 0].set(bad)
    assert not jnp.isfinite(fg.path_norm(network, params, SHAPE))
    assert not jnp.isfinite(jax.jit(lambda params: fg.path_norm(network, params, SHAPE))(params))


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("finite p of at least 1, not 0.5", {"p": 0.5}),
        ("finite p of at least 1, not inf", {"p": np.inf}),
        ("shape of one example", {"input_shape": 3}),
        ("shape of one example", {"input_shape": (-1, 3)}),
        ("nothing that depends on x", {"apply_fn": lambda params, x: params["in"]}),
        ("no float array", {"params": {"n": jnp.arange(3)}}),
    ],
)
def test_senseless_arguments_are_told(said, arguments):
    given = {"apply_fn": network, "params": start(), "input_shape": SHAPE, **arguments}
    with pytest.raises(ValueError, match=said):
        fg.path_norm(**given)
