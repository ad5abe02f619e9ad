"""`check_random`: whether random points are uniform."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fgsgd_jax._keys import require_key
from fgsgd_jax._numbers import require_count
from fgsgd_jax.checks._laws import LawTable
from fgsgd_jax.checks._points import checked_shape
from fgsgd_jax.checks._report import Report
from fgsgd_jax.checks._sample import require_manifold
from fgsgd_jax.geometry import Manifold

LAWS = LawTable()

# In standard errors. A normal deviate exceeds five of them once in 1.7 million draws.
UNLIKELY = 5.0


def check_random(
    manifold: Manifold,
    key: jax.Array,
    *,
    shape: Any = (4, 3),
    draws: int = 20_000,
    laws: str | Iterable[str] | None = None,
    tolerances: Mapping[str, float] | None = None,
) -> Report:
    """Measures whether random points are uniform: no direction is preferred to any other.

    A distribution that is invariant under rotations of the rows has mean 0, and its moments do not
    change when all points are rotated.

    Args:
        manifold: A manifold of single matrices, not a `Product`.
        key: A PRNG key.
        shape: The shape of one point.
        draws: How many points to draw.
        laws: The names of the laws to measure; None measures all that apply.
        tolerances: Tolerances that replace the default ones, by name of the law.

    Returns:
        A report of the largest deviations, in standard errors estimated from the draws.

    Raises:
        TypeError: If the manifold is a class, or not a `Manifold`, or the key is no key of JAX.
        ValueError: If there is no law of a given name, or it does not apply.

    Example:
        >>> import jax
        >>> from fgsgd_jax import Stiefel
        >>> check_random(Stiefel(), jax.random.key(0), shape=(3, 3)).passed
        True
    """
    require_manifold(manifold)
    require_key(key)
    shape = checked_shape(shape)
    require_count("draws", draws, lowest=2)
    selected = LAWS.select("check_random", shape, laws, tolerances)
    point_key, rotation_key = jax.random.split(key)
    x = np.asarray(manifold.random(point_key, (*shape, draws)), np.float64)
    rotation, _ = np.linalg.qr(np.asarray(jax.random.normal(rotation_key, (shape[0], shape[0]))))
    rotated = np.tensordot(rotation, x, axes=1)
    sample = _Sample(x, x.reshape(-1, draws), rotated.reshape(-1, draws))
    measured = {name: np.max(_standard_errors(LAWS[name].measure(sample))) for name in selected}
    return LAWS.report(measured, tolerances)


class _Sample(NamedTuple):
    """Random points.

    Attributes:
        points: `(rows, columns, draws)`.
        entries: The same, `(rows · columns, draws)`.
        rotated: The entries of the points after one rotation of their rows.
    """

    points: np.ndarray
    entries: np.ndarray
    rotated: np.ndarray


def _standard_errors(sample: np.ndarray) -> np.ndarray:
    """The distance of the mean over the last axis from 0, in its standard errors."""
    # 1e-7 is for entries that are equal up to round-off, whose standard error is 0.
    standard_error = sample.std(axis=-1) / math.sqrt(sample.shape[-1]) + 1e-7
    return np.abs(sample.mean(axis=-1)) / standard_error


def _not_square(shape) -> str | None:
    if shape[0] == shape[1]:
        return None
    return f"points of shape {shape} are not square and have no determinant"


@LAWS.law("the mean is 0 (standard errors)", UNLIKELY)
def _mean(sample: _Sample):
    return sample.entries


@LAWS.law("second moments do not change under rotation (standard errors)", UNLIKELY)
def _second_moments(sample: _Sample):
    products, rotated = (a[:, None] * a[None] for a in (sample.entries, sample.rotated))
    return products - rotated


@LAWS.law("fourth moments do not change under rotation (standard errors)", UNLIKELY)
def _fourth_moments(sample: _Sample):
    return sample.entries**4 - sample.rotated**4


@LAWS.law("determinants have both signs (standard errors)", UNLIKELY, _not_square)
def _determinants(sample: _Sample):
    return np.sign(np.linalg.det(np.moveaxis(sample.points, -1, 0)))
