"""The accuracy of every fast routine in float32, compared with NumPy and SciPy in float64.

The references use other methods where there are any: LAPACK's singular value and QR decompositions,
SciPy's exponential and solver. The error is the largest ‖result − reference‖ / ‖reference‖ of any
component, in Frobenius norms.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

import fgsgd_jax as fg
from fgsgd_jax import linalg
from fgsgd_jax.experiments.bench import formatting, timing
from fgsgd_jax.experiments.bench.sections import Tables

from .settings import BenchmarkSettings

SIZES = ((3, 3, 4096), (7, 7, 512), (64, 64, 8), (576, 64, 2))
STEPS = (0.1, 1.0)  # spectral norms of the tangent vectors

Case = tuple[str, str, Callable[..., jax.Array], Callable[..., np.ndarray], tuple[np.ndarray, ...]]
"""The names of a routine and of its reference, both functions, and their arguments."""


def measure(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """The errors of every routine at every size."""
    content = []
    sizes = [(rows, columns, min(lanes, settings.components)) for rows, columns, lanes in SIZES]
    sizes = [size for size in sizes if size[0] * size[1] <= 9 * settings.components]
    with timing.progress(len(sizes), "accuracy") as bar:
        for shape in sizes:
            bar.set_description(f"accuracy, {shape[0]}×{shape[1]}")
            for routine_name, reference_name, routine, reference, arguments in _cases(shape):
                # Rounded to float32 first, so that both get the same numbers.
                single = [np.asarray(array, np.float32) for array in arguments]
                result = np.asarray(jax.jit(routine)(*single), np.float64)
                expected = reference(*(array.astype(np.float64) for array in single))
                content.append(
                    {
                        "size": f"{shape[0]}×{shape[1]}",
                        "components": shape[2],
                        "routine": routine_name,
                        "reference": reference_name,
                        "dtype": "float32",
                        "error": _error(result, expected),
                    }
                )
            bar.update()
    return content


def _error(result: np.ndarray, reference: np.ndarray) -> float:
    """The largest relative error of any lane."""
    axes = (0, 1) if result.ndim == 3 else (0,)
    if result.ndim == 1:
        return float(np.max(np.abs(result - reference) / np.abs(reference)))
    lengths = np.sqrt(np.sum(reference**2, axes))
    return float(np.max(np.sqrt(np.sum((result - reference) ** 2, axes)) / lengths))


# --- references: functions of arrays (rows, columns, lanes) in float64 ----------------------------


def _last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 0)


def _each(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Applies a function of matrices to every lane."""

    def reference(*arrays: np.ndarray) -> np.ndarray:
        lanes = zip(*map(_last, arrays), strict=True)
        return np.stack([function(*matrices) for matrices in lanes], axis=-1)

    return reference


