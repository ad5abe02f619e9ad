"""Language: a small transformer on characters, its hidden matrices free or on manifolds.

The hidden matrices are trained by the method, all other weights by the same Adam everywhere. All
methods start from the same orthogonal matrices (for oblique manifolds, their projection), and their
rates have the same schedule. A rate means something else for every method: the step of an entry
(AdamW), of a singular direction (`muon` and, at unit scale, `manifold_muon`), or of a matrix,
relative to its norm (AdamH, MuonH) or at unit scale (`riemannian_adam`). So what is compared is the
best loss, and how wide the range of rates is in which the loss is close to it.

References:
    Loshchilov & Hutter, ICLR 2019 (AdamW). Jordan, *Muon*, 2024. arXiv 2606.16899, 2026 (AdamH and
    MuonH). Bernstein, *Modular manifolds*, 2025 (manifold Muon).
"""

import functools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures, language_methods
from fgsgd_jax.experiments.study.grid import Study
from fgsgd_jax.experiments.study.language_network import (
    Size,
    initial,
    load_text,
    loss_of,
    loss_of_counts,
)
from fgsgd_jax.experiments.study.ranges import good_decades

BATCH, WINDOW = 16, 10  # sequences in a step; steps over which losses are averaged
OTHERS_RATE = 3e-3  # of Adam for all weights but the hidden matrices
GOOD = 1.05  # times the lowest loss
WORST = 4.5  # the loss of guessing one of 90 tokens, in place of that of a run that diverged


def study(images: ImageData | None, *, smoke: bool) -> Study:
    """The study, which needs no images; `smoke` makes it small enough for a test."""
    del images
    size = Size(width=16, layers=2, heads=2, context=16) if smoke else Size()
    problem = _Problem(size, steps=2 * WINDOW if smoke else 200)
    methods = language_methods.methods()
    if smoke:
        methods = {"AdamH": methods["AdamH"][2:4]}
    return Study(
        name="language",
        title=f"{problem.text.source}; a transformer of {size.layers} layers of width "
        f"{size.width}, {problem.weights:,} weights, {problem.steps} steps of {BATCH} sequences of "
        f"{size.context}; all methods from the same orthogonal matrices, and Adam at "
        f"{OTHERS_RATE:g} for embeddings, normalization and the last layer. Loss: nats per "
        "character, of the last twentieth of the text. Seconds: of the processor, per step, on a "
        "machine with other work. Gain: the norm of hidden matrices over that which keeps the mean "
        "square of features. Width: the decades of tried rates, of one seed, whose validation loss "
        f"is within {GOOD - 1:.0%} of the lowest",
        cases=[{}],
        methods=methods,
        run=problem.run,
        score="validation_loss",
        results={
            "test_loss": "loss",
            "validation_loss": "validation loss",
            "seconds": "seconds",
        },
        shown_as={"seconds": "mean"},
        seeds=2 if smoke else 3,
        tuning_seeds=1,
        draw=_draw,
        across_settings={"width": width},
        remarks=lambda *_: (
            "Counts of how often characters follow others have a loss of "
            f"{loss_of_counts(problem.text, 2):.2f} (pairs) and "
            f"{loss_of_counts(problem.text, 3):.2f} (triples)."
        ),
    )


# --- training ---------------------------------------------------------------------------------


