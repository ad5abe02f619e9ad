"""Scales that keep something: the variance of features, or the norms that weights have now.

A manifold fixes the norm √m of its points: m = 1 on a sphere, and for matrices A × B m = B on an
oblique manifold, m = min(A, B) on a Stiefel manifold.

"variance"
    At random weights, an output w·x has the mean square ‖w‖² · E[x²], where w are all weights into
    one output channel. A ReLU halves it, so ‖w‖² = gain² with gain √2 keeps it from layer to layer
    (He et al., 2015). A layer of n components with D output channels has ‖w‖² = n·m·γ²/D on
    average, so γ = gain · √(D / (n·m)), for every manifold with its own m.

"initial"
    γ = ‖W‖ / √m for every component W, so that projecting it keeps its norm.

References:
    He, Zhang, Ren and Sun, *Delving deep into rectifiers*, ICCV 2015.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax.geometry import Euclidean, Manifold, Oblique, Sphere, Stiefel
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._scales import Gamma, Numbers, ScaleRequest, Variance, fans


def kept_gamma(request: ScaleRequest, leaf_spec: LeafSpec, leaf: Any) -> Gamma:
    """γ of a weight under "variance" or "initial"; under other scales the γ it has.

    Args:
        request: The scale asked for, from `checked_scale`.
        leaf_spec: How the weight is cut and placed.
        leaf: The weight; for "variance" anything with its shape.

    Raises:
        ValueError: If γ is not defined. The message lacks its subject, the path of the weight, for
            the caller to add.
    """
    if not (isinstance(request, Variance) or request == "initial"):
        return leaf_spec.gamma
    squares = [
        squared_norm(manifold, *leaf_spec.points_shape[:2]) for manifold in leaf_spec.manifolds
    ]
    if isinstance(request, Variance):
        outputs = fans(leaf_spec.component, leaf_spec.shape)[2]
        count = leaf_spec.components // leaf_spec.stacked
        gammas = [
            1.0 if m is None else request.gain * math.sqrt(outputs / (count * m)) for m in squares
        ]
        return gammas[0] if len(set(gammas)) == 1 else _of_components(leaf_spec, gammas)
    norms = _component_norms(leaf_spec, leaf)
    divisors = [1.0 if m is None else math.sqrt(m) for m in squares]
    gamma = norms / _of_components(leaf_spec, divisors).array()
    unconstrained = _of_components(leaf_spec, [float(m is None) for m in squares]).array()
    return Numbers.of(np.where(unconstrained == 1, 1.0, gamma), measured=True)


def _of_components(leaf_spec: LeafSpec, numbers: list[float]) -> Numbers:
    """The number of every component's manifold, `(*lanes)`."""
    manifold_ids = leaf_spec.draw().manifold_ids
    lanes = leaf_spec.points_shape[2:]
    ids = np.zeros(lanes, int) if manifold_ids is None else manifold_ids
    return Numbers.of(np.asarray(numbers)[ids])


@functools.lru_cache(maxsize=256)
def squared_norm(manifold: Manifold, rows: int, columns: int) -> float | None:
    """m, the squared norm of the points of a manifold; None if it does not fix one."""
    known = {Sphere: 1, Oblique: columns, Stiefel: min(rows, columns)}
    if isinstance(manifold, Euclidean) or not manifold.fixes_norm:
        return None
    if type(manifold) in known:
        return known[type(manifold)]
    with jax.ensure_compile_time_eval():  # a manifold of the user: the norm of a point of it
        draw = jax.jit(functools.partial(manifold.random, shape=(rows, columns)))
        point = draw(jax.random.key(0))
        return float(jnp.sum(point * point))


def _component_norms(leaf_spec: LeafSpec, leaf: Any) -> np.ndarray:
    """The norms of the components, float64 `(*lanes)`."""
    if isinstance(leaf, (jax.ShapeDtypeStruct, Tracer)):
        raise ValueError(
            "has no values to measure for scale='initial'; build the spec from arrays, outside "
            "jitted functions, or give the scale as a number"
        )
    with jax.ensure_compile_time_eval():
        points = np.asarray(leaf_spec.points(jnp.asarray(leaf)), np.float64)
    norms = np.sqrt(np.sum(points**2, axis=(0, 1)))
    bad = np.argwhere(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise ValueError(
            f"has a component of norm {norms[tuple(bad[0])]} at {tuple(bad[0].tolist())} of "
            f"{norms.shape}, which scale='initial' cannot keep; initialize the weight first, or "
            "give the scale as a number"
        )
    return norms