def _of_sum(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Applies a function of one matrix to x + v, in every lane."""
    return _each(lambda x, v: function(x + v))


def _polar(y: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(y, full_matrices=False)
    return u @ vt


def _qr(y: np.ndarray) -> np.ndarray:
    q, r = np.linalg.qr(y)
    return q * np.sign(np.diag(r))


def _unit(y: np.ndarray) -> np.ndarray:
    return y / np.linalg.norm(y)


def _unit_columns(y: np.ndarray) -> np.ndarray:
    return y / np.linalg.norm(y, axis=0)


def _stiefel_tangent(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    return g - x @ (x.T @ g + g.T @ x) / 2


def _cayley(x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The Cayley transform with its rows × rows matrix (Wen & Yin, 2013)."""
    pv = v - x @ (x.T @ v) / 2
    w = pv @ x.T - x @ pv.T
    eye = np.eye(len(x))
    return scipy.linalg.solve(eye - w / 2, x + w @ x / 2)


def _stiefel_exp(x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The geodesic of the Euclidean metric (Edelman, Arias & Smith, 1998, eq. 2.42)."""
    p = x.shape[1]
    a, s = x.T @ v, v.T @ v
    block = scipy.linalg.expm(np.block([[a, -s], [np.eye(p), a]]))
    return np.hstack([x, v]) @ block[:, :p] @ scipy.linalg.expm(-a)


def _arc(x: np.ndarray, v: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(v)
    return np.cos(length) * x + np.sin(length) * v / length


def _arcs(x: np.ndarray, v: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(v, axis=0)
    return np.cos(lengths) * x + np.sin(lengths) * v / lengths


# --- routines ------------------------------------------------------------------------------------


def _cases(shape: tuple[int, int, int]) -> Iterator[Case]:
    """Every routine at a size `(rows, columns, lanes)`, on normal random arrays."""
    numbers = np.random.default_rng(0)
    g, a = (numbers.standard_normal(shape) for _ in range(2))
    square = numbers.standard_normal((shape[1], *shape[1:]))
    yield from _sphere_cases(g, a)
    yield from _oblique_cases(g, a)
    yield from _stiefel_cases(g, a)
    yield from _linear_algebra_cases(g, a, square)


def _sphere_cases(g: np.ndarray, a: np.ndarray) -> Iterator[Case]:
    sphere = fg.Sphere()
    x = _each(_unit)(g)
    v = _each(lambda x, a: _unit(a - np.sum(x * a) * x))(x, a)
    tangent = _each(lambda x, g: g - np.sum(x * g) / np.sum(x * x) * x)
    move = _each(lambda x, v: _unit(x + v))
    yield "sphere project", "NumPy", sphere.project, _each(_unit), (g,)
    yield "sphere to_tangent", "NumPy", sphere.to_tangent, tangent, (x, a)
    yield "sphere retract, ‖v‖ = 1", "NumPy", sphere.retract, move, (x, v)
    yield "sphere exp, ‖v‖ = 1", "NumPy", sphere.exp, _each(_arc), (x, v)
    yield "sphere log, ‖v‖ = 1", "NumPy", sphere.log, lambda x, y: v, (x, _each(_arc)(x, v))


def _oblique_cases(g: np.ndarray, a: np.ndarray) -> Iterator[Case]:
    oblique = fg.Oblique()
    x = _each(_unit_columns)(g)
    v = a - np.sum(x * a, 0) * x
    v /= np.linalg.norm(v, axis=0)
    move = _each(lambda x, v: _unit_columns(x + v))

    def tangent(x, g):
        return g - np.sum(x * g, 0) / np.sum(x * x, 0) * x

    yield "oblique project", "NumPy", oblique.project, _each(_unit_columns), (g,)
    yield "oblique to_tangent", "NumPy", oblique.to_tangent, tangent, (x, a)
    yield "oblique retract, ‖vⱼ‖ = 1", "NumPy", oblique.retract, move, (x, v)
    yield "oblique exp, ‖vⱼ‖ = 1", "NumPy", oblique.exp, _each(_arcs), (x, v)


def _stiefel_cases(g: np.ndarray, a: np.ndarray) -> Iterator[Case]:
    rows, columns, _ = g.shape
    stiefel = fg.Stiefel()
    x = _each(_polar)(g)
    yield "stiefel project", "NumPy's SVD", stiefel.project, _each(_polar), (g,)
    yield "stiefel to_tangent", "NumPy", stiefel.to_tangent, _each(_stiefel_tangent), (x, a)
    for size in STEPS:
        v = _each(_stiefel_tangent)(x, a)
        v *= size / np.array([np.linalg.norm(one, 2) for one in _last(v)])
        long = f"‖v‖₂ = {size:g}"
        both = (x, v)
        yield f"stiefel polar, {long}", "NumPy's SVD", stiefel.retract, _of_sum(_polar), both
        if rows * columns <= 64 * 64:
            qr, cayley = fg.Stiefel(retraction="qr"), fg.Stiefel(retraction="cayley")
            yield f"stiefel QR, {long}", "NumPy's QR", qr.retract, _of_sum(_qr), both
            yield f"stiefel Cayley, {long}", "SciPy's solve", cayley.retract, _each(_cayley), both
        if columns < 64:
            yield f"stiefel exp, {long}", "SciPy's expm", stiefel.exp, _each(_stiefel_exp), both


def _linear_algebra_cases(g: np.ndarray, a: np.ndarray, square: np.ndarray) -> Iterator[Case]:
    rows, columns, _ = g.shape
    x = _each(_polar)(g)
    if (rows, columns) == (3, 3):
        skew = _each(_stiefel_tangent)(x, a)

        def rotated(x, v):
            rotation = linalg.rotation_3x3(linalg.axis_3x3(x, v), jnp.ones((1,), jnp.float32))
            return x + linalg.turned_3x3(x, rotation)

        yield "rotation of 3×3", "NumPy's SVD", rotated, _of_sum(_polar), (x, skew)
    if rows * columns <= 64 * 64:
        yield "Gram-Schmidt", "NumPy's QR", linalg.gram_schmidt, _each(_qr), (x + 0.1 * a / rows,)
        unit = square / np.sqrt(columns)
        yield "expm", "SciPy's expm", linalg.expm, _each(scipy.linalg.expm), (unit,)
        # `solve` is made for matrices whose symmetric part is positive definite.
        good = np.eye(columns)[:, :, None] + (unit - np.swapaxes(unit, 0, 1))
        yield "solve", "SciPy's solve", linalg.solve, _each(scipy.linalg.solve), (good, unit)


def tables(content: list[dict[str, Any]]) -> Tables:
    """The figures for people to read."""
    columns: formatting.Columns = [
        ("routine", lambda row: row["routine"]),
        ("reference", lambda row: row["reference"]),
        ("components", lambda row: f"{row['components']:,}"),
        ("largest error", lambda row: f"{row['error']:.1e}"),
    ]
    title = "float32 against float64"
    return [formatting.table(title, columns, formatting.blocks_by("size", content))]
