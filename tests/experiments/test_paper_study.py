"""The study `paper`: images, schedule, methods, grid."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax.__main__ import main
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.data import ImageData, load
from fgsgd_jax.experiments.study import (
    paper,
    paper_images,
    paper_methods,
    paper_probe,
    paper_training,
    resnet,
    running,
    table,
)
from fgsgd_jax.experiments.study.config import METHODS, Paper
from fgsgd_jax.spec import SCHEMES

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
    found = np.asarray(paper_images.augmented(jax.random.key(0), jnp.asarray(images), 4))
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
    data = paper_images.Data(ImageData("cifar10", pixels, labels, pixels[:9], labels[:9]))
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
    both = [np.concatenate(part) for part in zip(data.validation, data.test, strict=True)]
    logits, _ = network((both[0] - mean) / deviation, moments)
    wrong = np.split(np.argmax(logits, -1) != both[1], [len(data.validation[1])])
    np.testing.assert_allclose(found["validation_error"], [wrong[0].mean()], atol=1e-6)
    np.testing.assert_allclose(found["test_error"], [wrong[1].mean()], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_exactly_the_kernels_of_convolutions_are_on_manifolds(method):
    assert set(METHODS) == set(paper_methods.METHODS)
    params = jax.eval_shape(
        lambda key: resnet.initial(key, 3, 10, depth=14, width=0.25), jax.random.key(0)
    )
    spec = paper_methods.METHODS[method].spec(params)
    if method.startswith("SGD"):
        assert spec is None
        return
    assert spec is not None
    places = {path: leaf.scheme for path, leaf in spec.on_manifolds()}
    assert set(places) == {
        f"stage{stage}/{name}" for stage in range(3) for name in ("first/kernel", "others/kernels")
    }
    kind, how, *_ = method.split("-")
    assert set(places.values()) == {how if how in SCHEMES else "PO"}
    found = {
        type(manifold).__name__ for _, leaf in spec.on_manifolds() for manifold in leaf.manifolds
    }
    expected = {
        "sphere": {"Sphere"},
        "stiefel": {"Stiefel"},
        "three": {"Sphere", "Oblique", "Stiefel"},
    }
    assert found == expected[kind]


STEPS = {
    "sphere-no-momentum": lambda spec, rest: fg.fgsgd(1.0, spec, euclidean=rest),
    "sphere-no-tau": lambda spec, rest: fg.rsgd(1.0, spec, momentum=0.9, euclidean=rest),
    "sphere-euclidean-0.3": lambda spec, rest: fg.fgsgd(1.0, spec, momentum=0.9, euclidean=rest),
}


@pytest.mark.parametrize("name", STEPS)
def test_variants_take_the_steps_of_their_optimizer(name):
    rng = np.random.default_rng(0)
    random = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    shapes = {"a": {"kernel": (3, 3, 2, 3)}, "b": {"kernels": (2, 3, 3, 2, 2)}, "bias": (3,)}
    params, gradient = (
        jax.tree.map(lambda shape: random(*shape), shapes, is_leaf=lambda leaf: type(leaf) is tuple)
        for _ in range(2)
    )
    method = paper_methods.METHODS[name]
    params = jax.jit(method.projected)(params)
    rate = 0.3 if name.endswith("0.3") else 0.1
    rest = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9))
    expected = STEPS[name](method.spec(params), rest)
    found = paper_methods.optimizer(
        method, params, lambda count: 1.0, jnp.float32(1), jnp.float32(0)
    )

    @jax.jit
    def two_steps(params):
        moved = []
        for tx in (found, expected):
            after, state = params, tx.init(params)
            for _ in range(2):
                updates, state = tx.update(gradient, state, after)
                after = optax.apply_updates(after, updates)
            moved.append(after)
        return moved

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *two_steps(params))


@pytest.mark.parametrize(
    "name", ["sphere-PO", "sphere-filter", "sphere-variance", "SGD-unit-start"]
)
def test_weights_start_with_the_norms_of_their_method(name):
    params = {
        "a": {"kernel": np.ones((3, 3, 3, 2), np.float32)},
        "b": {"kernels": np.ones((2, 3, 3, 3, 3), np.float32)},
    }
    found = jax.jit(paper_methods.METHODS[name].projected)(params)
    for kernel in (found["a"]["kernel"], found["b"]["kernels"]):
        norms = np.sqrt(np.sum(np.square(kernel), (-4, -3)))  # of slices, of three inputs
        expected = {"sphere-filter": (1 / 3) ** 0.5, "sphere-variance": (2 / 3) ** 0.5}.get(name, 1)
        np.testing.assert_allclose(norms, expected, rtol=1e-5)


@pytest.mark.parametrize(("shape", "factor"), [((8, 8), 2), ((6, 9), 3), ((5, 4), 1)])
def test_shrunken_images_are_means_of_blocks(shape, factor):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape, 2), dtype=np.uint8)
    found = paper_images.shrunken(images, factor)
    assert found.dtype == np.uint8
    for i, j in itertools.product(range(shape[0] // factor), range(shape[1] // factor)):
        block = images[:, factor * i : factor * (i + 1), factor * j : factor * (j + 1)]
        np.testing.assert_allclose(found[:, i, j], block.mean((1, 2)), atol=0.5)


@pytest.mark.parametrize("factor", [3, 5, 100])
def test_images_that_are_no_whole_number_of_blocks_are_refused(factor):
    with pytest.raises(UsageError, match=f"--shrink {factor} does not divide images of 8×8"):
        paper_images.shrunken(np.zeros((1, 8, 8, 1), np.uint8), factor)


# --- the whole --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_killed_within_a_group_continues_as_if_it_had_not_been(
    digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(paper, "SMOKE", settings(methods=("sphere-PO",)))
    problem = paper.study(digits, smoke=True, settings=Paper())
    assert (problem.together, problem.tried, problem.seeds) == (2, 2, 2)

    def rows(path):
        found = running.run(problem, path, lambda: None, quiet=True)
        return [{name: row[name] for name in row if name != "seconds"} for row in found]

    whole = tmp_path / "whole.jsonl"
    expected = rows(whole)
    assert len({(row["test_error"], row["validation_error"]) for row in expected}) > 1
    lines = whole.read_text().splitlines(keepends=True)
    for kept in (1, 3):  # in the middle of the first two runs, and of the last two
        path = tmp_path / f"{kept}.jsonl"
        path.write_text("".join(lines[:kept]) + lines[kept][:-9])  # killed while it wrote a line
        assert rows(path) == expected
        assert path.read_text().startswith("".join(lines[:kept]))  # nothing was run again


def test_the_grid_is_as_large_for_every_method(digits):
    problem = paper.study(digits, smoke=False, settings=Paper(methods=METHODS))
    assert {len(settings) for settings in problem.methods.values()} == {6}
    assert problem.tried == 6


@pytest.mark.parametrize(
    ("given", "words"),
    [({"depth": 32}, "ResNet-32"), ({"epochs": 3}, "; 3 epochs (1 to"), ({"note": "A"}, "(A):")],
)
def test_a_small_run_keeps_what_is_given_and_makes_the_rest_small(digits, given, words):
    title = paper.study(digits, smoke=True, settings=Paper(**given)).title
    assert words in title
    assert "width 0.25" in title


RESULTS = {"test_error": 0.125, "validation_error": 0.25, "seconds": 2.0}


def test_the_caption_says_what_was_run(digits):
    given = Paper(depth=32, epochs=12, tuning_epochs=4, batch_size=64, note="a copy in JPEG files")
    problem = paper.study(
        digits, smoke=False, settings=dataclasses.replace(given, methods=("SGD",))
    )
    rows = [
        {"data": "digits", "method": "SGD", **settings, "seed": seed, **stage, **RESULTS}
        for seed in range(problem.seeds)
        for settings in problem.methods["SGD"]
        for stage in (problem.tuning, problem.final)
    ]
    caption = table.markdown(problem, rows)
    for part in (
        "a copy in JPEG files",
        "ResNet-32",
        "12 epochs",
        "(4 to choose",
        "batches of 64",
        jax.devices()[0].device_kind,
        "bfloat16",
        "6 runs at once divided by 6",
    ):
        assert part in caption
    assert caption.splitlines()[-1].endswith("| 12.5 ± 0.0 | 25.0 ± 0.0 | 2 |")


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
