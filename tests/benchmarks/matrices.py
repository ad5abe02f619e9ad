"""Large Stiefel points: the cost of keeping columns orthonormal, compared with alternatives.

The retraction alone is compared with a QR decomposition, whose process has its own number of BLAS
threads. The whole update of FG-SGD is compared with a landing step, which leaves the manifold and
is pulled back by a penalty, and with `optax.contrib.muon`, which orthogonalizes the direction and
not the weight. Several matrices are measured as separate weights and as one stacked weight.

References:
    Ablin & Peyré, *Fast and accurate optimization on the orthogonal manifold without retraction*,
    2022 (landing); Jordan et al., *Muon*, 2024.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import formatting, timing
from fgsgd_jax.experiments.bench.config import MOMENTUM, RATE
from fgsgd_jax.experiments.bench.environment import cores
from fgsgd_jax.experiments.bench.sections import Tables
from fgsgd_jax.experiments.bench.weights import start_on, update_of

from .arrays import random_array
from .processes import Process
from .settings import BenchmarkSettings

SIZES = ((576, 64, 16), (1152, 128, 8), (4608, 512, 1))
PENALTY = 1.0  # λ of the landing step
# The most multiplications in one tall product, over all steps of the test of orthonormality. It
# allows 1,000 steps at the two smaller sizes, and fewer at the largest.
BUDGET = 2e10


def measure(settings: BenchmarkSettings) -> dict[str, Any]:
    """Times retractions and whole steps, and measures orthonormality, at every size."""
    sizes = [
        # At least two columns: a single one would be a point of a sphere.
        (round(rows * settings.width), max(2, round(columns * settings.width)), lanes)
        for rows, columns, lanes in SIZES
    ]
    retractions, steps, drift = [], [], []
    with timing.progress(3 * len(sizes), "matrices") as bar:
        for size in sizes:
            name = {"rows": size[0], "columns": size[1], "matrices": size[2]}
            bar.set_description(f"matrices, {size[2]} × {size[0]}×{size[1]}")
            retractions += [{**name, **row} for row in _retractions(size, settings.rounds)]
            bar.update()
            steps += [{**name, **row} for row in _steps(size, settings.rounds)]
            bar.update()
            drift.append({**name, **_drift(size[:2], settings.steps)})
            bar.update()
    return {"blas_threads": _threads(), "retractions": retractions, "steps": steps, "drift": drift}


def _threads() -> list[int]:
    return sorted({1, cores()})


# --- the retraction alone ------------------------------------------------------------------------


def _retractions(size: tuple[int, int, int], rounds: int) -> list[dict[str, Any]]:
    rows, columns, number = size
    stiefel = fg.Stiefel()
    lanes = (number,) if number > 1 else ()
    x = _frames((rows, columns, *lanes))
    v = jax.jit(lambda x, g: -RATE * stiefel.to_tangent(x, g))(x, random_array(x.shape, 1))
    retract = jax.jit(stiefel.retract)
    ours = "polar retraction of Stiefel()"
    clocks = {ours: timing.clock(lambda: retract(x, v))}
    shape = (number, rows, columns) if number > 1 else (rows, columns)
    processes: list[Process] = []
    try:
        for threads in _threads():
            process = Process("lapack_steps", threads=threads, kind="qr", shape=shape)
            processes.append(process)
            label = f"jnp.linalg.qr, {threads} BLAS thread{'s'[: threads > 1]}"
            clocks[label] = process.clock("qr")
        seconds = timing.in_turn(clocks, rounds)
    finally:
        for process in processes:
            process.close()
    return [_row(label, seconds, ours) for label in clocks]


def _row(label: str, seconds: dict[str, np.ndarray], baseline: str) -> dict[str, Any]:
    ratio = timing.ratio_of(seconds[label], seconds[baseline])
    return {
        "label": label,
        "seconds": float(np.median(seconds[label])),
        "ratio": ratio.ratio,
        "ratio_quartiles": [ratio.low, ratio.high],
    }


def _frames(shape: tuple[int, ...]) -> jax.Array:
    """Random matrices `(rows, columns, *lanes)` with orthonormal columns, by NumPy's QR."""
    normal = np.random.default_rng(0).standard_normal((*shape[2:], *shape[:2]))
    return jnp.asarray(np.moveaxis(np.linalg.qr(normal)[0], (-2, -1), (0, 1)), jnp.float32)


# --- whole steps ---------------------------------------------------------------------------------


