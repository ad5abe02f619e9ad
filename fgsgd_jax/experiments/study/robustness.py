"""Certified robustness: does a network with a small Lipschitz constant give up accuracy for it?

A dense network with Stiefel matrices and the MaxMin activation cannot increase the distance of two
inputs, so the margin of its outputs is a radius within which no perturbation changes its answer
(Tsuzuku et al., 2018; Anil et al., 2019). The rivals are trained freely, with weight decay, or with
a penalty on the spectral norms. The certificate of all of them is computed in the same way, from
the exact spectral norms of the trained matrices.

References:
    Anil, Lucas & Grosse, *Sorting out Lipschitz function approximation*, ICML 2019. Tsuzuku, Sato &
    Sugiyama, *Lipschitz-margin training*, NeurIPS 2018. Madry et al., ICLR 2018 (the attack).
"""

import functools
import itertools
from collections.abc import Sequence
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
from fgsgd_jax.experiments.study.robustness_network import (
    attacked,
    certified_radius,
    initial,
    network,
    penalty_of,
    spectral_norms,
)
from fgsgd_jax.experiments.study.training import fit, split, to_zero

SCALE = 5.0  # of the logits in the loss; with 1, a margin of at most 1 is punished as unsure
TUNED_FOR = {"digits": (0.5,), "mnist": (0.5, 1.58)}
RADII = {"digits": (0.1, 0.25, 0.5), "mnist": (0.5, 1.0, 1.58)}
EPOCHS = {"digits": 40, "mnist": 10}
BATCH, MOMENTUM = 50, 0.9
ATTACKED = 300  # images; attacks take longer than training


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    sizes = (8,) if smoke else (128, 128, 128)
    problem = _Problem(images, sizes, epochs=1 if smoke else EPOCHS[images.name])
    return Study(
        name="robustness-" + images.name,
        title=f"{images.name}: {len(problem.train[1])} training, {len(problem.validation[1])} "
        f"validation and {len(problem.test[1])} test images; dense layers of {sizes} units with "
        f"MaxMin, {problem.epochs} epochs. Certified: no perturbation of this Euclidean length "
        "changes the (right) answer. Settings are chosen by what is certified within the radius of "
        "the first column. Attacked: projected gradient ascent finds none that does"
        + (f" (first {ATTACKED} test images)" if len(problem.test[1]) > ATTACKED else ""),
        cases=[{"radius": radius} for radius in TUNED_FOR[images.name][: 1 if smoke else None]],
        methods=_methods(smoke=smoke),
        run=problem.run,
        score="validation_uncertified",
        results={
            "certified": "certified within the radius",
            "clean": "clean",
            **{f"certified_{radius:g}": f"certified {radius:g}" for radius in RADII[images.name]},
            **{f"attacked_{radius:g}": f"attacked {radius:g}" for radius in RADII[images.name]},
            "lipschitz": "Lipschitz bound",
        },
        seeds=2 if smoke else 5,
        tuning_seeds=1 if smoke else 2,
        draw=functools.partial(_draw, radii=RADII[images.name]),
    )


def _methods(*, smoke: bool) -> dict[str, list[dict[str, float]]]:
    """Six rates and four values of a second hyperparameter for each method."""

    def grid(rates: Sequence[float], name: str, values: Sequence[float]):
        pairs = itertools.product(rates[:1] if smoke else rates, values[:2] if smoke else values)
        return [{"learning_rate": rate, name: value} for rate, value in pairs]

    # Of a network that cannot increase distances, the scale of the logits decides how much clean
    # accuracy is given up for larger margins, as decay and penalty do for the others.
    sgd, adam = (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1), (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01)
    return {
        "Stiefel, fgsgd": grid((0.01, 0.03, 0.1, 0.3, 1.0, 3.0), "scale", (1.0, 2.0, 5.0, 10.0)),
        "SGD": grid(sgd, "scale", (1.0, 2.0, 5.0, 10.0)),
        "SGD, weight decay": grid(sgd, "decay", (0.01, 0.03, 0.1, 0.3)),
        "AdamW": grid(adam, "decay", (0.1, 1.0, 10.0, 100.0)),
        "SGD, spectral penalty": grid(sgd, "penalty", (1e-3, 1e-2, 0.1, 1.0)),
    }


