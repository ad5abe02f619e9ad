"""Classical problems: how fast, and how exactly, is an optimum found that is known?

Procrustes (the matrix with orthonormal columns nearest to a given one), principal components of a
covariance, and independent components (an orthogonal mixing of sources with heavy tails, unmixed by
the contrast of FastICA). The rival is a factorization of SciPy, or FastICA of scikit-learn, and
geoopt's RiemannianAdam where torch and geoopt are installed. Everything is computed in float64: in
float32, rounding leaves distances of about 1e-6.

References:
    Edelman, Arias & Smith, *The geometry of algorithms with orthogonality constraints*, 1998.
    Hyvärinen, *Fast and robust fixed-point algorithms for independent component analysis*, 1999.
    Ablin & Peyré, *Fast and accurate optimization on the orthogonal manifold without retraction*,
    2022.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.run_folder import Row
from fgsgd_jax.experiments.study import classical_geoopt, figures
from fgsgd_jax.experiments.study.classical_problems import PROBLEMS
from fgsgd_jax.experiments.study.grid import Study

NEAR = 1e-6  # the distance at which an optimum counts as found
KEPT_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # whose distances are kept, for the figure
RIVAL = "SciPy, scikit-learn"
GEOOPT = "geoopt, RiemannianAdam"


def landing(learning_rate: optax.Schedule, spec: fg.Collection) -> optax.GradientTransformation:
    """Gradient steps without a retraction, pulled back to the manifold."""
    return optax.chain(
        fg.project_to_tangent(spec),
        optax.scale_by_learning_rate(learning_rate),
        fg.land_updates(spec, after_step=False),
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "fgsgd": fg.fgsgd,
    "rsgd": fg.rsgd,
    "riemannian_adam": fg.riemannian_adam,
    "manifold_muon": fg.manifold_muon,
    "landing": landing,
}


def study(images: ImageData | None, *, smoke: bool) -> Study:
    """The study, which needs no images; `smoke` makes it small enough for a test."""
    del images
    cases = list(PROBLEMS)[:1] if smoke else list(PROBLEMS)
    methods = dict(itertools.islice(_methods().items(), 2)) if smoke else _methods()
    return Study(
        name="classical",
        title="Stiefel manifolds: the polar factor of a 30×10 matrix, 5 of 50 principal components,"
        f" 10 independent components of 1,000 samples. Float64, at most {KEPT_STEPS[-1]:,} steps. "
        "Distance: root mean square of the columns' distances from the optimum (of principal "
        f"components, sines of angles). Steps, seconds: until it is below {NEAR:g}, without "
        "compilation; all of them if it never is. Rates end at `final` times their start",
        cases=[{"problem": name} for name in cases],
        methods={name: grid[-1:] if smoke else grid for name, grid in methods.items()},
        run=_run,
        score="steps_to_the_optimum",
        results={"seconds": "seconds", "steps": "steps", "distance": "distance in the end"},
        seeds=2 if smoke else 5,
        tuning_seeds=1 if smoke else 2,
        draw=_draw,
    )


def _methods() -> dict[str, list[dict[str, float]]]:
    """Six rates, constant or falling geometrically, for each optimizer."""

    def grid(rates: Sequence[float]):
        pairs = itertools.product((1e-7, 1.0), rates)
        return [{"learning_rate": rate, "final": final} for final, rate in pairs]

    of_gradients, of_lengths = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0), (3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
    return {
        RIVAL: [{}],
        "fgsgd": grid(of_gradients),
        "rsgd": grid(of_gradients),
        "riemannian_adam": grid(of_lengths),
        "manifold_muon": grid(of_lengths),
        "landing": grid(of_gradients),
        **({GEOOPT: grid(of_lengths)} if classical_geoopt.is_installed() else {}),
    }


# --- the runs ---------------------------------------------------------------------------------


def _run(trial: Row) -> Row:
    """Solves one problem, and measures distances and times."""
    problem = PROBLEMS[trial["problem"]](np.random.default_rng(trial["seed"]))
    if trial["method"] == RIVAL:
        (found, steps), seconds = _timed(problem.solve)
        distance = problem.distance(found)
        return {
            "distance": distance,
            "steps": steps,
            "seconds": seconds,
            "steps_to_the_optimum": steps,
        }
    arguments = problem.data, problem.start, trial["learning_rate"], trial["final"]
    if trial["method"] == GEOOPT:
        solve = functools.partial(classical_geoopt.points, problem.loss, *arguments, KEPT_STEPS[-1])
        points, seconds = _timed(solve)
    else:
        with jax.enable_x64(True):
            program = _compiled(trial["problem"], trial["method"], problem.loss, *arguments)
            points, seconds = _timed(lambda: jax.block_until_ready(program(*arguments)))
    distances = np.array([problem.distance(x) for x in np.asarray(points)])
    near = np.flatnonzero(distances < NEAR)
    steps = int(near[0]) + 1 if len(near) else len(distances)
    return {
        "distance": distances[-1],
        "steps": steps,
        "seconds": seconds * steps / len(distances),
        "seconds_of_a_step": seconds / len(distances),
        "steps_to_the_optimum": steps if len(near) else len(distances) * (1 + distances[-1]),
    } | {f"after_{count}": distances[count - 1] for count in KEPT_STEPS}


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the shorter time of two calls in seconds."""
    seconds = []
    result = None
    for _ in range(2):
        before = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - before)
    return result, min(seconds)


