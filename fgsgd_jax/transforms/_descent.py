"""`descend_on_manifolds`: the whole chain of a step on manifolds as one link, for speed."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax import _linalg
from fgsgd_jax.spec import (
    Collection,
    Coordinates,
    LeafSpec,
    checked_coordinates,
    map_leaves,
    require_collection,
)
from fgsgd_jax.transforms._feature_std import arrived
from fgsgd_jax.transforms._params import require_params
from fgsgd_jax.transforms._retraction import require_on_manifolds
from fgsgd_jax.transforms._step import ScalarOrScheduleOrGroup, group_of, normalizer, value_at


class DescendOnManifoldsState(NamedTuple):
    """The state of a descent.

    Attributes:
        count: The number of steps taken, for schedules.
        trace: The momentum, a tree like the parameters; () without momentum.
        manifold_ids: The drawn manifold of every component, by path, for weights of mixed types.
        groups: The drawn groups, by path, for weights under PIO.
        feature_std: λ of the present weights, by path, for those that have a scale.
        next_feature_std: λ of the weights after the next update.
    """

    count: jax.Array
    trace: Any
    manifold_ids: dict[str, jax.Array]
    groups: dict[str, jax.Array]
    feature_std: dict[str, jax.Array]
    next_feature_std: dict[str, jax.Array]


# Rounding is removed from weights once in so many steps, where that costs a pass over memory or
# more: until then it grows to no more than a few units in the last place.
POLISHED_EVERY = 8

Normalization = Literal["group", "component"] | None


def descend_on_manifolds(
    learning_rate: optax.ScalarOrSchedule,
    spec: Collection,
    *,
    decay: Any = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    normalization: Normalization = "group",
    coordinates: Coordinates = "unit",
    rho: ScalarOrScheduleOrGroup = 1.0,
    curvature: ScalarOrScheduleOrGroup = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """The links of a step on manifolds in one, equal to their chain up to rounding.

    That is `project_to_tangent`, `trace_on_manifold`, `scale_by_fgsgd`,
    `optax.scale_by_learning_rate` and `retract_updates`, in this order, arranged so that weights
    and gradients pass through memory as few times as they must. Chain the links themselves to put
    something between them.

    Args:
        learning_rate: A number or schedule.
        spec: The collection of the parameters.
        decay: That of `trace_on_manifold`, or None for no momentum.
        nesterov: As for `trace_on_manifold`.
        accumulator_dtype: As for `trace_on_manifold`.
        normalization: One τ per `"group"` or per `"component"`, or None for none.
        coordinates: On which manifolds steps are taken, as for `fgsgd`.
        rho: As for `scale_by_fgsgd`.
        curvature: As for `scale_by_fgsgd`.

    Returns:
        A transformation whose `update` needs `params`.
    """
    require_collection(spec)
    coordinates = checked_coordinates(coordinates)

    def init_fn(params):
        require_on_manifolds(params, spec)
        has_trace = decay is not None
        return DescendOnManifoldsState(
            count=jnp.zeros([], jnp.int32),
            trace=optax.tree.zeros_like(params, dtype=accumulator_dtype) if has_trace else (),
            manifold_ids=spec.manifold_ids(),
            groups=spec.groups() if normalization == "group" else {},
            feature_std=spec.feature_std(),
            next_feature_std=spec.feature_std(),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "a step on a manifold starts from the present weights")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        after = _linalg.done()

        def on_manifold(path, layer, gradient, weight, *trace):
            nonlocal after
            group = group_of(path, layer, per_component=normalization == "component")
            numbers = (value_at(number, state.count, group) for number in (rho, curvature))
            update, new_trace, after = _descend(
                layer,
                (nesterov, normalization, coordinates),
                (weight, gradient, *trace),
                state.manifold_ids.get(path),
                state.groups.get(path),
                (state.feature_std.get(path), state.next_feature_std.get(path)),
                (rate, 0.0 if decay is None else decay, *numbers),
                state.count,
                after,
            )
            return _Pair(update, new_trace)

        def on_euclidean(gradient, weight, *trace):
            # A rate in the dtype of whole numbers would be 0.
            whole = not jnp.issubdtype(gradient.dtype, jnp.inexact)
            gradient = gradient.astype(weight.dtype) if whole else gradient
            step, new_trace = gradient, None
            if trace:
                step = new_trace = gradient + decay * trace[0]
                if nesterov:
                    step = gradient + decay * new_trace
                new_trace = new_trace.astype(trace[0].dtype)
            return _Pair((-jnp.asarray(rate, step.dtype) * step).astype(weight.dtype), new_trace)

        trees = (params,) if decay is None else (params, state.trace)
        pairs = map_leaves(spec, on_manifold, on_euclidean, updates, *trees)
        count = jnp.asarray(optax.safe_increment(state.count))
        trace = () if decay is None else _every(1, pairs)
        return _every(0, pairs), arrived(state._replace(count=count, trace=trace))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Pair(NamedTuple):
    update: jax.Array
    trace: jax.Array | None


def _every(side: int, pairs: Any) -> Any:
    return jax.tree.map(
        lambda pair: pair[side], pairs, is_leaf=lambda node: isinstance(node, _Pair)
    )


# An inner jit, so that leaves that are treated alike are traced once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _descend(
    layer: LeafSpec,
    options: tuple[bool, Normalization, Coordinates],
    arrays,
    manifold_ids,
    groups,
    stds,
    numbers,
    count,
    after,
):
    nesterov, normalization, coordinates = options
    weight, gradient, *trace = arrays
    dtype = _linalg.working_dtype(weight.dtype)
    # Injected hyper-parameters arrive in the dtype of the parameters; geometry is in a longer one.
    numbers = [jnp.asarray(number, dtype) for number in numbers]
    # What a shorter dtype rounds is much, and removed at once.
    polish = count % POLISHED_EVERY == 0 if weight.dtype == dtype else None
    return layer.descend(
        weight,
        gradient,
        trace[0] if trace else None,
        manifold_ids,
        groups,
        tuple(layer.scale(std, dtype) for std in stds),
        polish,
        after,
        *numbers,
        coordinates=coordinates,
        nesterov=nesterov,
        by=None if normalization is None else normalizer,
        per_component=normalization == "component",
    )
