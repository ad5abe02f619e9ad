"""The bounds of Table 1 for a network, on groups and on whole layers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from fgsgd_jax.bounds._table import Bounds, log_bounds
from fgsgd_jax.norms import NetworkNorms, Norms, group_norms, layer_norms, weights_of
from fgsgd_jax.spec import Collection, LeafSpec


class NetworkBounds(NamedTuple):
    """The bounds of a network with the norms of groups, and with the norms of whole layers.

    Attributes:
        groups: With the norms of the groups of the spec, as in Table 1.
        layers: With the norms of the matrices of the layers, as in the cited theorems.
    """

    groups: Bounds
    layers: Bounds


def network_bounds(
    params: Any, spec: Collection, *, samples: int, width: int | None = None
) -> NetworkBounds:
    """The bounds of Table 1 for a network, on groups and on whole layers.

    Layers are the leaves on manifolds, and the Euclidean floating-point leaves of two axes or more,
    each with one group. Biases and normalization are left out. A leaf that stacks heads, experts or
    layers counts as one layer with more groups.

    Args:
        params: The tree from which the spec was built.
        spec: Their spec.
        samples: N, the number of training samples.
        width: ϖ; by default the largest number of outputs (channels of a convolution) of a layer.

    Returns:
        The bounds, on groups and on layers.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If there are no layers, or a number is below 1.

    Example:
        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"conv": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("conv", fg.pom("PO", fg.Sphere())))
        >>> bounds = network_bounds(fg.project(params, spec), spec, samples=100).groups
        >>> round(float(bounds.neyshabur_2015), 3)  # log (2·(√8)⁴/10)
        2.549
    """
    weights = weights_of(params, spec)
    if width is None:
        width = max(_outputs(leaf_spec, weight.shape) for _, weight, leaf_spec in weights)
    groups, layers = (
        {path: norms(weight, leaf_spec) for path, weight, leaf_spec in weights}
        for norms in (group_norms, layer_norms)
    )
    return _bounds_on(groups, layers, samples, width)


def bounds_of(network: NetworkNorms, *, samples: jax.Array | int, width: int) -> NetworkBounds:
    """The bounds of `network_bounds`, from norms that are already computed.

    Args:
        network: The norms of the network.
        samples: N, the number of training samples.
        width: ϖ, the largest number of units in a layer.

    Returns:
        The bounds, on groups and on layers.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If there are no layers, or a number is below 1.

    Example:
        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"conv": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("conv", fg.pom("PO", fg.Sphere())))
        >>> norms = fg.norms.network_norms(fg.project(params, spec), spec)
        >>> round(float(bounds_of(norms, samples=100, width=4).groups.neyshabur_2015), 3)
        2.549
    """
    if not isinstance(network, NetworkNorms):
        raise TypeError(
            "The norms must be those of a network, network_norms(params, spec), got "
            f"{type(network).__name__}."
        )
    return _bounds_on(network.groups, network.layers, samples, width)


def _bounds_on(
    groups: Mapping[str, Norms], layers: Mapping[str, Norms], samples: jax.Array | int, width: int
) -> NetworkBounds:
    return NetworkBounds(
        groups=log_bounds(groups, samples=samples, width=width),
        layers=log_bounds(layers, samples=samples, width=width),
    )


def _outputs(leaf_spec: LeafSpec | None, shape: tuple[int, ...]) -> int:
    if leaf_spec is None:
        return shape[-1]
    component = leaf_spec.component
    sizes = component.split_shape(shape)
    return math.prod(sizes[axis] for axis in component.outputs or component.columns)