# --- training ---------------------------------------------------------------------------------


class _Problem:
    """The images, and the training of one trial."""

    def __init__(self, images: ImageData, sizes: Sequence[int], epochs: int):
        most = images.train_images.max()

        def vectors(pixels):
            return jnp.asarray(pixels.reshape(len(pixels), -1) / most, jnp.float32)

        self.train, self.validation, self.test = split(images, vectors)
        self.sizes = (self.train[0].shape[1], *sizes, images.classes)
        self.epochs = epochs
        self.radii = RADII[images.name]

    def run(self, trial: Row) -> Row:
        """Trains one network and measures it."""
        given = {"scale": SCALE, "decay": 0.0, "penalty": 0.0} | trial
        names = ("method", "seed", "learning_rate", "scale", "decay", "penalty")
        measured = self._run(*(given[name] for name in names))
        radius = f"{trial['radius']:g}"
        return {
            "certified": measured[f"certified_{radius}"],
            "validation_uncertified": 1 - measured[f"validation_{radius}"],
        } | {name: value for name, value in measured.items() if "validation" not in name}

    @functools.cache  # noqa: B019  # of radii that settings are chosen for, the runs are the same
    def _run(self, method: str, seed: int, *numbers: float) -> Row:
        return self._measured(self._trained(method, jax.random.key(seed), *numbers))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _trained(self, method: str, key, rate, scale, decay, penalty):
        keys = jax.random.split(key)
        params = initial(keys[0], self.sizes)
        steps = self.epochs * (len(self.train[1]) // BATCH)
        tx = _optimizer(method, params, to_zero(rate, steps), decay)

        def loss(params, x, labels):
            logits = scale * network(params, x)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            if method != "SGD, spectral penalty":
                return losses.mean()
            return losses.mean() + penalty * penalty_of(params)

        params, _ = fit(
            loss, tx, params, *self.train, keys[1], epochs=self.epochs, batch_size=BATCH
        )
        return params

    @functools.partial(jax.jit, static_argnums=0)
    def _measured(self, params) -> dict[str, jax.Array]:
        (x, labels), radii = self.test, self.radii
        radius = certified_radius(params, x, labels)
        validation = certified_radius(params, *self.validation)
        right = network(params, x).argmax(-1) == labels
        return (
            {
                "clean": jnp.mean(right),
                "lipschitz": jnp.prod(jnp.stack(spectral_norms(params))),
            }
            | {f"certified_{r:g}": jnp.mean(radius > r) for r in radii}
            | {f"validation_{r:g}": jnp.mean(validation > r) for r in radii}
            | {
                f"attacked_{r:g}": jnp.mean(attacked(params, x[:ATTACKED], labels[:ATTACKED], r))
                for r in radii
            }
        )


def _optimizer(method: str, params, rate, decay) -> optax.GradientTransformation:
    if method == "AdamW":
        return optax.adamw(rate, weight_decay=decay)
    if method == "Stiefel, fgsgd":
        spec = fg.collection(params, ("*/kernel", fg.pom("layer", fg.Stiefel())), default=None)
        return fg.fgsgd(rate, spec, momentum=MOMENTUM, euclidean="sgd")
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, MOMENTUM))


# --- the figure -------------------------------------------------------------------------------


def _draw(rows: list[Row], path: Path, *, radii: Sequence[float]) -> None:
    """Every trial as a point, certified over clean accuracy; a panel for each radius."""
    figure, (panels,) = figures.panels(1, len(radii))
    colors = figures.colors(row["method"] for row in rows)
    for panel, radius in zip(panels, radii, strict=True):
        for method, color in colors.items():
            points: Any = [
                (row["clean"], row[f"certified_{radius:g}"])
                for row in rows
                if row["method"] == method
            ]
            panel.plot(*np.array(points, float).T, ".", color=color, label=method, markersize=4)
        panel.set_title(f"radius {radius:g}", fontsize=10)
        panel.set_xlabel("clean accuracy")
    panels[0].set_ylabel("certified accuracy")
    figures.save(figure, path)
