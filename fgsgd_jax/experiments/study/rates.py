"""The learning rate: in how wide a range does a network train well, and when does it fail?

A small convolutional network, with and without batch normalization, trained with rates over five
decades. The rate of the Euclidean leaves (biases, normalization, the last layer) is tied to the
rate of the kernels, or fixed; their optimizer is SGD or Adam, as for the kernels. No method has
momentum, so that `fgsgd` and `rsgd` differ in the normalizer τ only; how often it is above 1 is
measured.

References:
    Kodryan, Lobacheva, Nakhodnov & Vetrov, *Training scale-invariant neural networks on the sphere
    can happen in three regimes*, NeurIPS 2022.
"""

import functools
import statistics
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
from fgsgd_jax.experiments.study.ranges import good_decades
from fgsgd_jax.experiments.study.rates_network import CHANNELS, errors_of, initial, network
from fgsgd_jax.experiments.study.training import fit, split, to_zero

BATCH = 50
# The rate of Euclidean leaves over that of leaves on manifolds, the default of `fgsgd`.
SHARE = 0.05
FIXED_RATES = {"SGD": 0.1, "Adam": 3e-3}  # of Euclidean leaves whose rate is not tied
GOOD, TRAINED = 1.5, 0.5  # times the lowest error; an error below which a network has learned

SPHERE = ("PO", fg.Sphere())
MIXED = ("PIO", (fg.Sphere(), fg.Oblique(), fg.Stiefel()))


def study(images: ImageData, *, smoke: bool) -> Study:
    """The study on these images; `smoke` makes it small enough for a test."""
    problem = _Problem(images, epochs=1 if smoke else 8)
    cases = [
        {"normalization": normalization, "Euclidean rate": rate}
        for normalization in ("batch", "none")
        for rate in ("tied", "fixed")
    ]
    methods = _methods()
    if smoke:
        methods = {name: methods[name][-4::2] for name in ("sphere PO, fgsgd", "SGD")}
    return Study(
        name="rates-" + images.name,
        title=f"{images.name}: {len(problem.train[1])} training, {len(problem.validation[1])} "
        f"validation and {len(problem.test[1])} test images; convolutions of {CHANNELS} channels, "
        f"{problem.epochs} epochs, no momentum. Width: the decades of tried rates whose error (of "
        f"validation and test images) is within {GOOD} times the lowest. Beyond: the decades from "
        f"the best rate to the largest with an error below {TRAINED:.0%}. τ > 1: the share of "
        "groups and steps, at the best rate",
        cases=cases[:1] if smoke else cases,
        methods=methods,
        run=problem.run,
        score="validation_error",
        results={"test_error": "test error", "normalized": "τ > 1"},
        seeds=2 if smoke else 5,
        tuning_seeds=1 if smoke else 2,
        draw=_draw,
        across_settings={"width": width, "beyond": beyond},
    )


def _methods() -> dict[str, list[dict[str, float]]]:
    """Eleven rates over five decades for each method, around those that are usual for it."""

    def grid(decades: Sequence[int]) -> list[dict[str, float]]:
        rates = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 3)]
        return [{"learning_rate": rate} for rate in [*rates, 10.0 ** (decades[-1] + 1)]]

    on_manifolds, of_sgd, of_adam = range(-3, 2), range(-4, 1), range(-5, 0)
    return {
        "sphere PO, fgsgd": grid(on_manifolds),
        "Stiefel PO, fgsgd": grid(on_manifolds),
        "three types PIO, fgsgd": grid(on_manifolds),
        "sphere PO, rsgd": grid(on_manifolds),
        "sphere PO, riemannian_adam": grid(of_adam),
        "sphere PO, on_manifold(adam)": grid(of_adam),
        "three types PIO, riemannian_adam": grid(of_adam),
        "three types PIO, on_manifold(adam)": grid(of_adam),
        "SGD": grid(of_sgd),
        "AdamW": grid(of_adam),
    }


# --- training ---------------------------------------------------------------------------------


