"""Norms of weights under a spec: of components, groups, layers and networks."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.norms._matrices import Norms, norms_of, working
from fgsgd_jax.spec import Collection, LeafSpec, require_collection
from fgsgd_jax.spec._schemes import summed_axes


class NetworkNorms(NamedTuple):
    """All norms of a network.

    Attributes:
        components: By path, of every component, `(*lanes)`.
        groups: By path, of every group, `(number of groups,)`, stacked layers one after another.
        layers: By path, of the whole weight, one for each stacked layer.
        log_groups: The logarithms of the products over all groups of all weights, scalars.
        log_layers: The same over all layers.
    """

    components: dict[str, Norms]
    groups: dict[str, Norms]
    layers: dict[str, Norms]
    log_groups: Norms
    log_layers: Norms


@functools.partial(jax.jit, static_argnums=1)
def component_norms(weight: jax.Array, layer: LeafSpec | None, /) -> Norms:
    """The norms of every component of a weight.

    Args:
        weight: The weight.
        layer: Its entry of the spec; None for a Euclidean weight.

    Returns:
        Arrays `(*lanes)`, one number per component; `(1,)` for a Euclidean weight.
    """
    if layer is None:
        return layer_norms(weight, None)
    _require_shape(weight, layer)
    return norms_of(layer.component.to_points(weight))


def group_norms(weight: jax.Array, layer: LeafSpec | None, /) -> Norms:
    """The norms of every group of a weight: of its components side by side.

    Args:
        weight: The weight.
        layer: Its entry of the spec; None for a Euclidean weight, which is one group.

    Returns:
        Arrays `(number of groups,)`; the groups of stacked layers follow one another.

    Example:
        Unit components under PO, eight in a group: every Frobenius norm is √8.

        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())))
        >>> norms = group_norms(fg.project(params, spec)["w"], spec["w"])
        >>> print(norms.frobenius.round(3))
        [2.828 2.828 2.828 2.828]
    """
    if layer is None:
        return layer_norms(weight, None)
    _require_shape(weight, layer)
    return _group_norms(weight, layer)


@functools.partial(jax.jit, static_argnums=1)
def layer_norms(weight: jax.Array, layer: LeafSpec | None = None, /) -> Norms:
    """The norms of a whole weight as a matrix, outputs × (receptive field · inputs).

    Args:
        weight: The weight, of two axes or more.
        layer: Its entry of the spec, which tells outputs, inputs and stacked layers apart. Without
            one the last axis counts outputs, all others inputs.

    Returns:
        Arrays `(number of stacked layers,)`, `(1,)` without a stack.

    Raises:
        ValueError: If the weight is no matrix.
    """
    if layer is None and jnp.ndim(weight) < 2:
        raise ValueError(
            f"A weight of shape {jnp.shape(weight)} is no matrix and has no layer norms; give one "
            "with an input and an output axis."
        )
    weight = jnp.asarray(weight)
    if layer is None:
        outputs, stack = (weight.ndim - 1,), ()
    else:
        _require_shape(weight, layer)
        component = layer.component
        outputs, stack = component.outputs or component.columns, component.stack
    inputs = tuple(axis for axis in range(weight.ndim) if axis not in outputs + stack)
    sizes = [math.prod(weight.shape[axis] for axis in axes) for axes in (outputs, inputs, stack)]
    return norms_of(jnp.transpose(weight, outputs + inputs + stack).reshape(sizes))


def _require_shape(weight: jax.Array, layer: LeafSpec) -> None:
    if jnp.shape(weight) != layer.shape:
        raise ValueError(
            f"The weight has shape {jnp.shape(weight)}, but its entry of the collection is for "
            f"shape {layer.shape}. Give both of the same path."
        )


def network_norms(params: Any, spec: Collection) -> NetworkNorms:
    """All norms of all weights, and the logarithms of their products.

    Weights are the leaves on manifolds and, as whole layers, the Euclidean floating-point leaves of
    two axes or more; biases and normalization scales are none.

    Args:
        params: The tree the spec was built from.
        spec: The collection.

    Raises:
        ValueError: If the spec was not built from these parameters, or there are no weights.

    Example:
        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"conv": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("conv", fg.pom("PO", fg.Sphere())))
        >>> norms = network_norms(fg.project(params, spec), spec)
        >>> round(float(norms.log_groups.frobenius), 3)  # 4·log √8
        4.159
    """
    weights = weights_of(params, spec)
    components = {path: component_norms(weight, layer) for path, weight, layer in weights}
    groups = {path: group_norms(weight, layer) for path, weight, layer in weights}
    layers = {path: layer_norms(weight, layer) for path, weight, layer in weights}
    return NetworkNorms(components, groups, layers, _log_product(groups), _log_product(layers))


def weights_of(params: Any, spec: Collection) -> list[tuple[str, jax.Array, LeafSpec | None]]:
    """The path, value and entry of all weights that have norms.

    Raises:
        ValueError: As `network_norms`.
    """
    require_collection(spec)
    weights = [
        (path, weight, layer)
        for path, weight in leaves_with_paths(params)
        if (layer := spec.leaf_spec_of(path, weight)) is not None
        or (jnp.issubdtype(weight.dtype, jnp.floating) and len(weight.shape) > 1)
    ]
    if not weights:
        raise ValueError(
            "The tree has no weights to take norms of: no leaf on a manifold and no floating-point "
            "leaf of two axes or more. Give it the parameters of a network."
        )
    return weights


@jax.jit
def _log_product(norms: dict[str, Norms]) -> Norms:
    sums = [jax.tree.map(lambda norm: jnp.sum(jnp.log(norm)), leaf) for leaf in norms.values()]
    return jax.tree.map(lambda *leaves: jnp.sum(jnp.stack(leaves)), *sums)


@functools.partial(jax.jit, static_argnums=1)
def _group_norms(weight: jax.Array, layer: LeafSpec) -> Norms:
    return norms_of(side_by_side(weight, layer))


def side_by_side(weight: jax.Array, layer: LeafSpec) -> jax.Array:
    """The matrix of every group: `(rows, columns · components in a group, groups)`."""
    points = working(layer.component.to_points(weight))
    rows, columns, *lanes = points.shape
    if layer.scheme == "PIO":
        members = _members(layer)
        points = points.reshape(rows, columns, -1)
        points = jnp.take(points, members, axis=2, mode="fill", fill_value=0)
        return points.reshape(rows, -1, members.shape[1])
    component = layer.component
    inside = summed_axes(layer.scheme, component)
    counted = component.lane_axes(component.stack + component.inputs + component.outputs)
    outside = tuple(axis for axis in counted if axis not in inside)
    order = (0, 1, *(2 + axis for axis in inside + outside))
    groups = math.prod(lanes[axis] for axis in outside)
    return jnp.transpose(points, order).reshape(rows, -1, groups)


@functools.lru_cache(maxsize=256)
def _members(layer: LeafSpec) -> np.ndarray:
    """The components of every group, `(most in a group, groups)`.

    Groups differ in size by one at most; a place left over holds the number of all components,
    which no component has.
    """
    group = layer.draw().groups
    assert group is not None
    order = np.argsort(group.ravel(), kind="stable")
    counts = np.bincount(group.ravel(), minlength=layer.stacked * layer.groups)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    members = np.full((counts.max(), len(counts)), len(order), np.int32)
    members[place, group.ravel()[order]] = order
    return members
