"""Norms of weights under a spec: of components, groups, layers and networks."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax._arrays import checked_array
from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.norms._matrices import Norms, norms_of
from fgsgd_jax.spec import (
    Collection,
    LeafSpec,
    group_members,
    require_collection,
    require_weights,
    summed_axes,
)


class NetworkNorms(NamedTuple):
    """All norms of a network.

    Attributes:
        components: By path, of every component, `(*lanes)`.
        groups: By path, of every group, `(number of groups,)`, stacked layers one after another.
        layers: By path, of the whole weight, one for each stacked leaf_spec.
        log_groups: The logarithms of the products over all groups of all weights, scalars.
        log_layers: The same over all layers.
    """

    components: dict[str, Norms]
    groups: dict[str, Norms]
    layers: dict[str, Norms]
    log_groups: Norms
    log_layers: Norms


def component_norms(weight: jax.Array, leaf_spec: LeafSpec | None, /) -> Norms:
    """The norms of every component of a weight.

    Args:
        weight: The weight.
        leaf_spec: Its entry of the spec; None for a Euclidean weight.

    Returns:
        Arrays `(*lanes)`, one number per component; `(1,)` for a Euclidean weight.

    Raises:
        TypeError: If the weight is no array of floats, or the entry none of a spec.
        ValueError: If the weight has another shape than its entry of the spec.

    Example:
        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 2, 4))}
        >>> spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())))
        >>> component_norms(fg.project(params, spec)["w"], spec["w"]).frobenius.shape
        (2, 4)
    """
    if leaf_spec is None:
        return layer_norms(weight, None)
    return _component_norms(_checked_weight(weight, leaf_spec), leaf_spec)


def group_norms(weight: jax.Array, leaf_spec: LeafSpec | None, /) -> Norms:
    """The norms of every group of a weight: of the matrix of its components side by side.

    Args:
        weight: The weight.
        leaf_spec: Its entry of the spec; None for a Euclidean weight, which is one group.

    Returns:
        Arrays `(number of groups,)`; the groups of stacked layers follow one another.

    Raises:
        TypeError: If the weight is no array of floats, or the entry none of a spec.
        ValueError: If the weight has another shape than its entry of the spec.

    Example:
        Under PO with eight unit components in a group every Frobenius norm is √8.

        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())))
        >>> norms = group_norms(fg.project(params, spec)["w"], spec["w"])
        >>> print(norms.frobenius.round(3))
        [2.828 2.828 2.828 2.828]
    """
    if leaf_spec is None:
        return layer_norms(weight, None)
    return _group_norms(_checked_weight(weight, leaf_spec), leaf_spec)


def layer_norms(weight: jax.Array, leaf_spec: LeafSpec | None = None, /) -> Norms:
    """The norms of a whole weight as a matrix, outputs × (receptive field · inputs).

    Args:
        weight: The weight, of two axes or more.
        leaf_spec: Its entry of the spec, which says which axes are outputs, inputs and stacked
            layers. If it is None, the last axis is outputs and all others are inputs.

    Returns:
        Arrays `(number of stacked layers,)`, `(1,)` without a stack.

    Raises:
        TypeError: If the weight is no array of floats, or the entry none of a spec.
        ValueError: If the weight has fewer than two axes, or another shape than its entry of the
            spec.

    Example:
        >>> import jax.numpy as jnp
        >>> layer_norms(jnp.ones((2, 2, 1, 4))).frobenius  # 4 outputs × 4 inputs
        Array([4.], dtype=float32)
    """
    weight = _checked_weight(weight, leaf_spec)
    if leaf_spec is None and (weight.ndim < 2 or not weight.size):
        raise ValueError(
            f"A weight of shape {weight.shape} is no matrix and has no layer norms. Give "
            "a weight with an input and an output axis."
        )
    return _layer_norms(weight, leaf_spec)


@functools.partial(jax.jit, static_argnums=1)
def _layer_norms(weight: jax.Array, leaf_spec: LeafSpec | None) -> Norms:
    if leaf_spec is None:
        outputs, stack = (weight.ndim - 1,), ()
    else:
        component = leaf_spec.component
        outputs, stack = component.outputs or component.columns, component.stack
        weight = weight.reshape(component.split_shape(weight.shape))
    inputs = tuple(axis for axis in range(weight.ndim) if axis not in outputs + stack)
    sizes = [math.prod(weight.shape[axis] for axis in axes) for axes in (outputs, inputs, stack)]
    return norms_of(jnp.transpose(weight, outputs + inputs + stack).reshape(sizes))


def _checked_weight(weight: Any, leaf_spec: Any) -> jax.Array:
    """The weight, an array of floats that fits its entry of the spec, if it has one.

    Raises:
        TypeError: If one of them is something else.
        ValueError: If the weight has another shape.
    """
    if not (leaf_spec is None or isinstance(leaf_spec, LeafSpec)):
        raise TypeError(
            "The entry of the spec must be that of one weight, such as spec['conv/kernel'], or "
            f"None, got {shown(leaf_spec)}."
        )
    weight = checked_array("The weight", weight, numbers="real floating-point numbers")
    if leaf_spec is not None and weight.shape != leaf_spec.shape:
        raise ValueError(
            f"The weight has shape {weight.shape}, but its entry of the spec is for shape "
            f"{leaf_spec.shape}. Give the weight and the entry of the same path."
        )
    return weight


def network_norms(params: Any, spec: Collection) -> NetworkNorms:
    """All norms of all weights, and the logarithms of their products.

    Weights are the leaves on manifolds, and the Euclidean floating-point leaves of two axes or
    more, each as one whole layer. Biases and normalization scales do not count.

    Args:
        params: The tree from which the spec was built.
        spec: Their spec.

    Returns:
        By path, the norms of the components, `(*lanes)` for each weight; of the groups, one number
        for each; and of the layer, a scalar. And the sums of their logarithms over all groups, and
        over all layers, scalars.

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

    References:
        Ozay, 2019, Table 1 (norms of groups δ, and their products over the layers).
    """
    weights = weights_of(params, spec)
    components, groups, layers = (
        {path: norms(weight, leaf_spec) for path, weight, leaf_spec in weights}
        for norms in (component_norms, group_norms, layer_norms)
    )
    return NetworkNorms(components, groups, layers, _log_product(groups), _log_product(layers))


def weights_of(params: Any, spec: Collection) -> list[tuple[str, jax.Array, LeafSpec | None]]:
    """The path, value and entry of the spec of all weights that have norms.

    Raises:
        ValueError: If the spec was not built from these parameters, or there are no weights.
    """
    require_collection(spec)
    require_weights(params, spec)
    weights = [
        (path, weight, leaf_spec)
        for path, weight in leaves_with_paths(params)
        if (leaf_spec := spec.leaf_spec_of(path, weight)) is not None
        or (jnp.issubdtype(weight.dtype, jnp.floating) and len(weight.shape) > 1)
    ]
    if not weights:
        raise ValueError(
            "The tree has no weights that have norms: no leaf on a manifold and no floating-point "
            "leaf of two axes or more. Give the parameters of a network."
        )
    return weights


@jax.jit
def _log_product(norms: dict[str, Norms]) -> Norms:
    sums = [jax.tree.map(lambda norm: jnp.sum(jnp.log(norm)), leaf) for leaf in norms.values()]
    return jax.tree.map(lambda *leaves: jnp.sum(jnp.stack(leaves)), *sums)


@functools.partial(jax.jit, static_argnums=1)
def _component_norms(weight: jax.Array, leaf_spec: LeafSpec) -> Norms:
    return norms_of(leaf_spec.component.to_points(weight))


@functools.partial(jax.jit, static_argnums=1)
def _group_norms(weight: jax.Array, leaf_spec: LeafSpec) -> Norms:
    return norms_of(_group_matrices(weight, leaf_spec))


def group_matrices(weight: jax.Array, leaf_spec: LeafSpec) -> jax.Array:
    """The components of every group side by side, as one matrix.

    Args:
        weight: The weight.
        leaf_spec: Its entry of the spec.

    Returns:
        `(rows, columns · components in a group, groups)`. Groups of unequal size are filled up with
        zeros, which change none of the norms.

    Raises:
        TypeError: If the weight is no array of floats, or the entry none of a spec.
        ValueError: If the weight has another shape than its entry of the spec.
    """
    if leaf_spec is None:
        raise TypeError(
            "The entry of the spec must be that of a weight on a manifold, such as "
            "spec['conv/kernel'], got None: a Euclidean weight has no groups of components."
        )
    return _group_matrices(_checked_weight(weight, leaf_spec), leaf_spec)


def _group_matrices(weight: jax.Array, leaf_spec: LeafSpec) -> jax.Array:
    points = leaf_spec.points(weight)
    rows, columns, *lanes = points.shape
    if leaf_spec.scheme == "PIO":
        members = group_members(leaf_spec)
        points = points.reshape(rows, columns, -1)
        points = jnp.take(points, members, axis=2, mode="fill", fill_value=0)
        return points.reshape(rows, -1, members.shape[1])
    component = leaf_spec.component
    inside = summed_axes(leaf_spec.scheme, component)
    counted = component.lane_axes(component.stack + component.inputs + component.outputs)
    outside = tuple(axis for axis in counted if axis not in inside)
    order = (0, 1, *(2 + axis for axis in inside + outside))
    groups = math.prod(lanes[axis] for axis in outside)
    return jnp.transpose(points, order).reshape(rows, -1, groups)
