"""The laws of `exp`, `log` and `dist`, of manifolds that have them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax.checks._laws import CURVED, ITERATED, ROUNDING, LawTable
from fgsgd_jax.checks._points import concatenate, difference, largest, scale
from fgsgd_jax.checks._sample import Sample, require_attributes, shared

LAWS = LawTable()


# Jitted, so that calls at points of one shape are compiled once.
@functools.partial(jax.jit, static_argnums=0)
def _exp(manifold: Any, x, v):
    return manifold.exp(x, v)


@functools.partial(jax.jit, static_argnums=0)
def _dist_and_log(manifold: Any, x, y):
    return manifold.dist(x, y), manifold.log(x, y) if hasattr(manifold, "log") else None


# --- exp -----------------------------------------------------------------------------------------


class _Geodesic(NamedTuple):
    """The geodesic from x along v: its start, and a later time."""

    start: Any
    start_velocity: Any
    point: Any
    velocity: Any
    acceleration: Any


@shared
def _geodesic(sample: Sample) -> _Geodesic:
    def point_at(t):
        return _exp(sample.manifold, sample.x, scale(t, sample.v))

    def velocity_at(t):
        return jax.jvp(point_at, (t,), (jnp.ones_like(t),))

    later = sample.number(0.7)
    (point, velocity), (_, acceleration) = jax.jvp(velocity_at, (later,), (jnp.ones_like(later),))
    start, start_velocity = velocity_at(sample.number(0.0))
    return _Geodesic(start, start_velocity, point, velocity, acceleration)


@LAWS.law("exp lands on the manifold", ROUNDING, require_attributes("exp"))
def _exp_lands(sample: Sample):
    return sample.manifold.residual(_geodesic(sample).point)


@LAWS.law("exp starts at x", ROUNDING, require_attributes("exp"))
def _exp_starts(sample: Sample):
    return difference(_geodesic(sample).start, sample.x)


@LAWS.law("exp leaves with velocity v", ROUNDING, require_attributes("exp"))
def _exp_velocity(sample: Sample):
    return difference(_geodesic(sample).start_velocity, sample.v)


@LAWS.law("exp keeps its speed", CURVED, require_attributes("exp"))
def _exp_speed(sample: Sample):
    geodesic = _geodesic(sample)
    return jnp.abs(sample.manifold.norm(geodesic.point, geodesic.velocity) - 1)


@LAWS.law("exp has no tangential acceleration", CURVED, require_attributes("exp"))
def _exp_acceleration(sample: Sample):
    geodesic = _geodesic(sample)
    return largest(sample.manifold.to_tangent(geodesic.point, geodesic.acceleration))


# --- dist and log --------------------------------------------------------------------------------

DISTANCES = require_attributes("exp", "dist")
LOGARITHMS = require_attributes("exp", "dist", "log")

# The lengths of the steps whose distance is measured: from the shortest to this part of the
# injectivity radius.
SHORTEST = {4: 1e-5, 8: 1e-8}
LONGEST = 0.95
STEPS = 10
# The error of a distance relative to its length.
RELATIVE_ERROR = {4: 1e-4, 8: 1e-8}


class _Triangle(NamedTuple):
    """Distances between x and two points near x, the first and the second.

    Attributes:
        itself: From x to x.
        there: From the first to the second.
        back: From the second to the first.
        to_x: From the first to x.
        from_x: From x to the second.
    """

    itself: jax.Array
    there: jax.Array
    back: jax.Array
    to_x: jax.Array
    from_x: jax.Array


class _Steps(NamedTuple):
    """Steps of many lengths from x along v, counted by the last axis.

    Attributes:
        lengths: ‖step‖, `(STEPS,)`.
        origins: x, once for every step.
        steps: The steps, tangent vectors.
        ends: Where they end.
        distances: The distances of the ends from x.
        logs: The logarithms of the ends; None where the manifold has no `log`.
    """

    lengths: np.ndarray
    origins: Any
    steps: Any
    ends: Any
    distances: jax.Array
    logs: Any


@shared
def _distances(sample: Sample) -> tuple[_Triangle, _Steps]:
    manifold, x, dtype = sample.manifold, sample.x, sample.subject.dtype
    first = _exp(manifold, x, scale(0.3, sample.u))
    second = _exp(manifold, x, scale(0.4, sample.v))
    longest = LONGEST * sample.subject.injectivity_radius
    lengths = np.geomspace(SHORTEST[dtype.itemsize], longest, STEPS).astype(dtype)
    repeat = functools.partial(jax.tree.map, lambda leaf: leaf[..., None] * np.ones(STEPS, dtype))
    origins, steps = repeat(x), scale(lengths, repeat(sample.v))
    ends = _exp(manifold, origins, steps)
    # One call with every pair of points in a lane of its own: a logarithm found by iteration is
    # expensive to compile.
    distances, logs = _dist_and_log(
        manifold,
        concatenate(x, first, second, first, x, origins),
        concatenate(x, second, first, x, second, ends),
    )
    count = len(_Triangle._fields)
    triangle = _Triangle(*(distances[..., index] for index in range(count)))
    logs = jax.tree.map(lambda leaf: leaf[..., count:], logs)
    return triangle, _Steps(lengths, origins, steps, ends, distances[..., count:], logs)


def _triangle(sample: Sample) -> _Triangle:
    return _distances(sample)[0]


def _steps(sample: Sample) -> _Steps:
    return _distances(sample)[1]


@LAWS.law("dist to itself is 0", ITERATED, DISTANCES)
def _dist_to_itself(sample: Sample):
    return _triangle(sample).itself


@LAWS.law("dist is symmetric", ITERATED, DISTANCES)
def _dist_is_symmetric(sample: Sample):
    return jnp.abs(_triangle(sample).there - _triangle(sample).back)


@LAWS.law("dist is positive", 0.0, DISTANCES)
def _dist_is_positive(sample: Sample):
    return -_triangle(sample).there


@LAWS.law("dist obeys the triangle inequality", ITERATED, DISTANCES)
def _triangle_inequality(sample: Sample):
    triangle = _triangle(sample)
    return triangle.there - triangle.to_x - triangle.from_x


@LAWS.law("dist to exp(v) is ‖v‖ (error ÷ allowed)", 1.0, DISTANCES)
def _dist_to_exp(sample: Sample):
    steps, dtype = _steps(sample), sample.subject.dtype
    # The round-off of the points themselves is absolute.
    allowed = RELATIVE_ERROR[dtype.itemsize] * steps.lengths + 16 * jnp.finfo(dtype).eps
    return jnp.abs(steps.distances - steps.lengths) / allowed


@LAWS.law("log undoes exp", ITERATED, LOGARITHMS)
def _log_of_exp(sample: Sample):
    return difference(_steps(sample).logs, _steps(sample).steps)


@LAWS.law("exp undoes log", ITERATED, LOGARITHMS)
def _exp_of_log(sample: Sample):
    steps = _steps(sample)
    return difference(_exp(sample.manifold, steps.origins, steps.logs), steps.ends)
