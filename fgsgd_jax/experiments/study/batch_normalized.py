"""A convolutional network with batch normalization: do manifolds train it as well as AdamW?

The network has the layers and the channels of the one that `train` trains. Its convolutions are on
manifolds or free; all methods have as many settings, two numbers each, and the same schedule.
"""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.grid import Settings, Study
from fgsgd_jax.experiments.study.rates_network import errors_of, initial, network
from fgsgd_jax.experiments.study.training import split, to_zero

CHANNELS = (32, 64, 64)
BATCH = 50
MOMENTUM = 0.9

SPHERE = ("PO", fg.Sphere())
THREE = ("PIO", (fg.Sphere(), fg.Oblique(), fg.Stiefel()))


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    problem = _Problem(images, CHANNELS[:1] if smoke else CHANNELS, epochs=1 if smoke else 6)
    methods = _methods()
    if smoke:
        methods = {name: methods[name][5:7] for name in ("AdamW", "three types, riemannian_adam")}
    result = Study(
        name=f"batch-normalized-{images.name}",
        title=f"{images.name}: {len(problem.train[1])} training, {len(problem.validation[1])} "
        f"validation and {len(problem.test[1])} test images; convolutions of {problem.channels} "
        f"channels with batch normalization, {problem.epochs} epochs. Rate: of the convolutions, "
        "or of all weights; others: of all other weights, by Adam",
        cases=[{}],
        methods=methods,
        run=problem.run,
        score="validation_error",
        results={"test_error": "test error", "train_loss": "training loss"},
        seeds=2 if smoke else 5,
        tuning_seeds=1,
        draw=lambda rows, path: _draw(result, rows, path),
    )
    return result


def _methods() -> dict[str, list[Settings]]:
    """Five rates and three values of another number for each method."""

    def grid(rates: Sequence[float], name: str, values: Sequence[float]) -> list[Settings]:
        return [{"rate": rate, name: value} for rate, value in itertools.product(rates, values)]

    others = "others", (1e-3, 3e-3, 1e-2)
    by_adam = grid((0.01, 0.03, 0.1, 0.3, 1.0), *others)
    return {
        "AdamW": grid((3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "decay", (0, 0.01, 0.1)),
        "SGD": grid((0.003, 0.01, 0.03, 0.1, 0.3), "decay", (0, 1e-4, 1e-3)),
        "sphere, riemannian_adam": by_adam,
        "three types, riemannian_adam": by_adam,
        "three types, on_manifold(adam)": by_adam,
        "three types, fgsgd": grid((0.1, 0.3, 1.0, 3.0, 10.0), *others),
    }


# --- training ---------------------------------------------------------------------------------


class _Problem:
    """The images, and the training of one trial."""

    def __init__(self, images: ImageData, channels: tuple[int, ...], epochs: int):
        self.train, self.validation, self.test = split(images)
        self.classes, self.channels, self.epochs = images.classes, channels, epochs
        self.steps = len(self.train[1]) // BATCH

    def run(self, trial: Row) -> Row:
        """Trains one network and measures it.

        Python takes the steps, because of XLA's CPU compiler (JAX 0.10.2, two cores). In a compiled
        loop it does not call the library that computes convolutions fast, and a step takes eight
        times as long. On two cores convolutions may wait for each other forever; more threads,
        `NPROC=8` in the environment, avoid that.
        """
        keys, method = jax.random.split(jax.random.key(trial["seed"])), trial["method"]
        numbers = trial["rate"], trial["others" if "," in method else "decay"]
        params, state = self._start(method, keys[0], *numbers)
        for key in jax.random.split(keys[1], self.epochs):
            order = jax.random.permutation(key, len(self.train[1]))
            for batch in order[: self.steps * BATCH].reshape(self.steps, BATCH):
                params, state = self._step(method, params, state, batch, *numbers)
        return self._measured(params)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _start(self, method: str, key, rate, other):
        images, _ = self.train
        params = initial(key, images, self.classes, normalized=True, channels=self.channels)
        if "," in method:
            params = fg.project(params, _spec(method, params))
        return params, self._optimizer(method, params, rate, other).init(params)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _step(self, method: str, params, state, batch, rate, other):
        gradient = jax.grad(_loss)(params, *(array[batch] for array in self.train))
        tx = self._optimizer(method, params, rate, other)
        return fg.apply_gradients(tx, gradient, state, params)

    def _optimizer(self, method: str, params, rate, other) -> optax.GradientTransformation:
        steps = self.epochs * self.steps
        rate = to_zero(rate, steps)
        if method == "AdamW":
            return optax.adamw(rate, weight_decay=other)
        if method == "SGD":
            return optax.chain(optax.add_decayed_weights(other), optax.sgd(rate, MOMENTUM))
        spec, euclidean = _spec(method, params), optax.adam(to_zero(other, steps))
        if method.endswith("riemannian_adam"):
            return fg.riemannian_adam(rate, spec, euclidean=euclidean)
        if method.endswith("on_manifold(adam)"):
            return fg.on_manifold(optax.adam(rate), spec, euclidean=euclidean)
        return fg.fgsgd(rate, spec, momentum=MOMENTUM, euclidean=euclidean)

    @functools.partial(jax.jit, static_argnums=0)
    def _measured(self, params) -> dict[str, jax.Array]:
        errors = errors_of(params, self.train[0], self.validation, self.test)
        return errors | {"train_loss": _loss(params, *self.train)}


def _spec(method: str, params) -> fg.Collection:
    """The kernels of the convolutions on manifolds; the norms of filters do not matter."""
    scheme, manifolds = SPHERE if method.startswith("sphere") else THREE
    return fg.collection(params, ("conv*/kernel", fg.pom(scheme, manifolds)), default=None)


def _loss(params, x, labels):
    """The mean cross-entropy of a batch, normalized by its own moments."""
    outputs, _ = network(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


# --- the figure -------------------------------------------------------------------------------


def _draw(study: Study, rows: list[Row], path: Path) -> None:
    """Validation error over the rate, and test error of every method."""
    figures.draw_rates(study, rows, path, rate="learning rate")
