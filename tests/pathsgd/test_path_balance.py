"""`balance` and `unbalance`: the same function, and Lemma 4.1."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import fgsgd_jax as fg


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


def chain(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer.get("bias", 0))
    return x @ last["kernel"] + last.get("bias", 0)


def convolutional(params, x):
    x = jax.lax.conv_general_dilated(
        x, params["conv1"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + params["conv1"]["bias"])
    x = x.reshape(len(x), 2, 2, 2, 2, -1).max((2, 4))
    return x.reshape(len(x), -1) @ params["dense"]["kernel"]


def normal(*shapes, seed=0):
    generator = np.random.default_rng(seed)
    return [jnp.asarray(generator.normal(size=shape)) for shape in shapes]


def layers(*sizes, biases):
    kernels = normal(*itertools.pairwise(sizes))
    vectors = normal(*((size,) for size in sizes[1:]), seed=1)
    return [
        {"kernel": kernel, "bias": bias} if biases else {"kernel": kernel}
        for kernel, bias in zip(kernels, vectors, strict=True)
    ]


def incoming_norms(layer, p):
    rows = [layer["kernel"], layer["bias"][None]] if "bias" in layer else [layer["kernel"]]
    return np.sum(np.abs(np.concatenate(rows)) ** p, 0) ** (1 / p)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_balancing_attains_the_minimum_of_lemma_4_1(p):
    """φ_p is the d-th power of the largest norm after balancing, and at most that elsewhere."""
    params = layers(3, 5, 4, 1, biases=False)
    norm = float(fg.path_norm(chain, params, (3,), p))
    balanced = fg.balance(params, p)
    largest = max(np.max(incoming_norms(layer, p)) for layer in balanced)
    assert_allclose(largest**3, norm, rtol=1e-10)
    for seed in range(5):
        other = fg.unbalance(jax.random.key(seed), params, factor=2.0)
        assert max(np.max(incoming_norms(layer, p)) for layer in other) ** 3 > norm
        assert_allclose(fg.path_norm(chain, other, (3,), p), norm, rtol=1e-10)


@pytest.mark.slow
def test_balanced_units_have_equal_norms_biases_included_and_the_function_stays():
    params = layers(3, 5, 4, 2, biases=True)
    balanced = fg.balance(params)
    (x,) = normal((6, 3), seed=2)
    assert_allclose(chain(balanced, x), chain(params, x), rtol=1e-10)
    hidden = np.concatenate([incoming_norms(layer, 2) for layer in balanced[:-1]])
    assert_allclose(hidden, hidden[0], rtol=1e-9)
    assert_allclose(np.max(incoming_norms(balanced[-1], 2)), hidden[0], rtol=1e-9)
    again = fg.balance(fg.unbalance(jax.random.key(0), balanced))
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-8), again, balanced)


@pytest.mark.slow
def test_a_convolutional_network_is_rescaled_through_pooling_and_flattening():
    kernel, bias, last = normal((3, 3, 1, 3), (3,), (12, 2))
    params = {"conv1": {"kernel": kernel, "bias": bias}, "dense": {"kernel": last}}
    (x,) = normal((2, 4, 4, 1), seed=2)
    for changed in (fg.balance(params), fg.unbalance(jax.random.key(1), params, draws=9)):
        assert_allclose(convolutional(changed, x), convolutional(params, x), rtol=1e-10)
        assert not np.allclose(changed["conv1"]["kernel"], kernel)
    rows = np.concatenate([kernel.reshape(-1, 3), bias[None]])
    balanced = fg.balance(params)["conv1"]
    norms = np.linalg.norm(
        np.concatenate([balanced["kernel"].reshape(-1, 3), balanced["bias"][None]]), axis=0
    )
    assert_allclose(norms, norms[0], rtol=1e-9)
    assert not np.allclose(np.linalg.norm(rows, axis=0), np.linalg.norm(rows, axis=0)[0])


def test_a_negative_number_of_draws_is_refused():
    params = [jnp.ones((3, 4)), jnp.ones((4, 2))]
    with pytest.raises(ValueError, match="draws must be at least 0, got -1"):
        fg.unbalance(jax.random.key(0), params, draws=-1)


@pytest.mark.slow
def test_unbalancing_draws_as_the_paper_does():
    """20,000 draws of 4,000 units: logarithms add up, means and variances are those of the law."""
    params = [jnp.ones((1, 4000)), jnp.ones((4000, 1))]
    changed = fg.unbalance(jax.random.key(0), params, draws=20_000)
    logs = np.log(np.asarray(changed[0][0]))
    assert_allclose(changed[0][0] * changed[1][:, 0], 1, rtol=1e-12)
    # Poisson of mean 5 many terms, each of mean log 10 and variance 1.
    mean, variance = 5 * np.log(10), 5 * (1 + np.log(10) ** 2)
    assert abs(np.mean(logs) - mean) < 5 * np.sqrt(variance / 4000)
    assert abs(np.var(logs) / variance - 1) < 0.15
    few = fg.unbalance(jax.random.key(0), params)  # a quarter of the units
    assert 0.15 < np.mean(few[0] != 1) < 0.25  # 1 - exp(-1/4) = 0.22


def test_layers_are_found_in_order_or_as_named():
    kernels = normal((2, 3), (3, 3), (3, 1))
    biases = normal((3,), (3,), seed=1)
    flat = {"w2": kernels[0], "b2": biases[0], "w10": kernels[1], "b10": biases[1]}
    by_number = fg.balance({**flat, "w11": kernels[2], "b11": jnp.zeros(1)})
    named = fg.balance(
        {"z": kernels[0], "zb": biases[0], "y": kernels[1], "yb": biases[1], "x": kernels[2]},
        layers=[("z", "zb"), ("y", "yb"), "x"],
    )
    for one, other in (("w2", "z"), ("b2", "zb"), ("w10", "y"), ("b10", "yb"), ("w11", "x")):
        assert_allclose(by_number[one], named[other], rtol=1e-10)


@pytest.mark.slow
def test_dead_units_stay_and_half_precision_keeps_its_dtype():
    params = layers(3, 4, 1, biases=True)
    params[0]["kernel"] = params[0]["kernel"].at[:, 1].set(0)
    params[0]["bias"] = params[0]["bias"].at[1].set(0)
    balanced = fg.balance(params)
    assert not np.any(balanced[0]["kernel"][:, 1])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(balanced))
    half = jax.tree.map(lambda w: w.astype("bfloat16"), params)
    for changed in (fg.balance(half), fg.unbalance(jax.random.key(0), half)):
        assert {leaf.dtype for leaf in jax.tree.leaves(changed)} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("said", "shapes", "layers"),
    [
        ("'0' has 3 outputs, but '1', .* after it, has 5 inputs", [(2, 3), (5, 1)], None),
        ("not clear which layer the vector '2'", [(2, 3), (3, 1), (3,)], None),
        ("does not fit the 3 outputs", [(2, 3), (3, 1), (4,), (1,)], None),
        ("names 'x', but the leaves are '0', '1'", [(2, 3), (3, 1)], ["x"]),
        ("no array of two or more axes", [(3,)], None),
    ],
)  # fmt: skip
def test_what_is_no_chain_is_refused(said, shapes, layers):
    with pytest.raises(ValueError, match=said):
        fg.balance([jnp.ones(shape) for shape in shapes], layers=layers)


def test_p_below_1_is_refused():
    with pytest.raises(ValueError, match="finite p of at least 1, not 0"):
        fg.balance([jnp.ones((2, 3)), jnp.ones((3, 1))], 0)
