"""Path norm and κ against all paths of small networks, one by one, and against differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from path_graph import Graph, enumerate_norm, enumerate_scales

import fgsgd_jax as fg
from fgsgd_jax.pathsgd import _blocked

POWERS = (1, 1.5, 2, 3)
NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


def conv(x, kernel, stride=1, padding=0, groups=1):
    pads = ((padding, padding),) * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=NHWC, feature_group_count=groups
    )


def window(x, size, start, operation):
    shape = (1, size, size, 1)
    return jax.lax.reduce_window(x, start, operation, shape, shape, "VALID")


# --- the networks, each as a function and as a graph ---------------------------------------------


def dense(params, x):
    x = jax.nn.relu(x @ params["a"] + params["b"])
    x = jnp.maximum(x @ params["c"] + params["d"], 0)
    return x @ params["e"]


def dense_graph(w):
    graph = Graph((2,))
    x = graph.dense(graph.inputs, w["a"], "a")
    graph.bias(x, w["b"], "b")
    x = graph.dense(x, w["c"], "c")
    graph.bias(x, w["d"], "d")
    return graph, graph.dense(x, w["e"], "e")


def residual(params, x):
    """Skips, leaky ReLU, abs, a constant factor, two outputs, one of them from within."""
    first = jax.nn.leaky_relu(x @ params["a"] + params["b"])
    second = first + 0.5 * jnp.abs(first @ params["c"])
    third = jax.nn.relu(second @ params["c"]) - second  # c once more: shared
    return third @ params["e"], second


def residual_graph(w):
    graph = Graph((2,))
    first = graph.dense(graph.inputs, w["a"], "a")
    graph.bias(first, w["b"], "b")
    inner = graph.dense(first, w["c"], "c")
    halved = graph.nodes(inner.shape)
    for start, end in zip(inner, halved, strict=True):
        graph.edge(start, end, 0.5)
    second = graph.join(first, halved)
    third = graph.join(graph.dense(second, w["c"], "c"), second)
    return graph, np.concatenate([graph.dense(third, w["e"], "e"), second])


def convolutional(params, x):
    """Strided, padded and grouped convolutions, both poolings, flattening."""
    x = jax.nn.relu(conv(x, params["a"], stride=2, padding=1) + params["b"])
    x = jax.nn.relu(conv(x, params["c"], padding=1, groups=2))
    x = window(x, 2, -jnp.inf, jax.lax.max)
    x = window(conv(x, params["d"]), 2, 0.0, jax.lax.add) / 4
    return x.reshape(len(x), -1) @ params["e"] + params["f"]


def convolutional_graph(w):
    graph = Graph((8, 8, 1))
    x = graph.conv(graph.inputs, w["a"], "a", stride=2, padding=1)
    graph.bias(x, w["b"], "b")
    x = graph.conv(x, w["c"], "c", padding=1, groups=2)
    x = graph.pool(x, 2, 1.0)  # a maximum: each of its units has its path
    x = graph.pool(graph.conv(x, w["d"], "d"), 2, 1 / 4)
    x = graph.dense(x.ravel(), w["e"], "e")
    graph.bias(x, w["f"], "f")
    return graph, x


NETWORKS = {
    "dense": (
        dense, dense_graph, (2,),
        {"a": (2, 3), "b": (3,), "c": (3, 2), "d": (2,), "e": (2, 2)},
    ),
    "residual": (
        residual, residual_graph, (2,),
        {"a": (2, 3), "b": (3,), "c": (3, 3), "e": (3, 2)},
    ),
    "convolutional": (
        convolutional, convolutional_graph, (8, 8, 1),
        {"a": (2, 2, 1, 2), "b": (2,), "c": (3, 3, 1, 2), "d": (1, 1, 2, 2), "e": (2, 1),
         "f": (1,)},
    ),
}  # fmt: skip


@functools.cache
def problem(name):
    """The network, its weights, some of them 0 or large, and all of its paths."""
    apply_fn, graph_of, input_shape, shapes = NETWORKS[name]
    generator = np.random.default_rng(0)
    weights = {key: generator.normal(size=shape) for key, shape in shapes.items()}
    weights["c"].flat[1] = 0.0
    weights["a"][..., 1] *= 1000  # a unit of another size: exponents differ from unit to unit
    graph, outputs = graph_of(weights)
    return apply_fn, input_shape, weights, list(graph.paths(outputs))


every_case = pytest.mark.parametrize(
    ("name", "p"),
    [*((name, p) for name in ("dense", "convolutional") for p in POWERS), ("residual", 1.5)],
)


@functools.cache
def counted(name, p):
    """The path norm and κ by the library, in one compilation."""
    apply_fn, input_shape, weights, _ = problem(name)

    def both(weights):
        norm = fg.path_norm(apply_fn, weights, input_shape, p)
        return norm, fg.path_scales(apply_fn, weights, input_shape, p)

    return jax.jit(both)(weights)


@pytest.mark.sweep(fast=1)
@every_case
def test_the_path_norm_is_that_of_all_paths(name, p):
    norm, _ = counted(name, p)
    assert norm.dtype == jnp.float64
    np.testing.assert_allclose(norm, enumerate_norm(problem(name)[3], p), rtol=1e-10)


@pytest.mark.sweep(fast=1)
@every_case
def test_kappa_is_that_of_all_paths(name, p):
    _, _, weights, paths = problem(name)
    expected = enumerate_scales(paths, p, {key: w.shape for key, w in weights.items()})
    _, scales = counted(name, p)
    for key in weights:
        np.testing.assert_allclose(scales[key], expected[key], rtol=1e-10, err_msg=key)


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("extended_range", [False, True])
@pytest.mark.parametrize(
    ("name", "p"),
    [("dense", 1), ("dense", 1.5), ("dense", 3), ("residual", 2), ("convolutional", 2)],
)
def test_a_step_divides_by_the_kappa_of_all_paths(name, p, extended_range):
    """Three steps, each with the κ of its own weights: the defect of the authors' release."""
    apply_fn, input_shape, weights, _ = problem(name)
    tx = fg.path_sgd(0.01, apply_fn, input_shape, p, extended_range=extended_range)
    gradient = {key: np.cos(np.arange(w.size)).reshape(w.shape) for key, w in weights.items()}
    params, state = weights, tx.init(weights)
    for _ in range(1 if name == "convolutional" else 3):
        graph, outputs = NETWORKS[name][1]({key: np.asarray(w) for key, w in params.items()})
        kappa = enumerate_scales(
            list(graph.paths(outputs)), p, {key: w.shape for key, w in weights.items()}
        )
        updates, state = tx.update(gradient, state, params)
        for key in weights:
            np.testing.assert_allclose(
                updates[key], -0.01 * gradient[key] / kappa[key], rtol=1e-10, err_msg=key
            )
        params = {key: params[key] + updates[key] for key in params}


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize("p", [1, 1.5, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_kernels_that_are_summed_block_by_block_have_the_same_kappa(monkeypatch, p, transposed):
    monkeypatch.setattr(_blocked, "LARGE_SIZE", 4)
    monkeypatch.setattr(_blocked, "BLOCK_SIZE", 4)  # blocks of one row or two, and a row left over
    _, _, weights, paths = problem("dense")

    def turned(params):
        return {**params, "c": params["c"].T} if transposed else params

    kappa = turned(enumerate_scales(paths, p, {key: w.shape for key, w in weights.items()}))
    params = turned(weights)
    tx = fg.scale_by_path(lambda params, x: dense(turned(params), x), (2,), p)
    assert "while" in jax.jit(tx.update).lower(params, tx.init(params), params).as_text()
    updates, _ = tx.update(params, tx.init(params), params)
    for key in params:
        np.testing.assert_allclose(updates[key], params[key] / kappa[key], rtol=1e-10, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("p", POWERS)
def test_kappa_is_the_difference_quotient_of_the_path_norm(p):
    """P is linear in each |w|^p of a network without shared weights, so any step will do."""
    apply_fn, input_shape, weights, _ = problem("dense")
    weights = {**weights, "a": weights["a"] / [1, 1000, 1]}  # else the differences cancel
    scales = fg.path_scales(apply_fn, weights, input_shape, p)
    norm = jax.jit(lambda weights: fg.path_norm(apply_fn, weights, input_shape, p))
    for key, index in (("a", (0, 1)), ("b", (2,)), ("c", (0, 1)), ("e", (1, 0))):
        power = abs(weights[key][index]) ** p
        changed = dict(weights)
        changed[key] = weights[key].copy()
        changed[key][index] = (power + 0.5) ** (1 / p)
        slope = (norm(changed) ** p - norm(weights) ** p) / 0.5
        np.testing.assert_allclose(scales[key][index], slope ** (2 / p), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 3])
def test_the_path_norm_has_a_gradient(p):
    """Against central differences; it is a penalty, so all weights at once."""
    apply_fn, input_shape, weights, _ = problem("residual")
    norm = jax.jit(lambda weights: fg.path_norm(apply_fn, weights, input_shape, p))
    gradient = jax.jit(jax.grad(norm))(weights)
    direction = {
        key: np.sin(1.0 + np.arange(w.size)).reshape(w.shape) for key, w in weights.items()
    }
    direction["c"].flat[1] = 0.0  # |w| has a corner at the weight that is 0
    step = 1e-6
    ahead, behind = (
        norm({key: w + sign * step * direction[key] for key, w in weights.items()})
        for sign in (1, -1)
    )
    slope = sum(np.sum(gradient[key] * direction[key]) for key in weights)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-7)


# --- a recurrent cell ----------------------------------------------------------------------------

STEPS = 3


def recurrent(params, x):
    """A cell over x of shape (batch, steps, 1), as a Python loop."""
    state = jnp.zeros((len(x), 2), x.dtype)
    for step in range(STEPS):
        state = jax.nn.relu(x[:, step] @ params["in"] + state @ params["over"])
    return state @ params["out"]


def recurrent_by_scan(params, x):
    def cell(state, row):
        return jax.nn.relu(row @ params["in"] + state @ params["over"]), None

    state, _ = jax.lax.scan(cell, jnp.zeros((len(x), 2), x.dtype), x.swapaxes(0, 1))
    return state @ params["out"]


def recurrent_paths(w):
    graph = Graph((STEPS, 1))
    state = None
    for step in range(STEPS):
        after = graph.dense(graph.inputs[step], w["in"], "in")
        if state is not None:
            after = graph.join(after, graph.dense(state, w["over"], "over"))
        state = after
    return list(graph.paths(graph.dense(state, w["out"], "out")))


@pytest.mark.slow
@pytest.mark.parametrize("second_term", [False, True])
def test_a_recurrent_cell_collects_its_edges_and_pairs_of_edges(second_term):
    """A loop by the steps it takes, a scan by its κ."""
    generator = np.random.default_rng(1)
    shapes = {"in": (1, 2), "over": (2, 2), "out": (2, 1)}
    weights = {key: generator.normal(size=shape) for key, shape in shapes.items()}
    expected = enumerate_scales(recurrent_paths(weights), 2, shapes, count_pairs=second_term)
    scales = fg.path_scales(recurrent_by_scan, weights, (STEPS, 1), second_term=second_term)
    tx = fg.scale_by_path(recurrent, (STEPS, 1), second_term=second_term)
    updates, _ = tx.update(weights, tx.init(weights), weights)
    for key in weights:
        np.testing.assert_allclose(scales[key], expected[key], rtol=1e-10, err_msg=key)
        step = weights[key] / expected[key]
        np.testing.assert_allclose(updates[key], step, rtol=1e-10, err_msg=key)


def test_the_second_term_is_only_for_p_2():
    with pytest.raises(ValueError, match="for p = 2, not for p = 1"):
        fg.path_scales(dense, problem("dense")[2], (2,), 1, second_term=True)
