"""`trace_on_manifold`: momentum that stays tangent."""

from typing import Any, NamedTuple

import jax
import optax

from fgsgd_jax._numbers import checked_float_dtype, require_decay, require_flag
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import Collection, map_leaves, require_collection, require_gradients
from fgsgd_jax.transforms._finished import require_unfinished
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state


class TraceOnManifoldState(NamedTuple):
    """The state of momentum.

    Attributes:
        trace: The momentum, a tree like the parameters.
        previous: The weights of the last update at unit scale, by path, where a manifold has a
            `transport` of its own; the default does not depend on them.
        spec: The drawn manifolds, and λ.
    """

    trace: Any
    previous: dict[str, jax.Array]
    spec: SpecState


def trace_on_manifold(
    spec: Collection,
    decay: Any,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> Link:
    """Accumulates a trace of past tangent vectors, carried to the present point.

    `optax.trace`, m ← d·m + v, on manifolds: before it is used, the old trace is transported to the
    tangent space of the present weight, by the `transport` of its manifold (by default a
    projection), so that the sum is tangent there. With `nesterov`, the update is v + d·m.
    Euclidean leaves get `optax.trace` itself.

    Args:
        spec: The spec of the parameters.
        decay: The decay d of the trace.
        nesterov: Whether to look ahead.
        accumulator_dtype: The dtype of the trace; by default that of the parameters.

    Returns:
        A transformation whose `update` needs `params`. It takes tangent vectors, so it comes after
        `project_to_tangent`.

    Raises:
        TypeError: If the decay is no number, or the dtype is not a floating-point one.
        ValueError: If the decay is known and not from 0 to below 1.

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
    require_decay("decay", decay)
    require_flag("nesterov", nesterov)
    if accumulator_dtype is not None:
        accumulator_dtype = checked_float_dtype("accumulator_dtype", accumulator_dtype)

    def init_fn(params):
        state = SpecState.of(spec, params)
        trace = optax.tree.zeros_like(params, dtype=accumulator_dtype)
        return TraceOnManifoldState(trace, previous_weights(spec, state, params), state)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "momentum is carried to the present weights")
        require_state(state, TraceOnManifoldState, spec)
        require_unfinished(updates)
        require_gradients(spec, updates, params, of_all=True)

        def on_manifold(path, leaf_spec, trace, weight):
            manifold_ids, s, _ = state.spec.leaf(path, leaf_spec, weight)
            return leaf_spec.transport(weight, trace, state.previous.get(path), manifold_ids, s)

        old = map_leaves(spec, on_manifold, lambda trace, _: trace, state.trace, params)
        plain = optax.trace(decay, nesterov, accumulator_dtype)
        traced: Any
        updates, traced = plain.update(updates, optax.TraceState(trace=old))
        # A decay or gradient of a longer dtype must not change that of the state.
        trace = jax.tree.map(lambda new, old: new.astype(old.dtype), traced.trace, old)
        previous = previous_weights(spec, state.spec, params)
        return updates, TraceOnManifoldState(trace, previous, state.spec.after_update())

    return Link.of(
        init_fn,
        update_fn,
        spec=spec,
        decay=decay,
        nesterov=nesterov,
        accumulator_dtype=accumulator_dtype,
    )


def previous_weights(spec: Collection, state: SpecState, params) -> dict[str, jax.Array]:
    """The weights at unit scale from which a manifold's own transport will start."""
    return {
        path: state.unit_copy(path, leaf_spec, weight, weight.dtype)
        for path, weight in leaves_with_paths(params)
        if (leaf_spec := spec.leaf_spec_of(path, weight)) and leaf_spec.overrides("transport")
    }