def landing(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The landing step x − r·(skew(gxᵀ)x + λx(xᵀx − 1)), in 4 tall products.

    skew(gxᵀ)x = ½(g·xᵀx − x·gᵀx), so no rows × rows matrix is needed.

    Args:
        x: Matrices `(…, rows, columns)`.
        gradient: Their gradients.
    """
    transposed = jnp.swapaxes(x, -1, -2)
    gram = transposed @ x
    normal = PENALTY * (gram - jnp.eye(x.shape[-1], dtype=x.dtype)) - 0.5 * (
        jnp.swapaxes(gradient, -1, -2) @ x
    )
    return x - RATE * (0.5 * (gradient @ gram) + x @ normal)


def _steps(size: tuple[int, int, int], rounds: int) -> list[dict[str, Any]]:
    separate, stacked = _separate(size), _stacked(size)
    figures = []
    for block, cases in (("separate", separate), ("stacked", stacked)):
        if block == "stacked" and size[2] == 1:
            continue
        clocks = {label: timing.clock(step) for label, step in cases.items()}
        seconds = timing.in_turn(clocks, rounds)
        ours = next(iter(clocks))
        figures += [{"block": block, **_row(label, seconds, ours)} for label in clocks]
    return figures


def _separate(size: tuple[int, int, int]) -> dict[str, timing.Iterated]:
    rows, columns, number = size
    request = fg.pom("layer", fg.Stiefel(), component="matrix")
    gradient = {f"{leaf}": random_array((rows, columns), leaf + 1) for leaf in range(number)}
    return _contestants(gradient, request, None)


def _stacked(size: tuple[int, int, int]) -> dict[str, timing.Iterated]:
    rows, columns, number = size
    cut = fg.Component(rows=(1,), columns=(2,), stack=(0,))
    gradient = {"all": random_array((number, rows, columns), 1)}
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return _contestants(
        gradient,
        fg.pom("layer", fg.Stiefel(), component=cut),
        jax.tree.map(lambda _: axes, gradient),
    )


def _contestants(
    gradient: dict[str, jax.Array], request: fg.Pom, axes
) -> dict[str, timing.Iterated]:
    spec = fg.collection(gradient, default=request)
    start = start_on(spec, gradient)

    def update(tx: optax.GradientTransformation) -> timing.Iterated:
        return timing.Iterated(update_of(tx), (start, tx.init(start)), gradient)

    def landed(params, gradient):
        return (jax.tree.map(landing, params, gradient),)

    return {
        "fgsgd": update(fg.fgsgd(RATE, spec)),
        f"fgsgd, momentum {MOMENTUM}": update(fg.fgsgd(RATE, spec, momentum=MOMENTUM)),
        "landing": timing.Iterated(landed, (start,), gradient),
        "optax.contrib.muon": update(optax.contrib.muon(RATE, muon_weight_dimension_numbers=axes)),
        f"optax.sgd, momentum {MOMENTUM}": update(optax.sgd(RATE, momentum=MOMENTUM)),
    }


# --- orthonormality ------------------------------------------------------------------------------


def _drift(shape: tuple[int, int], most: int) -> dict[str, Any]:
    """‖xᵀx − 1‖_F in float64 after many tangent steps of spectral norm uniform in (0, 1]."""
    rows, columns = shape
    steps = max(1, min(most, int(BUDGET / (rows * columns**2))))
    stiefel = fg.Stiefel()
    next_point: Callable[..., jax.Array] = jax.jit(
        lambda x, g, size: stiefel.retract(x, _of_spectral_norm(stiefel.to_tangent(x, g), size))
    )
    x = _frames(shape)
    directions = [random_array(shape, seed) for seed in range(8)]
    sizes = 1 - np.random.default_rng(0).random(steps)
    for step in range(steps):
        x = next_point(x, directions[step % len(directions)], np.float32(sizes[step]))
    exact = np.asarray(x, np.float64)
    error = np.linalg.norm(exact.T @ exact - np.eye(columns))
    return {"steps": steps, "error": float(error)}


def _of_spectral_norm(v: jax.Array, size: jax.Array) -> jax.Array:
    return v * (size / fg.norms.spectral(v))


# --- tables --------------------------------------------------------------------------------------


def tables(content: dict[str, Any]) -> Tables:
    """The figures for people to read."""

    def size(row: formatting.Row) -> str:
        return f"{row['matrices']} × {row['rows']}×{row['columns']}"

    columns: formatting.Columns = [
        ("", lambda row: row["label"]),
        *formatting.ratio_columns(),
        ("median", lambda row: formatting.duration(row["seconds"])),
    ]
    retractions: dict[str, list[formatting.Row]] = {}
    for row in content["retractions"]:
        retractions.setdefault(size(row), []).append(row)
    steps: dict[str, list[formatting.Row]] = {}
    for row in content["steps"]:
        many = "" if row["matrices"] == 1 else f", {row['block']}"
        steps.setdefault(size(row) + many, []).append(row)
    drift: formatting.Columns = [
        ("matrix", lambda row: f"{row['rows']}×{row['columns']}"),
        ("steps", lambda row: f"{row['steps']:,}"),
        ("‖xᵀx − 1‖", lambda row: f"{row['error']:.1e}"),
    ]
    return [
        formatting.table("time / time of the retraction", columns, retractions),
        formatting.table("time of an update / time of fgsgd", columns, steps),
        formatting.table(
            "after tangent steps of spectral norm up to 1", drift, {"": content["drift"]}
        ),
    ]
