"""`with_master_weights`: weights in a short dtype, kept in a longer one in the state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax._numbers import checked_float_dtype
from fgsgd_jax._trees import leaves_with_paths, map_with_path
from fgsgd_jax.spec import Collection, project, require_collection
from fgsgd_jax.transforms._finished import finished, require_unfinished
from fgsgd_jax.transforms._guards import are_known, require_on_manifolds
from fgsgd_jax.transforms._link import (
    SpecState,
    copy_for_state,
    require_params,
    require_state,
    require_transformation,
)
from fgsgd_jax.transforms._straight_averages import initial_state

CHANGED = 0.02  # of a weight: more than the rounding of bfloat16, 1/256 of every entry at most


class MasterState(NamedTuple):
    """The state of `with_master_weights`.

    Attributes:
        master: By path, the weights in the longer dtype, for leaves of a shorter one.
        inner: The state of the wrapped optimizer.
        spec: The fingerprint of the spec.
    """

    master: dict[str, jax.Array]
    inner: Any
    spec: Any = None  # which older versions did not have


def with_master_weights(
    tx: optax.GradientTransformation, spec: Collection, dtype: Any = jnp.float32
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that keeps weights of a short dtype in a longer one in its state.

    A step much shorter than the resolution of a dtype is rounded away: a bfloat16 weight changes by
    a part in 128 or not at all. Here steps are added to master weights in the longer dtype, which
    `init` puts exactly on their manifolds, and the parameters are the rounding of the master
    weights. Leaves that are not shorter than `dtype` have no master weights.

    Updates of leaves with master weights have the longer dtype, in which the difference of two
    roundings is exact, so that `optax.apply_updates` returns the rounding of the master weights.
    Put wrappers that compare dtypes, such as `optax.apply_if_finite`, inside: they wrap `tx`. The
    master weights decide: after a change of the parameters by anything else, make a new state.

    Args:
        tx: The optimizer, such as `fgsgd(…)` or a chain of links.
        spec: The spec of the parameters.
        dtype: The dtype of the master weights. A name, such as "float32", also works inside
            `optax.inject_hyperparams`, which takes `jnp.float32` for a schedule.

    Returns:
        A transformation whose `update` needs `params`.

    Raises:
        TypeError: If `tx` is no transformation, or `dtype` not a floating-point dtype.
        ValueError: At `init`, if weights are not on their manifolds: `project` them first. At
            `update`, where values are known, which they are not inside a jitted function, if the
            parameters were changed by something else.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]], jnp.bfloat16)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> tx = with_master_weights(fg.fgsgd(1.0, spec), spec)
        >>> state = tx.init(params)
        >>> updates, state = tx.update({"w": jnp.array([[0.0], [-0.25]])}, state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> [round(float(entry), 4) for entry in state.master["w"].ravel()]
        [0.9701, 0.2425]
        >>> params["w"].ravel()
        Array([0.96875, 0.242188], dtype=bfloat16)

    References:
        Micikevicius et al., *Mixed precision training*, ICLR 2018, section 3.1.
    """
    require_transformation(tx)
    require_collection(spec)
    dtype = checked_float_dtype("The dtype of master weights", dtype)
    inner = optax.with_extra_args_support(tx)

    def init_fn(params):
        require_on_manifolds(params, spec)
        longer = jax.tree.map(lambda leaf: _longer(leaf, dtype), params)
        longer = _on_manifolds(longer, spec)
        short = {path for path, leaf in leaves_with_paths(params) if _is_shorter(leaf, dtype)}
        master = {
            path: copy_for_state(leaf) for path, leaf in leaves_with_paths(longer) if path in short
        }
        return MasterState(master, initial_state(inner, longer), SpecState.without_arrays(spec))

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "a step starts from the present weights")
        require_state(state, MasterState, spec)
        require_unfinished(updates)
        _require_roundings(params, state.master)
        gradients = jax.tree.map(lambda leaf: _longer(leaf, dtype), updates)
        old = map_with_path(lambda path, leaf: state.master.get(path, leaf), params)
        steps, inner_state = inner.update(gradients, state.inner, old, **extra_args)
        step_of, weights = dict(leaves_with_paths(steps)), dict(leaves_with_paths(params))
        master = {path: value + step_of.get(path, 0) for path, value in state.master.items()}

        def to_rounding(path, step):
            if path not in master:
                return step
            rounded = master[path].astype(weights[path].dtype)
            return rounded.astype(dtype) - weights[path].astype(dtype)

        moves = finished(map_with_path(to_rounding, steps), spec)
        return moves, MasterState(master, inner_state, state.spec)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _require_roundings(params: Any, master: dict[str, jax.Array]) -> None:
    """Raises if values are known, and parameters are not those that the master weights gave.

    At the first update they may differ by the rounding that `init` removed from master weights.
    """
    if not are_known((params, master)):
        return
    weights = dict(leaves_with_paths(params))
    for path, value in master.items():
        rounded, weight = (
            np.asarray(a, np.float64) for a in (value.astype(weights[path].dtype), weights[path])
        )
        if np.linalg.norm(rounded - weight) > CHANGED * np.linalg.norm(rounded):
            raise ValueError(
                f"{path!r} was changed by something else since the last update, but the master "
                "weights in the state decide, and would undo the change. Make a new state: state = "
                "tx.init(params)."
            )


def _is_shorter(leaf, dtype) -> bool:
    return (
        jnp.issubdtype(leaf.dtype, jnp.floating)
        and jnp.finfo(leaf.dtype).bits < jnp.finfo(dtype).bits
    )


def _longer(leaf, dtype):
    if not _is_shorter(leaf, dtype):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)


def _on_manifolds(params, spec: Collection):
    """The parameters projected, as rounding has moved them; structures without values unchanged."""
    leaves = jax.tree.leaves(params)
    shapes_only = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    return project(params, spec) if leaves and not shapes_only else params
