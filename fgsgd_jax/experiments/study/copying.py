"""The copying memory: can a recurrent network keep ten symbols in mind over a long delay?

The network reads ten of eight symbols, then blanks, and after a marker it has to write the symbols.
Without memory the best loss is 10·ln 8 / (delay + 20). The methods are those of `recurrent.py`.

References:
    Arjovsky, Shah & Bengio, *Unitary evolution recurrent neural networks*, ICML 2016.
"""

import functools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import figures, recurrent
from fgsgd_jax.experiments.study.grid import Study

SYMBOLS, COPIED = 8, 10
BLANK, MARKER = SYMBOLS, SYMBOLS + 1
BATCH = 20
WINDOW = 50  # steps over which losses are averaged, and after which they are kept
SOLVED = 0.1  # times the loss without memory


def study(delays: Sequence[int], *, smoke: bool) -> Study:
    """The study for these delays; `smoke` makes it small enough for a test."""
    steps = 2 * WINDOW if smoke else 1000
    methods = recurrent.methods()
    if smoke:
        delays = (5,)
        methods = {name: methods[name][:1] for name in ("Stiefel, fgsgd", "free, Adam")}
    without = ", ".join(f"{without_memory(delay):.3g}" for delay in delays)
    result = Study(
        name="copying-" + "-".join(map(str, delays)),
        title=f"{recurrent.UNITS} units with modReLU, {steps:,} steps of {BATCH} sequences, "
        f"the same orthogonal recurrent matrices to start from. Loss without memory: {without}. "
        f"Steps: until the mean loss of {WINDOW} steps is below {SOLVED:g} times this; all of them "
        "if it never is. Rate: of the recurrent matrix; others: of all other weights, by Adam",
        cases=[{"delay": delay} for delay in delays],
        methods=methods,
        run=functools.partial(_run, steps=steps),
        score="validation_loss",
        results={"loss": "loss", "steps_to_solve": "steps", "residual": "‖WᵀW − 1‖ / √units"},
        seeds=2 if smoke else 5,
        tuning_seeds=1,
        draw=lambda rows, path: _draw(result.finished(rows), rows, path),
    )
    return result


def without_memory(delay: int) -> float:
    """The loss of the best answer that does not depend on the input."""
    return COPIED * math.log(SYMBOLS) / (delay + 2 * COPIED)


# --- the problem ------------------------------------------------------------------------------


def sequences(key: jax.Array, number: int, delay: int) -> tuple[jax.Array, jax.Array]:
    """Inputs and answers, each `(delay + 20, number)`."""
    symbols = jax.random.randint(key, (COPIED, number), 0, SYMBOLS)
    blanks = jnp.full((delay + COPIED, number), BLANK)
    inputs = jnp.concatenate([symbols, blanks.at[delay - 1].set(MARKER)])
    return inputs, jnp.concatenate([blanks, symbols])


def network(params: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """The outputs `(length, number, 9)` for inputs `(length, number)`."""
    units = recurrent.units(params, params["input"][inputs])
    return units @ params["output"] + params["output_bias"]


def loss_of(params: dict[str, jax.Array], inputs: jax.Array, answers: jax.Array) -> jax.Array:
    """The mean cross-entropy over all places of all sequences."""
    outputs = network(params, inputs)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, answers).mean()


# --- training ---------------------------------------------------------------------------------


def _run(trial: Row, *, steps: int) -> Row:
    """Trains one network and measures it."""
    key = jax.random.key(trial["seed"])
    measured, losses = _trained(
        trial["method"], trial["delay"], steps, key, trial["rate"], trial["others"]
    )
    solved = losses < SOLVED * without_memory(trial["delay"])
    windows = int(solved.argmax()) + 1 if solved.any() else len(losses)
    return measured | {
        "steps_to_solve": WINDOW * windows,
        **{f"loss_{WINDOW * (index + 1)}": loss for index, loss in enumerate(losses)},
    }


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _trained(method: str, delay: int, steps: int, key, rate, others) -> tuple[Row, jax.Array]:
    """The results, and the mean loss of every window of steps."""
    keys = jax.random.split(key, 4)
    params = recurrent.initial(keys[0], SYMBOLS + 2, SYMBOLS + 1)
    tx = recurrent.optimizer(method, params, rate, optax.adam(others))

    def step(carried, key):
        params, state = carried
        batch = sequences(key, BATCH, delay)
        loss, gradient = jax.value_and_grad(loss_of)(params, *batch)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    start = params, tx.init(params)
    end: Any
    end, losses = jax.lax.scan(step, start, jax.random.split(keys[1], steps))
    params = end[0]
    return {
        "validation_loss": loss_of(params, *sequences(keys[2], 500, delay)),
        "loss": loss_of(params, *sequences(keys[3], 500, delay)),
        "residual": recurrent.residual(params),
    }, losses.reshape(-1, WINDOW).mean(1)


# --- the figure -------------------------------------------------------------------------------


def _draw(study: Study, rows: list[Row], path: Path) -> None:
    """The loss over the steps with the best settings, means over the seeds."""
    figure, (panels,) = figures.panels(1, len(study.cases))
    for panel, case in zip(panels, study.cases, strict=True):
        for method, color in figures.colors(study.methods).items():
            chosen = study.chosen(rows, case, method)
            curve: dict[int, Any] = {
                int(name.removeprefix("loss_")): [row[name] for row in chosen]
                for name in chosen[0]
                if name.startswith("loss_")
            }
            means = [
                math.nan if None in values else statistics.fmean(values)
                for values in curve.values()
            ]
            panel.plot(list(curve), means, color=color, label=method)
        panel.axhline(without_memory(case["delay"]), color="0.4", linewidth=1)
        panel.set_yscale("log")
        panel.set_ylim(top=min(10, panel.get_ylim()[1]))  # what explodes leaves the panel
        panel.set_xlabel("steps")
        panel.set_title(f"delay {case['delay']}", fontsize=10)
    panels[0].set_ylabel(f"mean loss of {WINDOW} steps")
    figures.save(figure, path)
