"""`trace_on_manifold`: momentum that stays tangent."""

import functools
from typing import Any, NamedTuple

import jax
import optax

from fgsgd_jax.spec import Collection, LeafSpec, map_leaves, require_collection
from fgsgd_jax.transforms._feature_std import arrived
from fgsgd_jax.transforms._params import require_params


class TraceOnManifoldState(NamedTuple):
    """The momentum, a tree like the parameters; the drawn manifolds; λ now and next, by path."""

    trace: Any
    manifold_ids: dict[str, jax.Array]
    feature_std: dict[str, jax.Array]
    next_feature_std: dict[str, jax.Array]


def trace_on_manifold(
    spec: Collection,
    decay: Any,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Accumulates a trace of past tangent vectors, carried to the present point.

    `optax.trace`, m ← d·m + v, on manifolds: before it is used, the old trace is transported to the
    tangent space of the present weight (by projection), so that the sum is tangent there. With
    `nesterov`, the update is v + d·m. Euclidean leaves get `optax.trace` itself.

    Args:
        spec: The collection of the parameters.
        decay: The decay d of the trace.
        nesterov: Whether to look ahead.
        accumulator_dtype: The dtype of the trace; by default that of the parameters.

    Returns:
        A transformation whose `update` needs `params`. It takes tangent vectors, so it comes after
        `project_to_tangent`.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]]).reshape(2, 1, 1, 1)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> link = trace_on_manifold(spec, decay=0.5)
        >>> step = {"w": jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)}
        >>> first, state = link.update(step, link.init(params), params)
        >>> second, state = link.update(step, state, params)
        >>> second["w"].ravel()  # 0.5·1 + 1
        Array([0. , 1.5], dtype=float32)

    References:
        Polyak, 1964; Sutskever et al., 2013. Transport by projection: Absil, Mahony & Sepulchre,
        2008, section 8.1.3.
    """
    require_collection(spec)

    def init_fn(params):
        trace = optax.tree.zeros_like(params, dtype=accumulator_dtype)
        return TraceOnManifoldState(
            trace, spec.manifold_ids(), spec.feature_std(), spec.feature_std()
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "momentum is carried to the present weights")

        def carried(path, layer, trace, weight):
            drawn, feature_std = state.manifold_ids.get(path), state.feature_std.get(path)
            return _carry(layer, weight, trace, drawn, feature_std)

        old = map_leaves(spec, carried, lambda trace, _: trace, state.trace, params)
        plain = optax.trace(decay, nesterov, accumulator_dtype)
        traced: Any
        updates, traced = plain.update(updates, optax.TraceState(trace=old))
        # A decay or gradient of a longer dtype must not change that of the state.
        trace = jax.tree.map(lambda new, old: new.astype(old.dtype), traced.trace, old)
        return updates, arrived(state._replace(trace=trace))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@functools.partial(jax.jit, static_argnums=0)
def _carry(layer: LeafSpec, weight, trace, manifold_ids, feature_std):
    s = layer.scale(feature_std, weight.dtype)
    # A trace is in the coordinates of steps already, whichever they are.
    return layer.to_tangent(weight, trace, manifold_ids, s, coordinates="scaled")