class _Problem:
    """The text, and the training of one trial."""

    def __init__(self, size: Size, steps: int):
        self.text, self.size, self.steps = load_text(), size, steps
        self.shapes = jax.eval_shape(lambda: initial(jax.random.key(0), self.text.tokens, size))
        self.weights = sum(leaf.size for leaf in jax.tree.leaves(self.shapes))

    def run(self, trial: Row) -> Row:
        """Trains one network and measures it."""
        method, gain = trial["method"], trial.get("gain", 1.0)
        keys = jax.random.split(jax.random.key(trial["seed"]))
        params = initial(keys[0], self.text.tokens, self.size, gain)
        if method not in language_methods.FREE:
            params = fg.project(params, language_methods.spec(method, params, gain))
        train = self._compiled(method, gain)
        start = time.process_time()
        numbers = jnp.float32(trial["rate"]), jnp.float32(trial.get("decay", 0))
        params, losses = train(params, keys[1], *numbers)
        jax.block_until_ready(losses)
        seconds = (time.process_time() - start) / self.steps
        means = np.asarray(losses).reshape(-1, WINDOW).mean(1)
        return {
            "validation_loss": self.held_out(params, self.text.validation),
            "test_loss": self.held_out(params, self.text.test),
            "seconds": seconds,
        } | {f"loss_{WINDOW * (index + 1)}": loss for index, loss in enumerate(means)}

    @functools.cache  # noqa: B019
    def _compiled(self, method: str, gain: float):
        """The training as a compiled function of the start, a key, the rate and the decay."""
        train = jax.jit(functools.partial(self._train, method, gain))
        number = jax.ShapeDtypeStruct((), jnp.float32)
        return train.lower(self.shapes, jax.random.key(0), number, number).compile()

    def _train(self, method: str, gain: float, params, key, rate, decay):
        rates = (language_methods.schedule(r, self.steps) for r in (rate, OTHERS_RATE))
        tx = language_methods.optimizer(method, params, gain, decay, *rates)
        text, context = jnp.asarray(self.text.train), self.size.context

        def step(carried, key):
            params, state = carried
            starts = jax.random.randint(key, (BATCH, 1), 0, len(text) - context)
            windows = text[starts + jnp.arange(context + 1)]
            loss, gradient = jax.value_and_grad(loss_of)(params, windows, self.size.heads)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        start = params, tx.init(params)
        end: Any
        end, losses = jax.lax.scan(step, start, jax.random.split(key, self.steps))
        return end[0], losses

    @functools.partial(jax.jit, static_argnums=0)
    def held_out(self, params, tokens: jax.Array) -> jax.Array:
        """The mean loss over all of a text, in windows one after another."""
        size = self.size.context
        number = (len(tokens) - 1) // size // BATCH * BATCH
        starts = size * jnp.arange(number).reshape(-1, BATCH, 1)
        windows = jnp.asarray(tokens)[starts + jnp.arange(size + 1)]
        return jax.lax.map(lambda batch: loss_of(params, batch, self.size.heads), windows).mean()


# --- what the rates show ----------------------------------------------------------------------


def curve(rows: Sequence[Row]) -> Mapping[float, float]:
    """The validation loss by rate, of the first seed and the usual decay or gain."""
    usual = [
        row
        for row in rows
        if row["seed"] == 0
        and row.get("decay", language_methods.DECAY) == language_methods.DECAY
        and row.get("gain", 1) == 1
    ]
    losses = {row["rate"]: row["validation_loss"] for row in usual}
    return {rate: min(WORST, losses[rate] or WORST) for rate in sorted(losses)}


def width(rows: Sequence[Row]) -> float:
    """The decades around the best rate in which the loss is within `GOOD` times the lowest."""
    return good_decades(curve(rows), GOOD)


def _draw(rows: list[Row], path: Path) -> None:
    """The loss over the rate, over steps and over seconds; the last two with the best settings."""
    figure, (panels,) = figures.panels(1, 3)
    last = max(row["seed"] for row in rows)
    for method, color in figures.colors(row["method"] for row in rows).items():
        of_method = [row for row in rows if row["method"] == method]
        losses = curve(of_method)
        best = min(losses, key=lambda rate: losses[rate])
        relative = [rate / best for rate in losses]
        panels[0].plot(relative, list(losses.values()), ".-", color=color, label=method)
        # Only the best settings were trained from the last seed.
        chosen = next(row for row in of_method if row["seed"] == last)
        names = ("rate", "decay", "gain")
        alike = [r for r in of_method if all(r.get(n) == chosen.get(n) for n in names)]
        steps = [int(name[5:]) for name in chosen if name.startswith("loss_")]
        means = [
            statistics.fmean(
                math.nan if (loss := row[f"loss_{step}"]) is None else loss for row in alike
            )
            for step in steps
        ]
        seconds = statistics.fmean(row["seconds"] for row in alike)
        panels[1].plot(steps, means, color=color, label=method)
        panels[2].plot([seconds * step for step in steps], means, color=color, label=method)
    panels[0].set_xscale("log")
    panels[0].set_xlabel("rate / best rate")
    panels[0].set_ylabel("loss, nats per character")
    for panel, text in zip(panels, ("validation", "training", "training"), strict=True):
        panel.set_title(text, fontsize=10)
    panels[1].set_xlabel("steps")
    panels[2].set_xlabel("processor seconds")
    figures.save(figure, path)
