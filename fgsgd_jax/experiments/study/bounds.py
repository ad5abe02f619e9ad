"""Generalization bounds: do those of Table 1 rank networks by how much more they err on new data?

Dense networks are trained on few or many images, of which some have wrong labels, by several
methods. The bounds of their layers, divided by the median margin of the training images, are
compared with the generalization gap: the error on test images with as many wrong labels, in
expectation, minus that on training images.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, Table 1.
    Jiang, Neyshabur, Mobahi, Krishnan & Bengio, *Fantastic generalization measures and where to
    find them*, ICLR 2020 (the rank correlations).
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study.bounds_report import BOUNDS, correlations, draw
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.training import fit, to_zero

SIZES, NOISES = (150, 300, 600, 1200), (0.0, 0.2, 0.4)
WIDTHS, BATCH, STEPS, MOMENTUM = (64, 64, 64), 50, 1200, 0.9
SCALE = 5.0  # of the logits of Stiefel networks in the loss, whose margins are at most about 1


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    problem = _Problem(images, steps=60 if smoke else STEPS)
    sizes, noises = (SIZES[:1], NOISES[:2]) if smoke else (SIZES, NOISES)
    most = len(problem.inputs)
    sizes = [size for size in sizes if size <= most]
    methods = _methods()
    if smoke:
        methods = {name: methods[name][:1] for name in ("Stiefel, fgsgd", "SGD")}
    result = Study(
        name="bounds-" + images.name,
        title=f"{images.name}: a number of training images, a share of them with a wrong label, "
        f"{len(problem.validation[1])} validation and {len(problem.test[1])} test images; dense "
        f"layers of {WIDTHS} units without biases, ReLU, {problem.steps} steps. Test error: with "
        "right labels. Gap: expected error on test images with as many wrong labels, minus that on "
        "training images. Bounds: base-10 logarithms of the rows of Table 1 on layers, divided by "
        "the median margin of training images",
        cases=[
            {"images": size, "wrong labels": noise}
            for size, noise in itertools.product(sizes, noises)
        ],
        methods=methods,
        run=problem.run,
        score="validation_error",
        results={"test_error": "test error", "gap": "gap", **BOUNDS},
        seeds=2 if smoke else 5,
        tuning_seeds=1 if smoke else 2,
        draw=lambda rows, path: draw(result.finished(rows), rows, path),
        remarks=correlations,
    )
    return result


def _methods() -> dict[str, list[dict[str, float]]]:
    """Four settings for each method."""

    def rates(*rates: float) -> list[dict[str, float]]:
        return [{"learning_rate": rate} for rate in rates]

    def pairs(rates: Sequence[float], decays: Sequence[float]) -> list[dict[str, float]]:
        every = itertools.product(rates, decays)
        return [{"learning_rate": rate, "decay": decay} for rate, decay in every]

    return {
        "Stiefel, fgsgd": rates(0.03, 0.1, 0.3, 1.0),
        "sphere for each unit, fgsgd": rates(0.03, 0.1, 0.3, 1.0),
        "SGD": rates(0.003, 0.01, 0.03, 0.1),
        "SGD, weight decay": pairs((0.01, 0.03), (1e-3, 1e-2)),
        "AdamW": pairs((3e-4, 1e-3), (0.1, 1.0)),
    }


def network(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """The outputs for inputs `(number, features)`."""
    *hidden, last = (params[name] for name in sorted(params))
    for kernel in hidden:
        x = jax.nn.relu(x @ kernel)
    return x @ last


class _Problem:
    """The images, and the training of one trial."""

    def __init__(self, images: ImageData, steps: int):
        pixels = images.train_images.reshape(len(images.train_images), -1)
        inputs, labels = pixels / pixels.max(), images.train_labels
        held_out = len(inputs) // 5
        self.inputs, self.labels = inputs[:-held_out].astype(np.float32), labels[:-held_out]
        self.validation = jnp.asarray(inputs[-held_out:], jnp.float32), labels[-held_out:]
        test = images.test_images.reshape(len(images.test_images), -1) / pixels.max()
        self.test = jnp.asarray(test, jnp.float32), images.test_labels
        self.classes, self.steps = images.classes, steps

    def run(self, trial: Row) -> Row:
        """Trains one network and measures it."""
        size, seed = trial["images"], trial["seed"]
        share = trial["wrong labels"]
        labels = with_wrong_labels(self.labels[:size], share, self.classes, seed)
        given = self.inputs[:size], labels, jax.random.key(seed)
        rate, decay = trial["learning_rate"], trial.get("decay", 0.0)
        measured = self._trained(trial["method"], *given, rate, decay)
        expected = error_with_wrong_labels(measured["test_error"], share, self.classes)
        measured |= {"gap": expected - measured.pop("training_error")}
        return {name: value for name, value in measured.items() if bool(jnp.isfinite(value))}

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _trained(self, method: str, inputs, labels, key, rate, decay) -> Row:
        keys = jax.random.split(key)
        params = self._initial(keys[0], inputs.shape[1])
        spec = fg.collection(params, ("*", _pom(method)), default=None)
        params = fg.project(params, spec)
        tx = _optimizer(method, spec, to_zero(rate, self.steps), decay)
        scale = SCALE if method.startswith("Stiefel") else 1.0

        def loss(params, x, labels):
            logits = scale * network(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        epochs = self.steps // (len(labels) // BATCH)
        params, _ = fit(loss, tx, params, inputs, labels, keys[1], epochs=epochs, batch_size=BATCH)

        def error(x, labels):
            return jnp.mean(network(params, x).argmax(-1) != labels)

        margin = jnp.median(fg.bounds.margins(network(params, inputs), labels))
        bounds = fg.bounds.network_bounds(params, spec, samples=len(labels)).layers
        return {
            "validation_error": error(*self.validation),
            "test_error": error(*self.test),
            "training_error": error(inputs, labels),
        } | {name: (getattr(bounds, name) - jnp.log(margin)) / jnp.log(10.0) for name in BOUNDS}

    def _initial(self, key: jax.Array, features: int) -> dict[str, jax.Array]:
        sizes = (features, *WIDTHS, self.classes)
        orthogonal = jax.nn.initializers.orthogonal(2**0.5)
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = itertools.pairwise(sizes)
        return {f"layer{i}": orthogonal(keys[i], shape) for i, shape in enumerate(shapes)}


def with_wrong_labels(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """The labels, of which a share is replaced by one of the other classes."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    labels = labels.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return labels


def error_with_wrong_labels(error: Any, share: float, classes: int) -> Any:
    """The error to expect if a share of the labels is replaced by one of the other classes.

    A right answer then counts as wrong with probability `share`, and a wrong answer as right if the
    label became this answer.
    """
    return (1 - error) * share + error * (1 - share / (classes - 1))


def _pom(method: str) -> fg.Pom | None:
    if method.startswith("Stiefel"):
        return fg.pom("layer", fg.Stiefel())
    if method.startswith("sphere"):
        return fg.pom("PO", fg.Sphere(), component="filter")
    return None


def _optimizer(method: str, spec: fg.Collection, rate, decay) -> optax.GradientTransformation:
    if "fgsgd" in method:
        return fg.fgsgd(rate, spec, momentum=MOMENTUM)
    if method == "AdamW":
        return optax.adamw(rate, weight_decay=decay)
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, MOMENTUM))
