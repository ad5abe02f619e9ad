"""Schemes: which components of a weight form a group (POM), and on which manifold each one is.

A scheme is a rule that partitions the components of a layer into groups:

    scheme      groups per layer            components in a group
    PI          one per input channel       all with this input channel
    PO          one per output channel      all with this output channel
    PIO         any number                  an equal share, drawn at random over both channel axes
    layer       one                         all
    kernel      one per component           one (Submanifold SGD: no product of manifolds)

Where a weight is on several manifolds, the components of every group are put in a random order and
assigned to the manifolds in turn. So the numbers of components on any two manifolds differ by one
at most, in every group and in the whole weight.

Everything is drawn once and depends on the seed and the shape only. The draws use the raw stream of
a Philox generator, which NumPy guarantees to be the same on every platform and in every version.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 2.
"""

import math
from typing import Literal, NamedTuple, get_args

import numpy as np

from fgsgd_jax._text import counted
from fgsgd_jax.spec._components import Component

Scheme = Literal["PI", "PO", "PIO", "layer", "kernel"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


class Draw(NamedTuple):
    """What is drawn at random for one weight; None where nothing is random.

    Attributes:
        groups: PIO only. The group of every component, int32 `(*lanes)`, counted over all stacked
            layers.
        manifold_ids: Several manifolds only. The position of every component's manifold in the
            list of manifolds, int8 `(*lanes)`.
    """

    groups: np.ndarray | None
    manifold_ids: np.ndarray | None


def channel_counts(component: Component, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The sizes of the lane axes: input channels, output channels, stacked layers; 1 for none."""
    sizes = component.split_shape(shape)

    def count(axes):
        return math.prod(sizes[axis] for axis in axes)

    return count(component.inputs), count(component.outputs), count(component.stack)


def summed_axes(scheme: Scheme, component: Component) -> tuple[int, ...]:
    """The lane axes to sum over for a sum per group. Not for PIO, whose groups are drawn."""
    axes = {
        "PI": component.outputs,
        "PO": component.inputs,
        "layer": component.inputs + component.outputs,
        "kernel": (),
    }
    return component.lane_axes(axes[scheme])


def check_scheme(scheme: Scheme, component: Component, shape: tuple[int, ...]) -> None:
    """Raises if a scheme groups by channels that a component with axes of the user does not have.

    Raises:
        ValueError: The message lacks its subject, the path of the weight, for the caller to add.
    """
    role = {"PI": "inputs", "PO": "outputs"}.get(scheme)
    inputs, outputs, _ = channel_counts(component, shape)
    if role and not getattr(component, role) and inputs * outputs > 1:
        raise ValueError(
            f"is cut with component {component}, which names no {role}, so {scheme} would put all "
            f"{inputs * outputs} components in one group; give an axis the role {role!r}, or write "
            "the scheme 'layer' for one group"
        )


def count_groups(
    scheme: Scheme, groups: int | None, component: Component, shape: tuple[int, ...]
) -> int:
    """The number of groups in each stacked layer.

    Args:
        scheme: The scheme.
        groups: The number asked for under PIO; None for min(inputs, outputs), with which no group
            has fewer than max(inputs, outputs) components.
        component: How the weight is cut.
        shape: The shape of the weight.

    Raises:
        ValueError: If PIO is asked for more groups than there are components. The message lacks its
            subject, the path of the weight, for the caller to add.
    """
    inputs, outputs, _ = channel_counts(component, shape)
    if scheme != "PIO":
        return {"PI": inputs, "PO": outputs, "layer": 1, "kernel": inputs * outputs}[scheme]
    if groups is None:
        return min(inputs, outputs)
    if groups > inputs * outputs:
        raise ValueError(
            f"is cut into {counted(inputs * outputs, 'component')}, too few for {groups} groups; "
            f"give groups={inputs * outputs} or less"
        )
    return groups


def draw(
    scheme: Scheme,
    groups: int,
    manifold_count: int,
    component: Component,
    shape: tuple[int, ...],
    seed: int,
) -> Draw:
    """Draws the groups of PIO, and the manifold of every component where there are several.

    Args:
        scheme: The scheme.
        groups: The number of groups in each stacked layer, from `count_groups`.
        manifold_count: The number of manifolds.
        component: How the weight is cut.
        shape: The shape of the weight.
        seed: From 0 to 2⁶⁴ − 1. The same seed and shape give the same draw.
    """
    inputs, outputs, stacked = channel_counts(component, shape)
    sizes = component.split_shape(shape)
    stream = np.random.Philox(key=np.array([seed, 0], np.uint64))
    # Both are arrays (stacked layers, inputs · outputs).
    group = _groups_in_layer(scheme, groups, inputs, outputs, stacked, stream)
    manifold_ids = None
    if manifold_count > 1:
        manifold_ids = _assigned_manifolds(group, groups, manifold_count, stream)

    def to_lanes(flat: np.ndarray) -> np.ndarray:
        axes = component.stack + component.inputs + component.outputs
        unflattened = flat.reshape([sizes[axis] for axis in axes])
        return np.transpose(unflattened, np.argsort(axes, kind="stable"))

    # A group never spans stacked layers: the numbers of each layer follow those of the one before.
    group = group + groups * np.arange(stacked, dtype=np.int32)[:, None]
    return Draw(
        groups=to_lanes(group) if scheme == "PIO" else None,
        manifold_ids=None if manifold_ids is None else to_lanes(manifold_ids),
    )


def _groups_in_layer(
    scheme: Scheme, groups: int, inputs: int, outputs: int, stacked: int, stream: np.random.Philox
) -> np.ndarray:
    """The group of every component, counted within its layer, int32 `(stacked, components)`."""
    count = inputs * outputs
    if scheme == "PIO":
        group = np.empty((stacked, count), np.int32)
        order = _permutations(stream, stacked, count)
        # The k-th component in the random order is in group ⌊k·groups/count⌋.
        np.put_along_axis(group, order, (np.arange(count) * groups // count)[None], axis=1)
        return group
    index = np.arange(count, dtype=np.int32)
    group = {
        "PI": index // outputs,
        "PO": index % outputs,
        "layer": np.zeros_like(index),
        "kernel": index,
    }[scheme]
    return np.broadcast_to(group, (stacked, count))


def _assigned_manifolds(
    group: np.ndarray, groups: int, manifold_count: int, stream: np.random.Philox
) -> np.ndarray:
    """The manifold id of every component, int8 `(stacked, components)`.

    Components are sorted by group, with the groups in a random order and the components of a group
    in a random order, and then assigned to the manifolds in turn, from layer to layer.
    """
    stacked, count = group.shape
    rank_of_group = _permutations(stream, stacked, groups)
    shuffled = _permutations(stream, stacked, count)
    ranks = np.take_along_axis(rank_of_group, group, axis=1)
    manifold_ids = np.empty((stacked, count), np.int8)
    for layer in range(stacked):
        order = shuffled[layer][np.argsort(ranks[layer][shuffled[layer]], kind="stable")]
        manifold_ids[layer, order] = (layer * count + np.arange(count)) % manifold_count
    return manifold_ids


def _permutations(stream: np.random.Philox, rows: int, size: int) -> np.ndarray:
    """Random permutations of range(size), one per row."""
    # The order of raw words. The sort is stable, so that the result is defined even if two words
    # are equal, with probability 2⁻⁶⁴ a pair.
    words = stream.random_raw(rows * size).reshape(rows, size)
    return np.argsort(words, axis=1, kind="stable")
