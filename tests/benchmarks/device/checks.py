"""Updates of small weights on the device, compared with the plain links in float64 on the CPU.

A program updates a weight of every scheme and every set of manifolds, and one on spheres whose
gradient is almost normal to them: ten thousand times the weight, and little else.
"""

from collections.abc import Iterator
from concurrent.futures import Executor, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench.config import MOMENTUM
from fgsgd_jax.experiments.bench.weights import manifolds_named, start_on
from fgsgd_jax.spec import Scheme

from .cases import SETS

# Sizes that no block of threads divides.
SHAPES: dict[Scheme, tuple[int, ...]] = {"PO": (3, 3, 33, 65), "PIO": (3, 3, 17, 31)}
NORMAL, NORMAL_SHAPE = "PO, sphere, gradient almost normal", (3, 3, 5, 7)
RATE = 1.0
DTYPES = ("float32", "bfloat16")
PROGRAMS = (("float32", MOMENTUM), ("float32", None), ("bfloat16", MOMENTUM))

Weights = dict[str, Any]
Row = dict[str, Any]


class Checks:
    """All checks, which begin at once in other threads.

    Args:
        pool: The threads.
        sets: The sets of manifolds.
    """

    def __init__(self, pool: Executor, sets: tuple[tuple[str, ...], ...] = SETS):
        labels, spec, shapes = _weights(sets)
        given = {dtype: _given(spec, shapes, dtype) for dtype in DTYPES}
        expected = pool.submit(_references, spec, given)

        def rows(dtype: str, momentum: float | None) -> list[Row]:
            tx = _jitted(fg.fgsgd(RATE, spec, momentum=momentum))
            found = [_two_updates(tx, *given[dtype])[1] for _ in range(2)]
            # The first update of the links with momentum is their update without momentum.
            reference = expected.result()[dtype][0 if momentum is None else 1]
            return [
                {
                    "kind": "check",
                    "block": _block(dtype, momentum),
                    "label": label,
                    "error": _difference(found[0][name], reference[name]),
                    "equal": found[0][name].tobytes() == found[1][name].tobytes(),
                }
                for name, label in labels.items()
            ]

        self._rows = {_block(*program): pool.submit(rows, *program) for program in PROGRAMS}

    def done(self) -> bool:
        """Whether nothing is left to wait for."""
        return all(future.done() for future in self._rows.values())

    def rows(self, patience: float) -> Iterator[Row]:
        """The error of every weight in every program, or why there is none.

        Args:
            patience: The seconds to wait for them.
        """
        wait(self._rows.values(), patience)
        for block, future in self._rows.items():
            skipped = {"kind": "skipped", "block": block, "label": "all weights"}
            if not future.done():
                yield {**skipped, "reason": "not compiled in time"}
            elif failure := future.exception():  # one that fails must not end the others
                yield {**skipped, "reason": f"{type(failure).__name__}: {failure}"[:300]}
            else:
                yield from future.result()


def _block(dtype: str, momentum: float | None) -> str:
    return f"update with momentum {momentum or 0}, {dtype}"


def _weights(sets) -> tuple[dict[str, str], fg.Collection, Weights]:
    """The label of every weight by its name, their spec, and arrays of their shapes."""
    chosen = {
        f"{scheme}, {'+'.join(names)}": (fg.pom(scheme, manifolds_named(names)), shape)
        for scheme, shape in SHAPES.items()
        for names in sets
    }
    chosen[NORMAL] = (fg.pom("PO", fg.Sphere()), NORMAL_SHAPE)
    labels = {f"weight{index}": label for index, label in enumerate(chosen)}
    shapes = {name: np.zeros(chosen[label][1], np.float32) for name, label in labels.items()}
    rules = ((name, chosen[label][0]) for name, label in labels.items())
    return labels, fg.collection(shapes, *rules), shapes


def _given(spec: fg.Collection, shapes: Weights, dtype: str) -> tuple[Weights, Weights]:
    """Weights on their manifolds, and normal gradients."""
    with jax.default_device(jax.devices("cpu")[0]):
        start = {name: np.asarray(leaf) for name, leaf in start_on(spec, shapes).items()}
    numbers = np.random.default_rng(1)
    gradient = {name: numbers.standard_normal(leaf.shape) for name, leaf in shapes.items()}
    almost_normal = list(shapes)[-1]
    gradient[almost_normal] += 1e4 * start[almost_normal]
    return jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), (start, gradient))


def _references(
    spec: fg.Collection, given: dict[str, tuple[Weights, Weights]]
) -> dict[str, tuple[Weights, Weights]]:
    """Two updates by the links in float64, from one program, by the dtype of the weights."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        tx = _jitted(_links(spec))
        return {
            dtype: _two_updates(tx, *jax.tree.map(lambda leaf: leaf.astype(np.float64), both))
            for dtype, both in given.items()
        }


def _links(spec: fg.Collection) -> optax.GradientTransformation:
    """The links of `fgsgd`, one after the other."""
    return optax.chain(
        fg.project_to_tangent(spec),
        fg.trace_on_manifold(spec, MOMENTUM),
        fg.scale_by_fgsgd(spec),
        optax.scale(-RATE),
        fg.retract_updates(spec),
    )


def _jitted(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.GradientTransformation(jax.jit(tx.init), jax.jit(tx.update))


def _two_updates(tx: Any, start: Weights, gradient: Weights) -> tuple[Weights, Weights]:
    """Two updates, both from the same weights; the second one has momentum."""
    first, state = tx.update(gradient, tx.init(start), start)
    second, _ = tx.update(gradient, state, start)
    return jax.tree.map(np.asarray, (first, second))


def _difference(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result.astype(float) - expected) / np.linalg.norm(expected))
