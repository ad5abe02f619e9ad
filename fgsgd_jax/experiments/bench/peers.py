"""The same step on 3×3 components in other libraries, where they are installed.

One step is x ← R(x, −r·P(x, g)): project the gradient, retract. Ours do it through their verbs and,
with the norms of the groups beside it, as a whole update of FG-SGD, over which all ratios are
taken. Every other library runs in a process of its own and takes its turn; all have equally many
components and threads, and float32.
"""

import math
from typing import Any

import jax
import numpy as np
import optax
import rich.table

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import _timing, cores, report
from fgsgd_jax.experiments.bench._processes import Process
from fgsgd_jax.experiments.bench._settings import (
    RATE,
    Settings,
    lanes_shape,
    manifolds_named,
    normal,
    placed,
    update_of,
)

COMPONENTS = 1_048_576  # one kernel of 3×3×1024×1024, about what a ResNet-18 has
PROBLEMS = ("sphere", "stiefel")
OURS = "fgsgd PO"
INSTALL = "python -m venv DIR && DIR/bin/pip install torch geoopt geotorch pymanopt"


def measure(settings: Settings) -> dict[str, Any]:
    """Times the steps of all libraries there are."""
    inputs, outputs = lanes_shape(min(COMPONENTS, settings.components))
    shape, threads = (3, 3, inputs, outputs), cores()
    components = inputs * outputs
    clocks = {f"{problem}: {OURS}": _fgsgd(problem, shape) for problem in PROBLEMS}
    clocks |= {f"{problem}: to_tangent, retract": _verbs(problem, shape) for problem in PROBLEMS}
    clocks |= {"stiefel: optax.contrib.muon, 3×3 by 3×3": _muon(shape)}
    processes: list[Process] = []
    try:
        others = Process(
            "torch_steps", python=settings.peer_python, threads=threads, components=components
        )
        processes.append(others)
        clocks |= {step: others.clock(step) for step in others.told["steps"]}
        versions = others.told.get("versions", {})
        # Each in a process of its own, for what hangs is ended with its process.
        for kind, label in (("qr step", "jax.vmap(jnp.linalg.qr)"), ("svd step", "jnp.linalg.svd")):
            lapack = Process("lapack_steps", threads=1, kind=kind, shape=(components, 3, 3))
            processes.append(lapack)
            clocks[f"stiefel: {label}, not jitted"] = lapack.clock(kind)
            versions = {**versions, **lapack.told.get("versions", {})}
        seconds = _timing.in_turn(clocks, settings.rounds)
        failures = [process.told["error"] for process in processes if "error" in process.told]
    finally:
        for process in processes:
            process.close()
    return {
        "components": components,
        "threads": threads,
        "versions": versions,
        "missing": others.told.get("missing", ["torch", "geoopt", "geotorch", "pymanopt"]),
        "failures": failures,
        "rows": [_row(label, seconds) for label in clocks],
    }


def _row(label: str, seconds: dict[str, np.ndarray]) -> dict[str, Any]:
    problem, _, step = label.partition(": ")
    ratio = _timing.ratio_of(seconds[label], seconds[f"{problem}: {OURS}"])
    return {
        "problem": problem,
        "step": step,
        "seconds": float(np.median(seconds[label])),
        "ratio": ratio.ratio,
        "ratio_quartiles": [ratio.low, ratio.high],
    }


def _fgsgd(problem: str, shape: tuple[int, ...]) -> _timing.Clock:
    gradient = normal({"kernel": shape}, 1)
    spec, start = placed(gradient, "PO", (problem,))
    tx = fg.fgsgd(RATE, spec)
    return _timing.clock(_timing.Fed(update_of(tx), (start, tx.init(start)), gradient))


def _verbs(problem: str, shape: tuple[int, ...]) -> _timing.Clock:
    gradient = normal({"kernel": shape}, 1)
    _, start = placed(gradient, "PO", (problem,))
    (manifold,) = manifolds_named((problem,))

    def step(x, g):
        return (manifold.retract(x, -RATE * manifold.to_tangent(x, g)),)

    return _timing.clock(_timing.Fed(step, (start["kernel"],), gradient["kernel"]))


def _muon(shape: tuple[int, ...]) -> _timing.Clock:
    gradient = normal({"kernel": shape}, 1)
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1)
    tx = optax.contrib.muon(
        RATE, muon_weight_dimension_numbers=jax.tree.map(lambda _: axes, gradient)
    )
    return _timing.clock(_timing.Fed(update_of(tx), (gradient, tx.init(gradient)), gradient))


def tables(content: dict[str, Any]) -> list[str | rich.table.Table]:
    """The figures for people to read."""
    columns: report.Columns = [
        ("step", lambda row: row["step"]),
        ("ratio", lambda row: report.short(row["ratio"])),
        ("middle half", lambda row: report.spread(*row["ratio_quartiles"])),
        ("median", lambda row: report.duration(row["seconds"])),
    ]
    told: list[str | rich.table.Table] = []
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    told.append(
        f"{content['components']:,} components of 3×3, {content['threads']} threads "
        f"(decompositions of JAX: 1 BLAS thread), {versions}"
    )
    title = f"time of a step / that of {OURS}"
    told.append(report.table(title, columns, report.blocks_by("problem", content["rows"])))
    if content["missing"]:
        told.append(
            f"Not installed: {', '.join(content['missing'])}. To compare with them: {INSTALL}, "
            "then --peer-python DIR/bin/python"
        )
    told += [f"Failed: {failure}" for failure in content["failures"]]
    for problem in PROBLEMS:
        told.append(_best(problem, content["rows"]))
    return told


def _best(problem: str, rows: list[dict[str, Any]]) -> str:
    ours = ("to_tangent, retract", OURS)
    others = (row for row in rows if row["problem"] == problem and row["step"] not in ours)
    known = [row for row in others if _is_number(row["ratio"])]
    if not known:
        return f"{problem}: no peer to compare with"
    best = min(known, key=lambda row: row["ratio"])
    return f"{problem}: the fastest peer, {best['step']}, takes {report.short(best['ratio'])} times"


def _is_number(ratio: float | None) -> bool:
    return ratio is not None and not math.isnan(ratio)
