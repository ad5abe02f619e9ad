"""Convergence: from how many random starts is a global minimum reached?

Three small networks on Gaussian inputs, with targets from a network of the same shape whose first
weights are on the manifold, so that the lowest loss is 0 with and without the constraint. All
methods start from the same weights and see all samples in every step.

References:
    Du, Lee, Tian, Póczos & Singh, *Gradient descent learns one-hidden-layer CNN: don't be afraid of
    spurious local minima*, ICML 2018 (the convolution; a share of the starts must fail).
    Kawaguchi, *Deep learning without poor local minima*, NeurIPS 2016 (the linear network).
"""

import functools
import statistics
from collections.abc import Callable, Sequence
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

SAMPLES, STARTS, STEPS = 200, 20, 5_000
REACHED = 1e-8  # a loss below it is a global minimum

Activation = Callable[[jax.Array], jax.Array]

NETWORKS: dict[str, tuple[tuple[int, ...], tuple[int, int], tuple[int, int], Activation, Any]] = {
    # The shape of an input, of both weights, the activation, and where the first weight is.
    "linear": ((10,), (10, 5), (5, 3), lambda x: x, fg.pom("layer", fg.Stiefel())),
    "leaky ReLU": (
        (10,),
        (10, 4),
        (4, 1),
        functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
        fg.pom("layer", fg.Sphere(), component="filter"),
    ),
    # One filter over eight patches; the second weight is one number for each patch.
    "convolution": (
        (8, 6),
        (6, 1),
        (8, 1),
        jax.nn.relu,
        fg.pom("layer", fg.Sphere(), component="filter"),
    ),
}


def study(images: ImageData | None, *, smoke: bool) -> Study:
    """The study, which needs no images; `smoke` makes it small enough for a test."""
    del images
    steps = 50 if smoke else STEPS
    networks = list(NETWORKS)[-1:] if smoke else list(NETWORKS)
    methods = _methods()
    if smoke:
        methods = {"fgsgd": methods["fgsgd"][:1]}
    return Study(
        name="convergence",
        title=f"Two layers, {SAMPLES} Gaussian samples with targets from a network of the same "
        f"shape, {steps:,} steps on all samples at a constant rate. The first layer is on a "
        f"Stiefel manifold (linear) or on spheres. Every seed has {STARTS} networks and starts. "
        f"Reached: the share of them with a loss below {REACHED:g}",
        cases=[{"network": name} for name in networks],
        methods=methods,
        run=functools.partial(_run, steps=steps),
        score="log_loss",
        results={"reached": "reached", "log_loss": "mean of log10 of the loss"},
        seeds=2 if smoke else 5,
        tuning_seeds=1,
        draw=_draw,
    )


def _methods() -> dict[str, list[dict[str, float]]]:
    """Six rates for each method."""

    def grid(rates: Sequence[float]) -> list[dict[str, float]]:
        return [{"learning_rate": rate} for rate in rates]

    rates = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    return {"fgsgd": grid(rates), "rsgd": grid(rates), "SGD": grid(rates)}


def network(name: str, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """The outputs `(samples, outputs)`."""
    activation = NETWORKS[name][3]
    hidden = activation(x @ params["first"])
    if name == "convolution":
        hidden = hidden[..., 0]
    return hidden @ params["second"]


def initial(key: jax.Array, name: str) -> tuple[dict[str, jax.Array], fg.Collection]:
    """Normal weights, the first projected on its manifold, and their spec."""
    keys = jax.random.split(key)
    _, first, second, _, pom = NETWORKS[name]
    params = {
        "first": jax.random.normal(keys[0], first),
        "second": jax.random.normal(keys[1], second) / second[0] ** 0.5,
    }
    spec = fg.collection(params, ("first", pom), default=None)
    return fg.project(params, spec), spec


def _run(trial: Row, *, steps: int) -> Row:
    keys = jax.random.split(jax.random.key(trial["seed"]), STARTS)
    losses = _losses(trial["network"], trial["method"], steps, keys, trial["learning_rate"])
    return {"reached": jnp.mean(losses < REACHED), "log_loss": jnp.log10(losses + 1e-12).mean()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _losses(name: str, method: str, steps: int, keys, rate) -> jax.Array:
    """The losses after the last step, one for each key."""
    return jax.vmap(lambda key: _loss(name, method, steps, key, rate))(keys)


def _loss(name: str, method: str, steps: int, key, rate) -> jax.Array:
    keys = jax.random.split(key, 3)
    x = jax.random.normal(keys[0], (SAMPLES, *NETWORKS[name][0]))
    teacher, _ = initial(keys[1], name)
    params, spec = initial(keys[2], name)
    targets = network(name, teacher, x)
    if method == "SGD":
        tx = optax.sgd(rate)
    else:
        tx = {"fgsgd": fg.fgsgd, "rsgd": fg.rsgd}[method](rate, spec, euclidean="sgd")

    def loss(params):
        return jnp.mean((network(name, params, x) - targets) ** 2) / 2

    def step(carried, _):
        params, state = carried
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    end: Any
    end, _ = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return loss(end[0])


def _draw(rows: list[Row], path: Path) -> None:
    """The share of the starts that reach a global minimum, over the learning rate."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    colors = figures.colors(row["method"] for row in rows)
    figure, (panels,) = figures.panels(1, len(networks))
    for panel, name in zip(panels, networks, strict=True):
        for method, color in colors.items():
            shares: dict[float, list[float]] = {}
            for row in rows:
                if (row["network"], row["method"]) == (name, method):
                    shares.setdefault(row["learning_rate"], []).append(row["reached"])
            means = [statistics.fmean(values) for values in shares.values()]
            panel.plot(list(shares), means, ".-", color=color, label=method)
        panel.set_xscale("log")
        panel.set_xlabel("learning rate")
        panel.set_title(name, fontsize=10)
    panels[0].set_ylabel("share of starts at a global minimum")
    figures.save(figure, path)
