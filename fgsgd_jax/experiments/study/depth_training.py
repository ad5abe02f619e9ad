"""What the studies of depth share: the methods and their settings, training, and the figure."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.training import fit, split, to_zero

BATCH = 50
DEPTHS = np.linspace(0, 1, 11)
"""The depths of the layers whose gain is kept, over the depth of the network."""
GAINS = [f"gain_{round(100 * depth)}" for depth in DEPTHS]
SECOND = {
    "SGD": ("momentum", (0, 0.9)),
    "SGD, clipped": ("clip", (0.1, 1.0)),
    "AdamW": ("decay", (0, 0.1)),
}
"""By method, its second hyperparameter; on manifolds it is the scale."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of hidden layers of one shape, which are stacked along the first axis.

    Attributes:
        initial: `(key, shape of an image, layers, classes) -> params`, with the hidden layers at
            `"hidden"`.
        outputs: `(params, images) -> outputs, units`, the outputs `(number, classes)` and the
            hidden units `(layers, number, …)`.
        poms: By method, what asks for manifolds of the hidden kernels at a scale.
    """

    initial: Callable[[jax.Array, tuple[int, ...], int, int], Any]
    outputs: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]
    poms: Mapping[str, Callable[..., Any]]

    def spec(self, method: str, params: Any, scale: float) -> fg.Collection:
        """The hidden kernels on the manifolds of a method."""
        return fg.collection(
            params, ("hidden/kernel", self.poms[method](scale=scale)), default=None
        )


def study(
    network: Network,
    images: ImageData,
    *,
    name: str,
    layers: Sequence[int],
    rates: Mapping[str, Sequence[float]],
    epochs: int,
    tuning_seeds: int,
    description: str,
    smoke: bool,
) -> Study:
    """The study of these networks; `smoke` makes it small enough for a test."""
    problem = _Problem(network, images, epochs=1 if smoke else epochs)
    result = Study(
        name=f"{name}-{images.name}",
        title=f"{images.name}: {len(problem.train[1])} training, {len(problem.validation[1])} "
        f"validation and {len(problem.test[1])} test images; {description}. Gain: the deviation "
        "of the last hidden units over that of the first, after training",
        cases=[{"layers": number} for number in ((3,) if smoke else layers)],
        methods={
            method: _settings(method, of_method, smoke=smoke) for method, of_method in rates.items()
        },
        run=problem.run,
        score="validation_error",
        results={"test_error": "test error", "train_loss": "training loss", "gain": "gain"},
        seeds=2 if smoke else 5,
        tuning_seeds=1 if smoke else tuning_seeds,
        draw=lambda rows, path: _draw(result, rows, path),
    )
    return result


def _settings(method: str, rates: Sequence[float], *, smoke: bool) -> list[dict[str, float]]:
    """Six rates and two values of a second hyperparameter."""
    name, values = SECOND.get(method, ("scale", (1.0, 1.05)))
    pairs = itertools.product(rates[:1] if smoke else rates, values[:1] if smoke else values)
    return [{"learning_rate": rate, name: value} for rate, value in pairs]


# --- training ---------------------------------------------------------------------------------


class _Problem:
    """The images, and the training of one trial."""

    def __init__(self, network: Network, images: ImageData, epochs: int):
        self.train, self.validation, self.test = split(images)
        self.network, self.classes, self.epochs = network, images.classes, epochs

    def run(self, trial: Row) -> Row:
        """Trains one network and measures it."""
        given = {"momentum": 0.9, "decay": 0.0, "clip": 1.0, "scale": 1.0} | trial
        numbers = [given[name] for name in ("learning_rate", "momentum", "decay", "clip")]
        key = jax.random.key(trial["seed"])
        return self._trained(trial["method"], trial["layers"], given["scale"], key, *numbers)

    @functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
    def _trained(
        self, method: str, layers: int, scale: float, key, rate, momentum, decay, clip
    ) -> dict[str, jax.Array]:
        network, keys = self.network, jax.random.split(key)
        params = network.initial(keys[0], self.train[0].shape[1:], layers, self.classes)
        steps = self.epochs * (len(self.train[1]) // BATCH)
        schedule = to_zero(rate, steps)
        if method in network.poms:
            spec = network.spec(method, params, scale)
            params = fg.project(params, spec)
            tx = fg.fgsgd(schedule, spec, momentum=momentum, euclidean="sgd")
        else:
            tx = _free(method, schedule, momentum, decay, clip)

        def loss(params, x, labels):
            logits, _ = network.outputs(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        params, _ = fit(
            loss, tx, params, *self.train, keys[1], epochs=self.epochs, batch_size=BATCH
        )

        def error(x, labels):
            return jnp.mean(network.outputs(params, x)[0].argmax(-1) != labels)

        units = network.outputs(params, self.validation[0])[1]
        deviations = units.reshape(*units.shape[:2], -1).std(1).mean(-1)
        gains = (deviations / deviations[0])[np.round(DEPTHS * (layers - 1)).astype(int)]
        return {
            "validation_error": error(*self.validation),
            "test_error": error(*self.test),
            "train_loss": loss(params, *self.train),
            **dict(zip(GAINS, gains, strict=True)),
            "gain": gains[-1],
        }


def _free(method, rate, momentum, decay, clip) -> optax.GradientTransformation:
    if method == "AdamW":
        return optax.adamw(rate, weight_decay=decay)
    if method == "SGD, clipped":
        return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(rate, momentum))
    return optax.sgd(rate, momentum)


# --- the figure -------------------------------------------------------------------------------


def _draw(study: Study, rows: list[Row], path: Path) -> None:
    """For each depth, error over learning rate, and gain through the layers; error over depth."""
    study = study.finished(rows)
    count = len(study.cases)
    figure, panels = figures.panels(2, count + 1, sharey=False)
    for case, (over_rate, through_layers) in zip(study.cases, panels[:, :-1].T, strict=True):
        _draw_depth(study, rows, case, over_rate, through_layers)
    panels[0, 0].set_ylabel("validation error")
    panels[1, 0].set_ylabel("gain since the first layer")
    depths, over_depth = [case["layers"] for case in study.cases], panels[0, -1]
    for method, color in figures.colors(study.methods).items():
        chosen = [study.chosen(rows, case, method) for case in study.cases]
        errors = np.array([[row["test_error"] for row in of_case] for of_case in chosen], float)
        over_depth.errorbar(depths, errors.mean(1), errors.std(1, ddof=1), fmt=".-", color=color)
    over_depth.set(xscale="log", xlabel="layers", ylabel="test error", ylim=(0, None))
    over_depth.set_xticks(depths, depths)
    over_depth.minorticks_off()
    panels[1, -1].remove()
    figures.save(figure, path)


def _draw_depth(study: Study, rows: list[Row], case: Mapping, over_rate, through_layers) -> None:
    """Error over the learning rate, and gain through the layers at the chosen settings."""
    for method, color in figures.colors(study.methods).items():
        errors = figures.best_by_rate(study, rows, case, method, "learning_rate")
        over_rate.plot(list(errors), list(errors.values()), ".-", color=color)
        chosen = study.chosen(rows, case, method)
        gains = np.array([[row[name] for name in GAINS] for row in chosen], float).mean(0)
        through_layers.plot(DEPTHS, gains, ".-", color=color, label=method)
    over_rate.set(xscale="log", xlabel="learning rate", ylim=(0, 1))
    over_rate.set_title(f"{case['layers']} layers", fontsize=10)
    through_layers.axhline(1, color="0.8", linewidth=1, zorder=0)
    through_layers.set(xlabel="depth of the layer / depth of the network", ylim=(0, None))
