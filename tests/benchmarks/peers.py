"""The same step on 3×3 components in other libraries, where they are installed.

One step is x ← R(x, −r·P(x, g)): project the gradient, then retract. This library takes it through
the verbs of its manifolds, and as a whole update of FG-SGD, which also computes the norms of the
groups; the latter is the baseline of all ratios. The other libraries run in processes of their own
and take their turn. All have the same number of components and threads, and float32.
"""

import math
from typing import Any

import jax
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import formatting, timing
from fgsgd_jax.experiments.bench.config import RATE
from fgsgd_jax.experiments.bench.environment import cores
from fgsgd_jax.experiments.bench.sections import Tables
from fgsgd_jax.experiments.bench.weights import manifolds_named, normal, on_manifolds, update_of

from .arrays import channels_of
from .processes import Process
from .settings import BenchmarkSettings

COMPONENTS = 1_048_576  # one kernel of 3×3×1024×1024, about as many as in a ResNet-18
PROBLEMS = ("sphere", "stiefel")
OURS = "fgsgd PO"
INSTALL = "python -m venv DIR && DIR/bin/pip install torch geoopt geotorch pymanopt"


def measure(settings: BenchmarkSettings) -> dict[str, Any]:
    """Times the steps of all libraries that are installed."""
    inputs, outputs = channels_of(min(COMPONENTS, settings.components))
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
        clocks |= {step: others.clock(step) for step in others.answer["steps"]}
        versions = others.answer.get("versions", {})
        # Each in a process of its own, because a decomposition that hangs is killed with it.
        for kind, label in (("qr step", "jax.vmap(jnp.linalg.qr)"), ("svd step", "jnp.linalg.svd")):
            lapack = Process("lapack_steps", threads=1, kind=kind, shape=(components, 3, 3))
            processes.append(lapack)
            clocks[f"stiefel: {label}, not jitted"] = lapack.clock(kind)
            versions = {**versions, **lapack.answer.get("versions", {})}
        seconds = timing.in_turn(clocks, settings.rounds)
        failures = [process.answer["error"] for process in processes if "error" in process.answer]
    finally:
        for process in processes:
            process.close()
    return {
        "components": components,
        "threads": threads,
        "versions": versions,
        "missing": others.answer.get("missing", ["torch", "geoopt", "geotorch", "pymanopt"]),
        "failures": failures,
        "rows": [_row(label, seconds) for label in clocks],
    }


def _row(label: str, seconds: dict[str, np.ndarray]) -> dict[str, Any]:
    problem, _, step = label.partition(": ")
    ratio = timing.ratio_of(seconds[label], seconds[f"{problem}: {OURS}"])
    return {
        "problem": problem,
        "step": step,
        "seconds": float(np.median(seconds[label])),
        "ratio": ratio.ratio,
        "ratio_quartiles": [ratio.low, ratio.high],
    }


def _fgsgd(problem: str, shape: tuple[int, ...]) -> timing.Clock:
    gradient = normal({"kernel": shape}, 1)
    spec, start = on_manifolds(gradient, "PO", (problem,))
    tx = fg.fgsgd(RATE, spec)
    return timing.clock(timing.Iterated(update_of(tx), (start, tx.init(start)), gradient))


def _verbs(problem: str, shape: tuple[int, ...]) -> timing.Clock:
    gradient = normal({"kernel": shape}, 1)
    _, start = on_manifolds(gradient, "PO", (problem,))
    (manifold,) = manifolds_named((problem,))

    def step(x, g):
        return (manifold.retract(x, -RATE * manifold.to_tangent(x, g)),)

    return timing.clock(timing.Iterated(step, (start["kernel"],), gradient["kernel"]))


def _muon(shape: tuple[int, ...]) -> timing.Clock:
    gradient = normal({"kernel": shape}, 1)
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1)
    tx = optax.contrib.muon(
        RATE, muon_weight_dimension_numbers=jax.tree.map(lambda _: axes, gradient)
    )
    return timing.clock(timing.Iterated(update_of(tx), (gradient, tx.init(gradient)), gradient))


def tables(content: dict[str, Any]) -> Tables:
    """The figures for people to read."""
    columns: formatting.Columns = [
        ("step", lambda row: row["step"]),
        *formatting.ratio_columns(),
        ("median", lambda row: formatting.duration(row["seconds"])),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    title = f"time of a step / time of {OURS}"
    shown: Tables = [
        f"{content['components']:,} components of 3×3, {content['threads']} threads "
        f"(decompositions of JAX: 1 BLAS thread), {versions}",
        formatting.table(title, columns, formatting.blocks_by("problem", content["rows"])),
    ]
    if content["missing"]:
        shown.append(
            f"Not installed: {', '.join(content['missing'])}. To compare with them: {INSTALL}, "
            "then --peer-python DIR/bin/python"
        )
    shown += [f"Failed: {failure}" for failure in content["failures"]]
    return shown + [_fastest(problem, content["rows"]) for problem in PROBLEMS]


def _fastest(problem: str, rows: list[dict[str, Any]]) -> str:
    ours = ("to_tangent, retract", OURS)
    others = (row for row in rows if row["problem"] == problem and row["step"] not in ours)
    known = [row for row in others if _is_number(row["ratio"])]
    if not known:
        return f"{problem}: no peer to compare with"
    best = min(known, key=lambda row: row["ratio"])
    ratio = formatting.short(best["ratio"])
    return f"{problem}: the fastest peer, {best['step']}, takes {ratio} times as long"


def _is_number(ratio: float | None) -> bool:
    return ratio is not None and not math.isnan(ratio)