_PROGRAMS: dict[tuple[str, str], Callable] = {}


def _compiled(name: str, method: str, loss: Callable, *arguments) -> Callable:
    """The program of a problem and a method; it takes data, start, rate and final share of it."""
    if (name, method) not in _PROGRAMS:
        program = jax.jit(functools.partial(_points, method, loss))
        _PROGRAMS[name, method] = program.lower(*arguments).compile()
    return _PROGRAMS[name, method]


def _points(method: str, loss: Callable, data, start, rate, final) -> jax.Array:
    """The points after every step, `(steps, rows, columns)`."""
    params = {"x": start}
    spec = fg.collection(params, ("x", fg.pom("layer", fg.Stiefel())))
    tx = OPTIMIZERS[method](lambda count: rate * final ** (count / KEPT_STEPS[-1]), spec)

    def step(carried, _):
        params, state = carried
        gradient = jax.grad(lambda params: loss(jnp, data, params["x"]))(params)
        updates, state = tx.update(gradient, state, params)
        moved: Any = optax.apply_updates(params, updates)
        return (moved, state), moved["x"]

    return jax.lax.scan(step, (params, tx.init(params)), length=KEPT_STEPS[-1])[1]


# --- the figure -------------------------------------------------------------------------------


def _draw(rows: list[Row], path: Path) -> None:
    """Distance over steps and over seconds, with the best settings, for the last seed."""
    last = max(row["seed"] for row in rows)
    rows = [row for row in rows if row["seed"] == last]
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    colors = figures.colors([*OPTIMIZERS, GEOOPT])
    figure, panels = figures.panels(2, len(problems))
    for column, problem in enumerate(problems):
        over_steps, over_seconds = panels[:, column]
        for row in (row for row in rows if row["problem"] == problem):
            if row["method"] == RIVAL:
                over_seconds.plot(row["seconds"], NEAR, "k*", label=RIVAL)
                continue
            curve = np.maximum([row[f"after_{count}"] for count in KEPT_STEPS], 1e-12)
            style = {"color": colors[row["method"]], "label": row["method"]}
            over_steps.plot(KEPT_STEPS, curve, ".-", **style)
            seconds = row["seconds_of_a_step"] * np.array(KEPT_STEPS)
            over_seconds.plot(seconds, curve, ".-", **style)
        over_steps.set_title(problem, fontsize=10)
        for panel, label in ((over_steps, "steps"), (over_seconds, "seconds")):
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xlabel(label)
            panel.axhline(NEAR, color="0.4", linewidth=1)
    for panel in panels[:, 0]:
        panel.set_ylabel("distance from the optimum")
    figures.save(figure, path)
