"""Depth without normalization: how deep can a plain network be, and still be trained?

Dense layers of equal width with tanh, no normalization and no skip connections. All methods start
from orthogonal kernels, which pass signals and gradients through at their full length; on Stiefel
manifolds the kernels stay orthogonal, or orthogonal times a scale, in free training they do not.

References:
    Saxe, McClelland & Ganguli, ICLR 2014 (orthogonal starts). Xie, Xiong & Pu, CVPR 2017, and Qi et
    al. (ISONet), ICML 2020 (orthogonality kept).
"""

import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.training import fit, to_zero

WIDTH, BATCH = 64, 50
ONE_LAYER = fg.Component(rows=(1,), columns=(2,), stack=(0,))


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    problem = _Problem(images, epochs=1 if smoke else 8)
    return Study(
        name="depth-" + images.name,
        title=f"{images.name}: {len(problem.train[1])} training, {len(problem.validation[1])} "
        f"validation and {len(problem.test[1])} test images; layers of {WIDTH} tanh units without "
        f"normalization, {problem.epochs} epochs, all from orthogonal kernels. Gain: the deviation "
        "of the last hidden units over that of the first, after training",
        cases=[{"layers": layers} for layers in ((3,) if smoke else (10, 30, 100))],
        methods=_methods(smoke=smoke),
        run=problem.run,
        score="validation_error",
        results={"test_error": "test error", "train_loss": "training loss", "gain": "gain"},
        seeds=2 if smoke else 5,
        tuning_seeds=1 if smoke else 2,
        draw=_draw,
    )


def _methods(*, smoke: bool) -> dict[str, list[dict[str, float]]]:
    """Six rates and two values of a second hyperparameter for each method."""

    def grid(rates: Sequence[float], name: str, values: Sequence[float]):
        pairs = itertools.product(rates[:1] if smoke else rates, values[:1] if smoke else values)
        return [{"learning_rate": rate, name: value} for rate, value in pairs]

    return {
        "Stiefel, fgsgd": grid((3e-3, 0.01, 0.03, 0.1, 0.3, 1.0), "scale", (1.0, 1.05)),
        "SGD": grid((3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1), "momentum", (0, 0.9)),
        "SGD, clipped": grid((3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1), "clip", (0.1, 1.0)),
        "AdamW": grid((3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3), "decay", (0, 0.1)),
    }


# --- the network ------------------------------------------------------------------------------


def initial(key: jax.Array, inputs: int, layers: int, classes: int) -> dict[str, Any]:
    """Orthogonal kernels and zero biases; the hidden layers are stacked along the first axis."""
    keys = jax.random.split(key, 3)
    orthogonal = jax.nn.initializers.orthogonal()
    return {
        "first": {"kernel": orthogonal(keys[0], (inputs, WIDTH)), "bias": jnp.zeros(WIDTH)},
        "hidden": {
            "kernel": jax.vmap(lambda key: orthogonal(key, (WIDTH, WIDTH)))(
                jax.random.split(keys[1], layers)
            ),
            "bias": jnp.zeros((layers, WIDTH)),
        },
        "head": {"kernel": orthogonal(keys[2], (WIDTH, classes)), "bias": jnp.zeros(classes)},
    }


def network(params: dict[str, Any], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The outputs, and the hidden units after every layer, `(layers, number, width)`."""

    def layer(h, weights):
        h = jnp.tanh(h @ weights["kernel"] + weights["bias"])
        return h, h

    h = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    h, every = jax.lax.scan(layer, h, params["hidden"])
    return h @ params["head"]["kernel"] + params["head"]["bias"], every


# --- training ---------------------------------------------------------------------------------


class _Problem:
    """The images, and the training of one trial."""

    def __init__(self, images: ImageData, epochs: int):
        mean, deviation = images.statistics()

        def flat(pixels):
            x = (jnp.asarray(pixels, jnp.float32) - mean) / deviation
            return x.reshape(len(x), -1)

        held_out = len(images.train_labels) // 5
        inputs, labels = flat(images.train_images), jnp.asarray(images.train_labels)
        self.train = inputs[:-held_out], labels[:-held_out]
        self.validation = inputs[-held_out:], labels[-held_out:]
        self.test = flat(images.test_images), jnp.asarray(images.test_labels)
        self.classes, self.epochs = images.classes, epochs

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
        keys = jax.random.split(key)
        params = initial(keys[0], self.train[0].shape[1], layers, self.classes)
        steps = self.epochs * (len(self.train[1]) // BATCH)
        schedule = to_zero(rate, steps)
        if method == "Stiefel, fgsgd":
            spec = _spec(params, scale)
            params = fg.project(params, spec)
            tx = fg.fgsgd(schedule, spec, momentum=momentum, euclidean="sgd")
        else:
            tx = _free(method, schedule, momentum, decay, clip)

        def loss(params, x, labels):
            logits, _ = network(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        params, _ = fit(
            loss, tx, params, *self.train, keys[1], epochs=self.epochs, batch_size=BATCH
        )

        def error(x, labels):
            return jnp.mean(network(params, x)[0].argmax(-1) != labels)

        units = network(params, self.validation[0])[1].std(1).mean(-1)
        return {
            "validation_error": error(*self.validation),
            "test_error": error(*self.test),
            "train_loss": loss(params, *self.train),
            "gain": units[-1] / units[0],
        }


def _spec(params: dict[str, Any], scale: float) -> fg.Collection:
    """Every hidden kernel on its own Stiefel manifold, times the scale."""
    matrices = fg.pom("layer", fg.Stiefel(), component=ONE_LAYER, scale=scale)
    return fg.collection(params, ("hidden/kernel", matrices), default=None)


def _free(method, rate, momentum, decay, clip) -> optax.GradientTransformation:
    if method == "AdamW":
        return optax.adamw(rate, weight_decay=decay)
    if method == "SGD, clipped":
        return optax.chain(optax.clip_by_global_norm(clip), optax.sgd(rate, momentum))
    return optax.sgd(rate, momentum)


# --- the figure -------------------------------------------------------------------------------


def _draw(rows: list[Row], path: Path) -> None:
    """Validation error over the learning rate, at the best second hyperparameter; by depth."""
    depths = list(dict.fromkeys(row["layers"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colors = figures.colors(methods)
    figure, (panels,) = figures.panels(1, len(depths))
    for panel, layers in zip(panels, depths, strict=True):
        for method, color in colors.items():
            curve = _curve([r for r in rows if r["layers"] == layers and r["method"] == method])
            panel.plot(list(curve), list(curve.values()), ".-", color=color, label=method)
        panel.set_xscale("log")
        panel.set_title(f"{layers} layers", fontsize=10)
        panel.set_xlabel("learning rate")
    panels[0].set_ylabel("validation error")
    figures.save(figure, path)


def _curve(rows: list[Row]) -> Mapping[float, float]:
    """By learning rate, the lowest mean error among the values of the second hyperparameter."""
    errors: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        others = tuple(row.get(name) for name in ("momentum", "clip", "decay", "scale"))
        errors.setdefault((row["learning_rate"], *others), []).append(row["validation_error"])
    best: dict[float, float] = {}
    for (rate, *_), values in errors.items():
        best[rate] = min(best.get(rate, 1.0), statistics.fmean(values))
    return dict(sorted(best.items()))
