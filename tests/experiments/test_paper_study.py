"""The study `paper`: the residual network, convolutions of many runs, images, schedule, grid."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments.data import ImageData, load
from fgsgd_jax.experiments.study import paper, paper_probe, paper_training, resnet
from fgsgd_jax.experiments.study.config import METHODS, Paper
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
    model = ResNet20(10, width=width, rngs=nnx.Rngs(0))
    model.blocks = nnx.List(list(model.blocks)[::3])  # one block a stage
    params = resnet.initial(jax.random.key(0), 3, 10, depth=depth, width=width)
    pairs = [(model.conv, model.norm)]
    for block in model.blocks:
        if block.stride == 2:  # like the original, one row and column on both sides
            block.conv1.padding = ((1, 1), (1, 1))
        pairs += [(block.conv1, block.norm1), (block.conv2, block.norm2)]
    keys = iter(jax.random.split(jax.random.key(1), 20))
    for stage in range(3):
        first, others = (params[f"stage{stage}"][part] for part in ("first", "others"))
        for norm in (first["norm"], others["norm"]):
            norm["scale"] = jax.random.normal(next(keys), norm["scale"].shape)
            norm["bias"] = jax.random.normal(next(keys), norm["bias"].shape)
        stacked = [(others["kernels"], others["norm"]["scale"], others["norm"]["bias"])]
        layers = [(first["kernel"], first["norm"]["scale"], first["norm"]["bias"])]
        layers += [layer for arrays in stacked for layer in zip(*arrays, strict=True)]
        for kernel, scale, bias in layers:
            convolution, norm = pairs.pop(0)
            convolution.kernel[...], norm.scale[...], norm.bias[...] = kernel, scale, bias
    assert not pairs
    model.head.kernel[...] = params["last"]["weight"]
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
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


# --- images and steps -------------------------------------------------------------------------


def test_augmented_images_are_windows_of_the_padded_image_or_their_mirror_images():
    image = np.random.default_rng(0).normal(size=(5, 6, 2)).astype(np.float32)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {}
    for i, j in itertools.product(range(9), range(9)):
        window = padded[i : i + 5, j : j + 6]
        windows[window.tobytes()] = (i, j, False)
        windows[window[:, ::-1].tobytes()] = (i, j, True)
    images = np.broadcast_to(image, (600, *image.shape))
    found = np.asarray(paper_training.augmented(jax.random.key(0), jnp.asarray(images)))
    seen = [windows[np.ascontiguousarray(window).tobytes()] for window in found]
    for axis, values in enumerate((range(9), range(9), (False, True))):
        assert {window[axis] for window in seen} == set(values)


def settings(**changes) -> Paper:
    return dataclasses.replace(paper.SMOKE, **changes)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits", train_size=300)


def test_a_tenth_of_the_training_images_validates_with_every_class_in_proportion():
    # In the order of their classes, as pictures are read from folders.
    labels = np.repeat(np.arange(5, dtype=np.int32), 40)
    pixels = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1)
    data = paper_training.Data(ImageData("cifar10", pixels, labels, pixels[:9], labels[:9]))
    training, validation = data.training, data.validation
    assert (len(training[1]), len(validation[1])) == (180, 20)
    assert np.bincount(validation[1]).tolist() == [4] * 5
    both = np.concatenate([training[0], validation[0]]).ravel()
    assert sorted(both.tolist()) == list(range(200))
    np.testing.assert_array_equal(labels[both], np.concatenate([training[1], validation[1]]))


@pytest.mark.parametrize("steps", [8, 100])
def test_rates_fall_as_the_schedule_says(digits, steps):
    count = jnp.arange(steps)
    falling = paper_training.Training(digits, settings())._schedule(jnp.asarray(steps))
    quarters = np.repeat([1, 1, 0.1, 0.01], steps // 4)
    np.testing.assert_allclose(falling(count), quarters, rtol=1e-5)
    cosine = paper_training.Training(digits, settings(schedule="cosine"))
    found = cosine._schedule(jnp.asarray(steps))(count)
    np.testing.assert_allclose(found, np.cos(np.pi / 2 * np.arange(steps) / steps) ** 2, atol=1e-6)


def test_every_image_is_used_once_in_an_epoch_and_seeds_differ(digits):
    training = paper_training.Training(digits, settings())
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    orders = np.asarray(jax.jit(training.orders)(keys, 0))
    later = np.asarray(jax.jit(training.orders)(keys, training.steps_per_epoch))
    for order in (*orders, *later):
        assert sorted(order.tolist()) == list(range(270))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], later[0])


def test_errors_are_those_of_the_network_with_moments_of_training_images(digits, monkeypatch):
    monkeypatch.setattr(paper_training, "EVALUATION_BATCH", 8)  # of 30 and 297 images, not whole
    monkeypatch.setattr(paper_training, "MOMENTS_FROM", 8)
    training = paper_training.Training(digits, settings(together=1))
    data = training.data
    params = jax.jit(training.initial)(jax.random.split(jax.random.key(0), 1))
    found = jax.jit(training.measure)(params, data.training, data.validation, data.test)
    one = jax.tree.map(lambda leaf: leaf[0], params)
    mean, deviation = digits.statistics()
    network = jax.jit(lambda x, moments: resnet.network(one, x, "map", moments))
    _, moments = network((data.training[0][:8] - mean) / deviation, None)
    for name, (pixels, labels) in {"validation": data.validation, "test": data.test}.items():
        logits, _ = network((pixels - mean) / deviation, moments)
        wrong = np.mean(np.argmax(logits, -1) != labels)
        np.testing.assert_allclose(found[f"{name}_error"], [wrong], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_exactly_the_kernels_of_convolutions_are_on_manifolds(method):
    assert set(METHODS) == set(paper_training.METHODS)
    params = jax.eval_shape(
        lambda key: resnet.initial(key, 3, 10, depth=14, width=0.25), jax.random.key(0)
    )
    spec = paper_training._spec(method, params)
    if method == "SGD":
        assert spec is None
        return
    assert spec is not None
    places = {path: leaf.scheme for path, leaf in spec.on_manifolds()}
    assert set(places) == {
        f"stage{stage}/{name}" for stage in range(3) for name in ("first/kernel", "others/kernels")
    }
    assert set(places.values()) == {method.partition("-")[2]}
    kinds = {
        type(manifold).__name__ for _, leaf in spec.on_manifolds() for manifold in leaf.manifolds
    }
    expected = {
        "sphere": {"Sphere"},
        "stiefel": {"Stiefel"},
        "three": {"Sphere", "Oblique", "Stiefel"},
    }
    assert kinds == expected[method.partition("-")[0]]


# --- the whole --------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_train_alike_together_and_alone_and_few_trials_fill_a_group(digits):
    problem = paper.study(digits, smoke=True, settings=Paper())
    trials = [
        {"data": "digits", "method": "sphere-PO", "epochs": 2, "learning_rate": rate, "seed": seed}
        for rate, seed in ((1.0, 0), (3.0, 1))
    ]
    together = problem.results_of(trials)
    assert together[0] != together[1]
    for trial, expected in zip(trials, together, strict=True):
        (alone,) = problem.results_of([trial])  # filled up with itself
        for name in ("test_error", "validation_error"):
            np.testing.assert_allclose(alone[name], expected[name], atol=0.02)


def test_the_grid_is_as_large_for_every_method(digits):
    problem = paper.study(digits, smoke=False, settings=Paper(methods=METHODS))
    assert {len(settings) for settings in problem.methods.values()} == {6}
    assert problem.tried == 6


def test_the_caption_says_what_was_run(digits):
    given = Paper(depth=32, epochs=12, tuning_epochs=4, batch_size=64, note="a copy in JPEG files")
    title = paper.study(digits, smoke=False, settings=given).title
    for part in (
        "a copy in JPEG files",
        "ResNet-32",
        "12 epochs",
        "(4 to choose",
        "batches of 64",
        jax.devices()[0].device_kind,
        "bfloat16",
    ):
        assert part in title


@pytest.mark.parametrize("depth", ["19", "21", "2", "many"])
def test_a_depth_that_no_residual_network_has_is_refused(depth, capsys):
    assert main(["study", "paper", "--depth", depth]) == 2
    assert "one of 8, 14, 20" in capsys.readouterr().err


@pytest.mark.slow
def test_the_probe_times_every_convolution_and_update(capsys, monkeypatch):
    monkeypatch.setattr(paper_probe, "CONVOLUTIONS", ("grouped",))  # the quickest to compile
    words = (
        "study paper --probe --train-size 100 --depth 8 --width 0.25 --batch-size 8 --together 2"
    )
    assert main([*words.split(), "--methods", "SGD", "--features", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("gradient grouped", "measure grouped", "update SGD"):
        (line,) = [line for line in lines if line.startswith(name)]
        assert float(line.split()[-2]) > 0  # milliseconds
