"""The laws of the verbs that every manifold has."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fgsgd_jax.checks._laws import CURVED, ROUNDING, LawTable
from fgsgd_jax.checks._points import add, difference, dot, scale, stack, subtract
from fgsgd_jax.checks._sample import Sample, Subject, require_attributes, shared

LAWS = LawTable()

# --- points and tangent vectors ------------------------------------------------------------------


@LAWS.law("random points are on the manifold", ROUNDING)
def _random(sample: Sample):
    return sample.manifold.residual(sample.x)


@LAWS.law("project lands on the manifold", ROUNDING)
def _project_lands(sample: Sample):
    return sample.manifold.residual(sample.manifold.project(sample.g))


@LAWS.law("project keeps points", ROUNDING)
def _project_keeps(sample: Sample):
    return difference(sample.manifold.project(sample.x), sample.x)


@LAWS.law("to_tangent keeps tangent vectors", ROUNDING)
def _to_tangent_keeps(sample: Sample):
    return difference(sample.to_tangent(sample.u), sample.u)


@LAWS.law("to_tangent is linear", ROUNDING)
def _to_tangent_is_linear(sample: Sample):
    g, h = sample.g, sample.h
    of_sum = sample.to_tangent(add(g, scale(2.0, h)))
    return difference(of_sum, add(sample.to_tangent(g), scale(2.0, sample.to_tangent(h)))) / 4


@LAWS.law("to_tangent is self-adjoint", ROUNDING)
def _to_tangent_is_self_adjoint(sample: Sample):
    g, h, inner = sample.g, sample.h, sample.inner
    error = inner(sample.to_tangent(g), h) - inner(g, sample.to_tangent(h))
    return jnp.abs(error) / jnp.sqrt(inner(g, g) * inner(h, h))


@LAWS.law("dimension is the rank of to_tangent", 0.0)
def _dimension(sample: Sample):
    x = jax.tree.map(_first_lane, sample.x)
    flat, unflatten = ravel_pytree(x)

    def flat_projection(g):
        return ravel_pytree(sample.manifold.to_tangent(x, unflatten(g)))[0]

    matrix = jax.vmap(flat_projection)(jnp.eye(flat.size, dtype=flat.dtype))
    matrix = jnp.where(jnp.isfinite(matrix), matrix, jnp.nan)  # LAPACK may not return from ∞
    rank = jnp.sum(jnp.linalg.svd(matrix, compute_uv=False) > 1e-3)
    return jnp.abs(rank - sample.subject.dimension)


def _first_lane(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:2], -1)[..., 0]


# --- the metric ----------------------------------------------------------------------------------


@LAWS.law("inner is symmetric", ROUNDING)
def _inner_is_symmetric(sample: Sample):
    return jnp.abs(sample.inner(sample.u, sample.v) - sample.inner(sample.v, sample.u))


@LAWS.law("inner is bilinear", ROUNDING)
def _inner_is_bilinear(sample: Sample):
    u, v, w, inner = sample.u, sample.v, sample.w, sample.inner
    return jnp.abs(inner(add(u, scale(2.0, w)), v) - inner(u, v) - 2 * inner(w, v))


@LAWS.law("inner is positive", 0.0)
def _inner_is_positive(sample: Sample):
    return -sample.inner(sample.u, sample.u)


@LAWS.law("norm is the square root of inner", ROUNDING)
def _norm(sample: Sample):
    u = sample.u
    return jnp.abs(sample.manifold.norm(sample.x, u) ** 2 - sample.inner(u, u))


@LAWS.law("representer represents gradients", ROUNDING)
def _representer(sample: Sample):
    g, v, manifold = sample.g, sample.v, sample.manifold
    difference = sample.inner(manifold.representer(sample.x, g), v) - dot(g, v)
    return jnp.abs(difference) / jnp.sqrt(dot(g, g))


# --- retraction ----------------------------------------------------------------------------------


@shared
def _retract_near_zero(sample: Sample):
    """R(x, tv) and its derivative by t, at t = 0."""

    def retracted(t):
        return sample.manifold.retract(sample.x, scale(t, sample.v))

    return jax.jvp(retracted, (sample.number(0.0),), (sample.number(1.0),))


@LAWS.law("retract of 0 is x", ROUNDING)
def _retract_of_zero(sample: Sample):
    return difference(_retract_near_zero(sample)[0], sample.x)


@LAWS.law("retract leaves with velocity v", ROUNDING)
def _retract_velocity(sample: Sample):
    return difference(_retract_near_zero(sample)[1], sample.v)


STEP_LENGTHS = (1e-3, 1.0, 1e3, 1e15)


@shared
def _residuals_after_steps(sample: Sample) -> jax.Array:
    """How far R(x, tv) is from the manifold; the last axis is that of `STEP_LENGTHS`."""
    steps = stack(*(scale(sample.number(length), sample.v) for length in STEP_LENGTHS))
    points = sample.manifold.retract(stack(*[sample.x] * len(STEP_LENGTHS)), steps)
    return sample.manifold.residual(points)


def _retract_lands(index: int, sample: Sample):
    return _residuals_after_steps(sample)[..., index]


for _index, _length in enumerate(STEP_LENGTHS):
    LAWS.law(f"retract lands at step length {_length:g}", ROUNDING)(
        functools.partial(_retract_lands, _index)
    )

# --- transport -----------------------------------------------------------------------------------


def _transport(sample: Sample, v):
    return sample.manifold.transport(sample.x, sample.y, v)


@LAWS.law("transport is tangent", ROUNDING)
def _transport_is_tangent(sample: Sample):
    transported = _transport(sample, sample.u)
    return difference(sample.manifold.to_tangent(sample.y, transported), transported)


@LAWS.law("transport is linear", ROUNDING)
def _transport_is_linear(sample: Sample):
    u, w = sample.u, sample.w
    of_sum = _transport(sample, add(u, scale(2.0, w)))
    rest = subtract(of_sum, _transport(sample, u))
    return difference(rest, scale(2.0, _transport(sample, w))) / 4


@LAWS.law("transport from x to x changes nothing", ROUNDING)
def _transport_to_same_point(sample: Sample):
    return difference(sample.manifold.transport(sample.x, sample.x, sample.u), sample.u)


# --- curvature -----------------------------------------------------------------------------------


@shared
def _curvatures(sample: Sample) -> dict[str, jax.Array]:
    """⟨R(u, v)w, z⟩ for several orders of the vectors, by order."""
    orders = ("uvwz", "vuwz", "wzuv", "vwuz", "wuvz")
    vectors = (stack(*(getattr(sample, order[place]) for order in orders)) for place in range(4))
    curvature = sample.manifold.curvature(stack(*[sample.x] * len(orders)), *vectors)
    return {order: curvature[..., index] for index, order in enumerate(orders)}


@LAWS.law("curvature is skew-symmetric", CURVED)
def _curvature_is_skew(sample: Sample):
    curvature = _curvatures(sample)
    return jnp.abs(curvature["uvwz"] + curvature["vuwz"])


@LAWS.law("curvature has pair symmetry", CURVED)
def _curvature_exchanges_pairs(sample: Sample):
    curvature = _curvatures(sample)
    return jnp.abs(curvature["uvwz"] - curvature["wzuv"])


@LAWS.law("curvature obeys the Bianchi identity", CURVED)
def _curvature_obeys_bianchi(sample: Sample):
    curvature = _curvatures(sample)
    return jnp.abs(curvature["uvwz"] + curvature["vwuz"] + curvature["wuvz"])


def _no_bound(subject: Subject) -> str | None:
    if subject.dimension < 2:
        return f"{subject.manifold!r} has dimension {subject.dimension} here, and no planes"
    return require_attributes("curvature_bound")(subject)


@LAWS.law("curvature is within its bound", CURVED, _no_bound)
def _curvature_bound(sample: Sample):
    sectional = sample.manifold.sectional_curvature(sample.x, sample.u, sample.v)
    return sectional - sample.manifold.curvature_bound


# --- lanes ---------------------------------------------------------------------------------------


def _lanes_are_independent(verb: str, sample: Sample):
    """Whether a verb on all lanes at once agrees with the verb on every lane alone."""
    function: Callable = getattr(sample.manifold, verb)
    x, v = (
        jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:2], -1), points)
        for points in (sample.x, sample.v)
    )
    return difference(function(x, v), jax.vmap(function, in_axes=-1, out_axes=-1)(x, v))


for _verb in ("to_tangent", "retract"):
    LAWS.law(f"{_verb} treats lanes independently", ROUNDING)(
        functools.partial(_lanes_are_independent, _verb)
    )
