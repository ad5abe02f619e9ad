"""Schemes: which components of a layer form one product of manifolds (POM), and who is on what.

The groups of a layer are drawn once, at random and without replacement, and stay fixed:

    scheme      groups per layer            a group holds
    PI          one per input channel       its components over all output channels
    PO          one per output channel      its components over all input channels
    PIO         as many as asked            an equal part of all components, drawn over both axes
    layer       one                         every component
    kernel      one per component           that component alone (Submanifold SGD: no product)

Where a group mixes types, a random permutation of it is dealt out to the types in turn, so that a
group holds equal parts of all types, up to one component, and so does the weight.

The draws depend on the seed and the shape only, and come from the raw stream of a Philox
generator, which NumPy promises to keep: the same on every platform, in every version, after every
restart.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, section 2.
"""

import math
from typing import Literal, NamedTuple, get_args

import numpy as np

from fgsgd_jax.spec._components import Component

Scheme = Literal["PI", "PO", "PIO", "layer", "kernel"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


class Draw(NamedTuple):
    """What was drawn at random for one weight; None where nothing was.

    Attributes:
        groups: PIO only. The group of every component, int32 `(*lanes)`, counted over all stacked
            layers.
        manifold_ids: Mixed types only. The position of every component's manifold in the list,
            int8 `(*lanes)`.
    """

    groups: np.ndarray | None
    manifold_ids: np.ndarray | None


def channel_counts(component: Component, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """How many input channels, output channels and stacked layers components are counted over."""

    def count(axes):
        return math.prod(shape[axis] for axis in axes)

    return count(component.inputs), count(component.outputs), count(component.stack)


def summed_axes(scheme: Scheme, component: Component) -> tuple[int, ...]:
    """The lane axes that a sum over the groups of a scheme runs over (none of PIO's making)."""
    axes = {
        "PI": component.outputs,
        "PO": component.inputs,
        "layer": component.inputs + component.outputs,
        "kernel": (),
    }
    return component.lane_axes(axes[scheme])


def count_groups(
    scheme: Scheme, groups: int | None, component: Component, shape: tuple[int, ...]
) -> int:
    """How many groups the components of one stacked layer fall into.

    Raises:
        ValueError: If PIO is asked for more groups than there are components.
    """
    inputs, outputs, _ = channel_counts(component, shape)
    if scheme == "PIO":
        # As many groups as the smaller channel axis: none is smaller than the larger axis.
        asked = groups if groups is not None else min(inputs, outputs)
        if asked > inputs * outputs:
            raise ValueError(
                f"falls into {inputs * outputs} components, which cannot fill the {asked} groups "
                f"asked for; ask for {inputs * outputs} groups at most"
            )
        return asked
    return {"PI": inputs, "PO": outputs, "layer": 1, "kernel": inputs * outputs}[scheme]


def draw(
    scheme: Scheme,
    groups: int,
    manifold_ids: int,
    component: Component,
    shape: tuple[int, ...],
    seed: int,
) -> Draw:
    """Draws the groups of PIO and the manifold of every component.

    Args:
        scheme: The scheme.
        groups: The number of groups, as `count_groups` gives it.
        manifold_ids: The number of manifolds to deal out.
        component: The cut of the weight.
        shape: The shape of the weight.
        seed: Non-negative; the same seed and shape give the same draw.
    """
    inputs, outputs, stacked = channel_counts(component, shape)
    count = inputs * outputs
    stream = np.random.Philox(key=np.array([seed, 0], np.uint64))

    def permutations(rows: int, size: int) -> np.ndarray:
        # Raw words and a stable sort: ties, one in 2⁶⁴, do not matter.
        words = stream.random_raw(rows * size).reshape(rows, size)
        return np.argsort(words, axis=1, kind="stable")

    if scheme == "PIO":
        order = permutations(stacked, count)
        group = np.empty((stacked, count), np.int32)
        np.put_along_axis(group, order, (np.arange(count) * groups // count)[None], axis=1)
    else:
        index = np.arange(count, dtype=np.int32).reshape(inputs, outputs)
        by_scheme = {
            "PI": index // outputs,
            "PO": index % outputs,
            "layer": np.zeros_like(index),
            "kernel": index,
        }[scheme]
        group = np.broadcast_to(by_scheme.reshape(1, count), (stacked, count))

    kind = None
    if manifold_ids > 1:
        # Components ordered by group (groups in random order), at random within a group.
        group_rank = permutations(stacked, groups)
        within = permutations(stacked, count)
        ranks = np.take_along_axis(group_rank, group, axis=1)
        kind = np.empty((stacked, count), np.int8)
        for layer in range(stacked):
            order = within[layer][np.argsort(ranks[layer][within[layer]], kind="stable")]
            kind[layer, order] = (layer * count + np.arange(count)) % manifold_ids

    def to_lanes(flat: np.ndarray) -> np.ndarray:
        axes = component.stack + component.inputs + component.outputs
        spread = flat.reshape([shape[axis] for axis in axes])
        return np.transpose(spread, np.argsort(axes, kind="stable"))

    # A group never spans stacked layers: each layer numbers its own.
    group = group + groups * np.arange(stacked, dtype=np.int32)[:, None]
    return Draw(
        groups=to_lanes(group) if scheme == "PIO" else None,
        manifold_ids=None if kind is None else to_lanes(kind),
    )
