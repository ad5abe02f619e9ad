"""What stands for constraints in the study `paper`: weight normalization, a penalty."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fgsgd_jax.experiments.study import paper_methods, paper_rivals

SHAPES = {"a": {"kernel": (3, 3, 2, 4)}, "b": {"kernels": (2, 3, 3, 4, 3)}, "bias": (3,)}
RATE, STEPS = 0.1, 3


def random_tree(seed):
    rng = np.random.default_rng(seed)
    is_shape = lambda leaf: type(leaf) is tuple  # noqa: E731
    return jax.tree.map(
        lambda shape: rng.standard_normal(shape).astype(np.float32), SHAPES, is_leaf=is_shape
    )


@functools.cache
def trained(name, decay):
    """The parameters after some steps with the same gradient, and those before."""
    params, gradient = random_tree(0), random_tree(1)

    @jax.jit
    def steps(params):
        tx = paper_methods.optimizer(
            paper_methods.METHODS[name], params, lambda count: 1.0, jnp.float32(RATE), decay
        )
        state = tx.init(params)
        for _ in range(STEPS):
            updates, state = tx.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return params, gradient, steps(params)


def sgd(gradient_of, *weights, decay):
    """Steps with momentum and decay in double precision, as in a textbook."""
    weights = [np.asarray(weight, np.float64) for weight in weights]
    traces = [np.zeros_like(weight) for weight in weights]
    for _ in range(STEPS):
        gradients = gradient_of(*weights)
        for weight, trace, gradient in zip(weights, traces, gradients, strict=True):
            trace *= paper_methods.MOMENTUM
            trace += gradient + decay * weight
        for weight, trace in zip(weights, traces, strict=True):
            weight -= RATE * trace
    return weights


def filters(kernel):
    """A kernel of four axes as a matrix with a column for each filter."""
    return kernel.reshape(-1, kernel.shape[-1])


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("which", ["alone", "first of the stack", "last of the stack", "bias"])
def test_weight_normalization_takes_the_steps_of_salimans_and_kingma(which, decay):
    part = {
        "alone": lambda tree: filters(tree["a"]["kernel"]),
        "first of the stack": lambda tree: filters(tree["b"]["kernels"][0]),
        "last of the stack": lambda tree: filters(tree["b"]["kernels"][-1]),
        "bias": lambda tree: tree["bias"],
    }[which]
    before, by_kernel, after = map(part, trained("SGD-weight-normalized", decay))
    if which == "bias":
        (expected,) = sgd(lambda _: (by_kernel,), before, decay=decay)
        np.testing.assert_allclose(after, expected, atol=1e-5)
        return

    def gradients(g, v):  # equation (3) of the paper
        length = np.linalg.norm(v, axis=0)
        by_g = (by_kernel * v).sum(0) / length
        return by_g, g / length * by_kernel - g * by_g / length**2 * v

    g, v = sgd(gradients, np.linalg.norm(before, axis=0), before, decay=decay)
    np.testing.assert_allclose(after, g * v / np.linalg.norm(v, axis=0), atol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 0.01])
@pytest.mark.parametrize("which", ["alone", "first of the stack", "last of the stack"])
def test_the_soft_penalty_pulls_filters_to_orthonormal_ones_without_decay(which, penalty):
    part = {
        "alone": lambda tree: filters(tree["a"]["kernel"]),
        "first of the stack": lambda tree: filters(tree["b"]["kernels"][0]),
        "last of the stack": lambda tree: filters(tree["b"]["kernels"][-1]),
    }[which]
    before, by_kernel, after = map(part, trained("SGD-soft-orthogonal", penalty))

    def gradient(w):
        return (by_kernel + penalty * 4 * w @ (w.T @ w - np.eye(w.shape[1])),)

    np.testing.assert_allclose(after, *sgd(gradient, before, decay=0), atol=1e-4)


def test_beside_the_soft_penalty_other_leaves_have_the_usual_decay():
    before, gradient, after = (tree["bias"] for tree in trained("SGD-soft-orthogonal", 0.01))
    decay = paper_methods.EUCLIDEAN_DECAY
    np.testing.assert_allclose(after, *sgd(lambda _: (gradient,), before, decay=decay), rtol=1e-6)


def test_weight_normalized_kernels_start_as_they_are():
    params = random_tree(2)
    separate, _ = paper_rivals.weight_normalized(optax.sgd(0.1)).init(params)
    for filters_of, kernel in (
        (separate["a"]["kernel"], params["a"]["kernel"]),
        (separate["b"]["kernels"], params["b"]["kernels"]),
    ):
        np.testing.assert_allclose(filters_of.kernel, kernel, rtol=1e-5)
        lengths = np.sqrt(np.square(kernel).sum((-4, -3, -2), keepdims=True))
        np.testing.assert_allclose(filters_of.lengths, lengths, rtol=1e-6)
