"""Updates of small weights on the device, compared with the plain links in float64 on the CPU."""

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax.experiments.bench import networks
from fgsgd_jax.experiments.bench.config import MOMENTUM
from fgsgd_jax.experiments.bench.weights import manifolds_named

from .cases import SETS

# Sizes that no block of threads divides.
SHAPES: networks.Shapes = {"first": (3, 3, 5, 7), "second": (3, 3, 33, 65)}
RATE = 1.0
SCHEMES = (("PO", MOMENTUM), ("PO", None), ("PI", MOMENTUM), ("PIO", MOMENTUM))


def measure(pool: Executor, sets=SETS, schemes=SCHEMES) -> Iterator[dict[str, Any]]:
    """The errors of all optimizers, manifolds and schemes, each as soon as it is known."""
    cases = [
        (dtype, names, scheme, momentum)
        for dtype in (jnp.float32, jnp.bfloat16)
        for names in sets
        for scheme, momentum in (schemes if dtype == jnp.float32 else schemes[:1])
    ]
    for future in [pool.submit(_row, *case) for case in cases]:
        yield future.result()


def _row(dtype: Any, names: tuple[str, ...], scheme: Any, momentum: float | None) -> dict[str, Any]:
    """The row of one optimizer."""
    label = f"fgsgd {scheme}, {'+'.join(names)}" + (f", momentum {momentum}" if momentum else "")
    about = {"block": f"the second update, {np.dtype(dtype).name}", "label": label}
    try:
        error, equal = _compared(dtype, names, scheme, momentum)
    except Exception as failure:  # one that fails must not end the others
        return {"kind": "skipped", **about, "reason": f"{type(failure).__name__}: {failure}"[:300]}
    return {"kind": "check", **about, "error": error, "equal": equal}


def _compared(dtype, names, scheme, momentum) -> tuple[float, bool]:
    """The error, and whether two runs gave the same bits."""
    shapes = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    spec = fg.collection(shapes, default=fg.pom(scheme, manifolds_named(names)))
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        exact = fg.project({name: _random(name, 0) for name in SHAPES}, spec)
        given = exact, {name: _random(name, 1) for name in SHAPES}
        start, gradient = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), given)
        widened = jax.tree.map(lambda leaf: leaf.astype(np.float64), (start, gradient))
        expected = jax.tree.map(
            np.asarray, jax.jit(_second_update(_links(spec, momentum)))(*widened)
        )
    update = jax.jit(_second_update(fg.fgsgd(RATE, spec, momentum=momentum)))
    first, again = (jax.tree.map(np.asarray, update(start, gradient)) for _ in range(2))
    error = max(_difference(first[name], expected[name]) for name in SHAPES)
    return error, all(first[name].tobytes() == again[name].tobytes() for name in SHAPES)


def _links(spec: fg.Collection, momentum: float | None) -> optax.GradientTransformation:
    """The links of `fgsgd`, one after the other."""
    return optax.chain(
        fg.project_to_tangent(spec),
        *([] if momentum is None else [fg.trace_on_manifold(spec, momentum)]),
        fg.scale_by_fgsgd(spec),
        optax.scale(-RATE),
        fg.retract_updates(spec),
    )


def _second_update(tx: optax.GradientTransformation):
    """The second update from the same weights, which has momentum."""

    def updates(params, gradient):
        _, state = tx.update(gradient, tx.init(params), params)
        return tx.update(gradient, state, params)[0]

    return updates


def _random(name: str, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, *SHAPES[name])).standard_normal(SHAPES[name])


def _difference(result: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(result.astype(float) - expected) / np.linalg.norm(expected))
