"""Streaming principal components: how much does the learning rate matter, with averages?

Every step sees a few samples once (Oja's setting): Riemannian SGD on a Stiefel manifold with rates
C/√t, and the average of its iterates on the manifold. The error is the squared sine of the angles
between the span found and the true one.

References:
    Tripuraneni, Flammarion, Bach & Jordan, *Averaging stochastic gradient descent on Riemannian
    manifolds*, COLT 2018.
"""

import functools
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure

import fgsgd_jax as fg
from fgsgd_jax.experiments import plots
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study.grid import Study

# The variances fall slowly, so that the components that are wanted are not far from the others.
DIMENSIONS, COMPONENTS = 50, 5
RATES = (0.1, 0.3, 1.0, 3.0)

LABELS = {
    "last": "last iterate",
    "averaged": "average",
    "tail": "average after the first tenth",
}


def study(images: ImageData | None, *, smoke: bool) -> Study:
    """The study, which needs no images; `smoke` makes it small enough for a test."""
    del images
    samples = 500 if smoke else 20_000
    return Study(
        name="streaming",
        title=f"{COMPONENTS} principal components in {DIMENSIONS} dimensions, {samples:,} samples, "
        "rates C/√t. Error: the mean squared sine of the principal angles",
        cases=[{"C": rate} for rate in (RATES[2:3] if smoke else RATES)],
        methods={"rsgd, Stiefel": [{}]},
        run=lambda trial: _run(jax.random.key(trial["seed"]), trial["C"], samples),
        score="last",
        results=LABELS,
        seeds=2 if smoke else 5,
        tuning_seeds=1 if smoke else 5,
        draw=_draw,
    )


@functools.partial(jax.jit, static_argnums=2)
def _run(key: jax.Array, rate: jax.Array, samples: int) -> dict[str, jax.Array]:
    keys = jax.random.split(key, 3)
    deviations = jnp.where(jnp.arange(DIMENSIONS) < COMPONENTS, 1.0, 0.5)
    basis = jax.nn.initializers.orthogonal()(keys[0], (DIMENSIONS, DIMENSIONS))
    params = {"w": jax.nn.initializers.orthogonal()(keys[1], (DIMENSIONS, COMPONENTS))}
    spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
    tx = optax.chain(
        fg.rsgd(lambda count: rate / jnp.sqrt(count + 1.0), spec),
        fg.average_on_manifolds(spec, align=True),
        fg.average_on_manifolds(spec, align=True, start=samples // 10),
    )

    def loss(params, x):
        return -jnp.sum((x @ params["w"]) ** 2) / 2

    def step(carried, key):
        params, state = carried
        x = basis @ (deviations * jax.random.normal(key, (DIMENSIONS,)))
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return (optax.apply_updates(params, updates), state), None

    def error(w):
        cosines = basis[:, :COMPONENTS].T @ w
        return 1 - jnp.sum(cosines**2) / COMPONENTS

    start = params, tx.init(params)
    end: Any
    end, _ = jax.lax.scan(step, start, jax.random.split(keys[2], samples))
    params, (_, *averages) = end
    results = (params, *(fg.get_average(state, params) for state in averages))
    return {name: error(of["w"]) for name, of in zip(LABELS, results, strict=True)}


def _draw(rows: list[Row], path: Path) -> None:
    """The mean errors over C."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    panel = figure.subplots()
    rates = sorted({row["C"] for row in rows})
    colors = (plots.LIGHT_BLUE, plots.DARK_BLUE, plots.ORANGE)
    for (name, label), color in zip(LABELS.items(), colors, strict=True):
        means = [statistics.fmean(row[name] for row in rows if row["C"] == rate) for rate in rates]
        panel.plot(rates, means, "o-", color=color, label=label)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("C, for learning rates C/√t")
    panel.set_ylabel("squared sine of the angles")
    panel.legend(frameon=False)
    plots.save(figure, path)
