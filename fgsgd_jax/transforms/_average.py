"""`average_on_manifolds`: the average of the iterates, kept on the manifolds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax import linalg
from fgsgd_jax._arrays import require_gradient_values
from fgsgd_jax._numbers import require_decay, require_flag, require_not_negative
from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import Collection, map_leaves, require_collection
from fgsgd_jax.transforms._guards import require_new_weights_on_manifolds
from fgsgd_jax.transforms._link import (
    Link,
    SpecState,
    copy_for_state,
    require_params,
    require_state,
)
from fgsgd_jax.transforms._nearest import nearest_weight


class AverageOnManifoldsState(NamedTuple):
    """The state of the average.

    Attributes:
        count: The number of steps taken.
        average: The average, a tree like the parameters, in the working dtype.
        spec: The drawn manifolds, and λ.
    """

    count: jax.Array
    average: Any
    spec: SpecState


def average_on_manifolds(
    spec: Collection, *, decay: float | None = None, start: int = 0, align: bool = False
) -> Link:
    """Averages the weights after every update, on their manifolds. Updates pass unchanged.

    The n-th weights x after `start` move the average a by the share w = 1/n towards them, or by
    w = max(1/n, 1 − decay) for an exponential average, and the result is projected on the
    manifolds: a ← project(a + w·(x − a)). Averaged SGD with a rate that falls like n^−α, ½ < α < 1,
    reaches the accuracy of the best rate for a wide range of rates. Euclidean leaves get the plain
    average. The last link of a chain, after `retract_updates`; `get_average` reads the average.

    Args:
        spec: The spec of the parameters.
        decay: The decay of an exponential average; None averages all weights equally.
        start: The number of steps after which averaging begins.
        align: Whether to turn the columns of x towards a before averaging, for losses that depend
            on the span of the columns only, such as that of principal components.

    Returns:
        A transformation whose `update` needs `params`.

    Raises:
        TypeError: If `decay` or `start` is no number, or `align` not True or False.
        ValueError: If `decay` is not from 0 to below 1, or `start` is negative.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]])}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> tx = optax.chain(fg.rsgd(0.1, spec), fg.average_on_manifolds(spec))
        >>> updates, state = tx.update({"w": jnp.array([[0.0], [-1.0]])}, tx.init(params), params)
        >>> get_average(state, params)["w"].ravel()  # of one vector: the vector itself
        Array([0.9950372 , 0.09950372], dtype=float32)

    References:
        Tripuraneni, Flammarion, Bach & Jordan, *Averaging stochastic gradient descent on
        Riemannian manifolds*, COLT 2018; Polyak & Juditsky, 1992.
    """
    require_collection(spec)
    if decay is not None:
        require_decay("decay", decay, "a number, or None for an equal average")
    require_not_negative("start", start)
    require_flag("align", align)

    def init_fn(params):
        state = SpecState.of(spec, params)
        average = jax.tree.map(
            lambda leaf: copy_for_state(leaf, linalg.working_dtype(leaf.dtype)), params
        )
        return AverageOnManifoldsState(jnp.zeros([], jnp.int32), average, state)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "the average is of the weights after the update")
        require_state(state, AverageOnManifoldsState, spec)
        require_gradient_values(updates)
        require_new_weights_on_manifolds(updates, params, spec, state.spec)
        number = jnp.maximum(state.count + 1 - start, 1)
        share = 1 / number if decay is None else jnp.maximum(1 / number, 1 - decay)

        def moved(average, update, weight):
            x = (weight + update).astype(average.dtype)
            return average + share.astype(average.dtype) * (x - average)

        def on_manifold(path, leaf_spec, average, update, weight):
            manifold_ids, _, s_next = state.spec.leaf(path, leaf_spec, weight)
            x = leaf_spec.points(weight + update)
            a = leaf_spec.points(average)
            x = _turned_towards(a, x) if align else x
            mean = leaf_spec.to_weight(a + share.astype(a.dtype) * (x - a), average.dtype)
            return nearest_weight(leaf_spec, mean, manifold_ids, s_next)

        average = map_leaves(spec, on_manifold, moved, state.average, updates, params)
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, AverageOnManifoldsState(count, average, state.spec.after_update())

    return Link.of(init_fn, update_fn, spec=spec, decay=decay, start=start, align=align)


def get_average(state: Any, params: Any) -> Any:
    """The average that `average_on_manifolds` keeps in a state.

    Args:
        state: The state of a chain with this link, with or without wrappers of Optax.
        params: The parameters, for the dtypes of the result.

    Returns:
        A tree like the parameters, on the manifolds.

    Raises:
        TypeError: If a parameter is no array.
        ValueError: If the state has no average, or several, or one of other parameters.

    Example:
        See `average_on_manifolds`.
    """
    nodes = jax.tree.leaves(state, is_leaf=_is_average)
    found = [node for node in nodes if _is_average(node)]
    if len(found) != 1:
        raise ValueError(
            f"This state has {len(found) or 'no'} averages, one is needed: chain the optimizer "
            "with one average_on_manifolds(spec)."
        )
    averages = found[0].average
    if jax.tree.structure(params) != jax.tree.structure(averages):
        raise ValueError(
            "The average was taken of parameters of another structure than those given for the "
            "dtypes. Give get_average(state, params) the parameters that are trained."
        )
    for path, leaf in leaves_with_paths(params):
        if not hasattr(leaf, "dtype"):
            raise TypeError(
                f"The parameters must be a tree of arrays, but {path!r} is {shown(leaf)}."
            )
    return jax.tree.map(lambda leaf, average: average.astype(leaf.dtype), params, averages)


def _is_average(node: Any) -> bool:
    return isinstance(node, AverageOnManifoldsState)


def _turned_towards(a: jax.Array, x: jax.Array) -> jax.Array:
    """x·Q, with the orthogonal Q that brings it nearest to a (the Procrustes problem)."""
    return linalg.matmul(x, linalg.polar(linalg.gram(x, a)))