class _Problem:
    """The images, and the training of one trial."""

    def __init__(self, images: ImageData, epochs: int):
        self.train, self.validation, self.test = split(images)
        self.classes, self.epochs = images.classes, epochs

    def run(self, trial: Row) -> Row:
        """Trains one network and measures it."""
        key = jax.random.key(trial["seed"])
        method, rate = trial["method"], trial["learning_rate"]
        kind = "Adam" if "adam" in method.lower() else "SGD"
        tied = rate * (SHARE if kind == "SGD" and "," in method else 1)
        euclidean_rate = tied if trial["Euclidean rate"] == "tied" else FIXED_RATES[kind]
        normalized = trial["normalization"] == "batch"
        return self._trained(method, kind, normalized, key, rate, euclidean_rate)

    @functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
    def _trained(self, method: str, kind: str, normalized: bool, key, rate, euclidean_rate) -> Row:
        keys = jax.random.split(key)
        params = initial(keys[0], self.train[0], self.classes, normalized=normalized)
        steps = self.epochs * (len(self.train[1]) // BATCH)
        rate, euclidean_rate = to_zero(rate, steps), to_zero(euclidean_rate, steps)
        euclidean = {"SGD": optax.sgd, "Adam": optax.adam}[kind](euclidean_rate)
        if "," in method:
            spec = _spec(method, params, normalized=normalized)
            params = fg.project(params, spec)
            tx = optax.chain(_share(spec), _on_manifolds(method, spec, rate, euclidean))
        else:
            tx = _free(method, rate, euclidean)

        def loss(params, x, labels):
            losses = optax.softmax_cross_entropy_with_integer_labels(network(params, x)[0], labels)
            return losses.mean()

        params, normalized_share = fit(
            loss,
            tx,
            params,
            *self.train,
            keys[1],
            epochs=self.epochs,
            batch_size=BATCH,
            measure=lambda state: state[0] if "fgsgd" in method else (),
        )
        errors = errors_of(params, self.train[0], self.validation, self.test)
        return errors | ({"normalized": normalized_share.mean()} if "fgsgd" in method else {})


def _spec(method: str, params: dict[str, Any], *, normalized: bool) -> fg.Collection:
    """The kernels of the convolutions on manifolds; without normalization, features keep theirs."""
    scheme, manifolds = {
        "sphere PO": SPHERE,
        "Stiefel PO": ("PO", fg.Stiefel()),
        "three types PIO": MIXED,
    }[method.partition(",")[0]]
    scale = None if normalized else "variance"
    return fg.collection(
        params, ("conv*/kernel", fg.pom(scheme, manifolds, scale=scale)), default=None
    )


def _share(spec: fg.Collection) -> optax.GradientTransformation:
    """Passes gradients on; its state is the share of groups whose τ is above 1."""
    measure = fg.diagnostics.of_gradients(spec)

    def update_fn(updates, state, params: Any = None):
        del state
        measured: Any = measure.update(updates, measure.init(params), params)[0]
        return updates, measured["normalized_share"]

    return optax.GradientTransformation(lambda params: jnp.zeros([]), update_fn)


def _on_manifolds(method: str, spec: fg.Collection, rate, euclidean):
    optimizer: Callable[..., optax.GradientTransformation] = {
        "fgsgd": fg.fgsgd,
        "rsgd": fg.rsgd,
        "riemannian_adam": fg.riemannian_adam,
        "on_manifold(adam)": lambda rate, spec, **given: fg.on_manifold(
            optax.adam(rate), spec, **given
        ),
    }[method.partition(", ")[2]]
    return optimizer(rate, spec, euclidean=euclidean)


def _free(method: str, rate, euclidean) -> optax.GradientTransformation:
    tx = optax.adamw(rate) if method == "AdamW" else optax.sgd(rate)

    def labels(params):
        return {
            name: {
                leaf: "kernel" if leaf == "kernel" and name != "head" else "other" for leaf in layer
            }
            for name, layer in params.items()
        }

    return optax.partition({"kernel": tx, "other": euclidean}, labels)


# --- what the rates show ----------------------------------------------------------------------


def curve(rows: list[Row]) -> Mapping[float, float]:
    """The mean error of validation and test images, by rate, over the seeds of all rates."""
    errors: dict[float, dict[int, float]] = {}
    for row in rows:
        of_rate = errors.setdefault(row["learning_rate"], {})
        of_rate[row["seed"]] = (row["validation_error"] + row["test_error"]) / 2
    seeds = set.intersection(*map(set, errors.values()))
    return {rate: statistics.fmean(errors[rate][seed] for seed in seeds) for rate in sorted(errors)}


def width(rows: list[Row]) -> float:
    """The decades around the best rate in which the error is within `GOOD` times the lowest."""
    return good_decades(curve(rows), GOOD)


def beyond(rows: list[Row]) -> float:
    """The decades from the best rate to the largest at which networks learn."""
    errors = curve(rows)
    best = min(errors, key=lambda rate: errors[rate])
    largest = max([best, *(rate for rate in errors if errors[rate] < TRAINED)])
    return float(np.log10(largest / best))


def _draw(rows: list[Row], path: Path) -> None:
    """Error over the learning rate, a panel for each case and a curve for each method."""
    names = "normalization", "Euclidean rate"
    cases = list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))
    colors = figures.colors(row["method"] for row in rows)
    figure, (panels,) = figures.panels(1, len(cases))
    for panel, case in zip(panels, cases, strict=True):
        for method, color in colors.items():
            chosen = (*case, method)
            errors = curve([r for r in rows if (*(r[n] for n in names), r["method"]) == chosen])
            panel.plot(list(errors), list(errors.values()), ".-", color=color, label=method)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("learning rate")
        panel.set_title(f"normalization: {case[0]}, Euclidean rate: {case[1]}", fontsize=10)
    panels[0].set_ylabel("error of validation and test images")
    figures.save(figure, path)
