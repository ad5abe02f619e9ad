"""The study `paper`: the residual network, and the convolutions of many runs."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fgsgd_jax.experiments.study import resnet
from fgsgd_jax.experiments.study.resnet import CONVOLUTIONS
from tests.benchmarks.resnet20 import ResNet20

# --- the network ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_networks_have_the_layers_and_the_weights_of_he_et_al(depth, millions):
    params = jax.eval_shape(
        lambda key: resnet.initial(key, 3, 10, depth=depth, width=1), jax.random.key(0)
    )
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    digits = 1 if millions > 1 else 2
    assert round(total / 1e6, digits) == millions  # their table 6
    kernels = [len(params[f"stage{s}"]["others"]["kernels"].shape) for s in range(3)]
    assert kernels == [5, 5, 5]
    stacked = sum(params[f"stage{s}"]["others"]["kernels"].shape[0] for s in range(3))
    assert stacked + 3 + 1 == depth  # with the first of every stage and the dense layer


def test_weights_have_the_variance_of_he_et_al():
    initial = jax.jit(lambda key: resnet.initial(key, 3, 10, depth=20, width=1))
    params = initial(jax.random.key(0))
    weights = [params[f"stage{s}"][part] for s in range(3) for part in ("first", "others")]
    weights = [w.get("kernel", w.get("kernels")) for w in weights] + [params["last"]["weight"]]
    for w in weights:
        inputs = math.prod(w.shape[-4:-1])
        deviation = (2 / inputs) ** 0.5
        assert abs(float(w.mean())) < 5 * deviation / w.size**0.5
        assert float(w.std()) == pytest.approx(deviation, rel=5 / (2 * w.size) ** 0.5)


@pytest.mark.slow
def test_the_network_is_the_one_in_flax():
    width, depth = 0.125, 8
    abstract = nnx.eval_shape(lambda: ResNet20(10, width=width, rngs=nnx.Rngs(0)))
    definition, state = nnx.split(abstract)
    model = nnx.merge(definition, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), state))
    model.blocks = nnx.List(list(model.blocks)[::3])  # one block a stage
    initial = jax.jit(lambda key: resnet.initial(key, 3, 10, depth=depth, width=width))
    params = initial(jax.random.key(0))
    pairs = [(model.conv, model.norm)]
    for block in model.blocks:
        if block.stride == 2:  # like the original, one row and column on both sides
            block.conv1.padding = ((1, 1), (1, 1))
        pairs += [(block.conv1, block.norm1), (block.conv2, block.norm2)]
    rng = np.random.default_rng(0)
    random = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    for stage in range(3):
        first, others = (params[f"stage{stage}"][part] for part in ("first", "others"))
        for norm in (first["norm"], others["norm"]):
            norm["scale"], norm["bias"] = random(*norm["scale"].shape), random(*norm["bias"].shape)
        stacked = [(others["kernels"], others["norm"]["scale"], others["norm"]["bias"])]
        layers = [(first["kernel"], first["norm"]["scale"], first["norm"]["bias"])]
        layers += [layer for arrays in stacked for layer in zip(*arrays, strict=True)]
        for kernel, scale, bias in layers:
            convolution, norm = pairs.pop(0)
            convolution.kernel[...], norm.scale[...], norm.bias[...] = kernel, scale, bias
    assert not pairs
    model.head.kernel[...] = params["last"]["weight"]
    images = random(4, 8, 8, 3)
    found, _ = jax.jit(lambda p, x: resnet.network(p, x, "map"))(params, images)
    needed = nnx.jit(lambda model, x: model(x, training=True))(model, images)
    np.testing.assert_allclose(found, needed, atol=2e-4)


# --- convolutions -----------------------------------------------------------------------------


def by_loops(x, kernel, stride):
    """The convolution as its formula."""
    number, rows, columns, _ = x.shape
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((number, -(-rows // stride), -(-columns // stride), kernel.shape[-1]))
    for i, j in itertools.product(range(y.shape[1]), range(y.shape[2])):
        window = padded[:, stride * i : stride * i + 3, stride * j : stride * j + 3]
        y[:, i, j] = np.tensordot(window, np.asarray(kernel, np.float64), 3)
    return y


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize(("stride", "size"), [(1, (4, 5)), (2, (5, 6))])
def test_convolutions_of_many_runs_are_their_formula(kind, stride, size):
    x = jax.random.normal(jax.random.key(0), (3, 2, *size, 2))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 2, 4))
    convolution = resnet.CONVOLUTIONS[kind]

    def of_runs(in_axes, *given):
        function = lambda x, kernel: convolution(x, kernel, stride)  # noqa: E731
        return jax.jit(resnet.mapped(function, kind, in_axes))(*given)

    for found, *given in zip(of_runs((0, 0), x, kernels), x, kernels, strict=True):
        np.testing.assert_allclose(found, by_loops(*given, stride), atol=1e-4)
    if stride == 1:  # all runs see the same images, as when errors are measured
        for found, kernel in zip(of_runs((None, 0), x[0], kernels), kernels, strict=True):
            np.testing.assert_allclose(found, by_loops(x[0], kernel, stride), atol=1e-4)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_gradient_of_a_run_does_not_depend_on_the_runs_beside_it(kind):
    x = jax.random.normal(jax.random.key(0), (3, 2, 4, 4, 2))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 2, 4))

    def loss(convolution):
        return lambda kernel, x, y: jnp.mean(y * jnp.sin(convolution(x, kernel, 2)))

    y = jnp.arange(1.0, 4)
    of_runs = jax.jit(resnet.gradients(loss(resnet.CONVOLUTIONS[kind]), kind))
    losses, found = of_runs(kernels, x, y)
    # The reference has no other run, and is the convolution of JAX in another layout.
    reference = jax.jit(jax.value_and_grad(loss(in_other_layout)))
    for run in range(3):
        value, gradient = reference(kernels[run], x[run], y[run])
        np.testing.assert_allclose(losses[run], value, rtol=1e-5)
        np.testing.assert_allclose(found[run], gradient, atol=1e-5)


def in_other_layout(x, kernel, stride):
    y = jax.lax.conv(
        jnp.pad(x.transpose(0, 3, 1, 2), ((0, 0), (0, 0), (1, 1), (1, 1))),
        kernel.transpose(3, 2, 0, 1),
        (stride, stride),
        "VALID",
    )
    return y.transpose(0, 2, 3, 1)
