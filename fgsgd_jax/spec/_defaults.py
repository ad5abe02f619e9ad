"""Defaults: what applies to leaves that no rule matches, and why some of them stay Euclidean.

A default may only do what nobody can misread. "by shape" takes a leaf for a convolution where path
and shape agree; a pom passes over the leaves that need their length or mean something else.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp

from fgsgd_jax.geometry import Oblique, Sphere, Stiefel
from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._layouts import DEFAULT, contradiction, letters_for, spatial
from fgsgd_jax.spec._named_cuts import cut
from fgsgd_jax.spec._reasons import Reason, by_path
from fgsgd_jax.spec._request import Pom, pom
from fgsgd_jax.spec.networks._biases import swapped_by_bias
from fgsgd_jax.spec.networks._kinds import LARGEST_VECTOR, kind_of, may_be_layer
from fgsgd_jax.spec.networks._names import (
    is_called_as_in_pytorch,
    keys_of,
    may_have_outputs_before_inputs,
)
from fgsgd_jax.spec.networks._routers import routes_beside_experts
from fgsgd_jax.spec.networks._stack_axes import of_one_layer

ROUTER = "router: a gate beside experts"

# The best setting of the paper: three manifolds in every group, groups over both channel axes.
BY_SHAPE = pom("PIO", (Sphere(), Oblique(), Stiefel()))


def by_default(
    path: str,
    leaf,
    default: Pom | str | None,
    layout: str | None,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    stacks: bool,
) -> Pom | str:
    """What the default asks for a leaf, or why it leaves it Euclidean.

    Args:
        path: The path of the leaf.
        leaf: Anything with a shape and a dtype.
        default: A pom, "by shape" or None.
        layout: The layout of the leaf, or None.
        shapes: The shapes of all leaves.
        stacks: Whether the layout given to `collection` stacks layers.
    """
    shape = tuple(leaf.shape)
    unsuitable = without_geometry(leaf.dtype) or (Reason.EMPTY if math.prod(shape) == 0 else "")
    if default is None or unsuitable:
        return unsuitable or Reason.NO_DEFAULT
    why = passed_over(path, of_one_layer(shape, layout))
    named = _names_axes(default)
    if not named and swapped_by_bias(path, layout, shapes):
        why = why or Reason.SWAPPED
    if not isinstance(default, Pom):
        return why or why_no_convolution(path, shape, layout) or BY_SHAPE
    if not named and (stacks or layout is None) and _may_be_stacked_vectors(path, shapes):
        why = why or Reason.STACKED_VECTORS
    return why or _why_not_every_pom(path, shape, default, layout, shapes) or default


def _names_axes(default: Pom | str) -> bool:
    """Whether a default is a pom that says itself what the axes of its weights are."""
    if not isinstance(default, Pom):
        return False
    return default.layout is not None or isinstance(default.component, Component)


def _why_not_every_pom(
    path: str,
    shape: tuple[int, ...],
    default: Pom,
    layout: str | None,
    shapes: Mapping[str, tuple[int, ...]],
) -> str:
    """Why a pom that is a default does not mean a leaf; "" if it does."""
    kind = kind_of(path, len(shape))
    if kind in ("embedding", "router", "token", "quantizer"):
        return by_path(kind)
    if routes_beside_experts(path, shapes):
        return ROUTER
    if len(shape) > 2 and sum(size > 1 for size in shape) < 2:
        return Reason.ONE_LONG_AXIS  # such as the token of a class, (1, 1, width)
    known = _names_axes(default) or layout
    if not known and (len(shape) in (3, 5) or len(shape) > 5):
        if not (len(shape) == 3 and kind == "convolution"):
            return (
                f"{len(shape)} axes, which may be anything: give a layout, or name them in a rule"
            )
    return ""


def _may_be_stacked_vectors(path: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a leaf of two axes may hold a vector of each of several layers.

    So it may where leaves of more axes, under the same first key, have as long a first axis.
    """
    first, shape = keys_of(path)[0], shapes[path]
    return (
        len(shape) == 2
        and kind_of(path, 2) == ""
        and any(
            len(its) > 2 and its[0] == shape[0] and keys_of(other)[0] == first
            for other, its in shapes.items()
            if kind_of(other) != "convolution"
        )
    )


def without_geometry(dtype) -> str:
    """Why leaves of this dtype cannot be on manifolds; "" if they can."""
    if not jnp.issubdtype(dtype, jnp.floating):
        complex_ = jnp.issubdtype(dtype, jnp.complexfloating)
        why = "for which there are no manifolds here" if complex_ else "which has no gradient"
        return f"dtype {dtype}, {why}"
    return f"dtype {dtype}, too coarse for manifolds" if jnp.finfo(dtype).bits < 16 else ""


def passed_over(path: str, shape: tuple[int, ...]) -> str:
    """Why a rule that also matches other leaves passes over this one; "" if it does not."""
    if len(shape) < 2:
        return Reason.FEW_AXES
    kind = kind_of(path, len(shape))
    axes = sum(size > 1 for size in shape)
    small = kind in ("bias", "normalization") and axes <= LARGEST_VECTOR
    return by_path(kind) if small else ""


def why_no_convolution(path: str, shape: tuple[int, ...], layout: str | None) -> str:
    """Why a leaf is not taken for a convolution cut into slices; "" if it is."""
    kind = kind_of(path, len(shape))
    if kind not in ("convolution", "normalization", ""):
        return by_path(kind)
    if layout is None and is_called_as_in_pytorch(path):
        return f"called {keys_of(path)[-1]!r}, and no layout is given"
    if layout is None and may_have_outputs_before_inputs(path):
        return Reason.TRANSPOSED
    if layout is None and len(shape) == 5:
        return "5 axes: give layout='SHWIO' or 'DHWIO'"
    letters = letters_for(layout or DEFAULT, len(shape))
    sizes = [shape[letters.index(letter)] for letter in spatial(letters)] if letters else []
    if letters is None or math.prod(sizes) == 1:
        return "no convolution by its shape"
    square = len(set(sizes)) == 1
    odd_square = square and len(sizes) == 2 and sizes[0] % 2 == 1
    if kind != "convolution" and not (odd_square and may_be_layer(path)):
        return "no convolution by its path"
    if layout is None and not square:
        return "not square, perhaps stacked: give layout='HWIO'"
    if contradiction(letters, shape, guessed=layout is None):
        return f"its shape speaks against {letters}"
    rows, columns, *lanes = cut("slice", letters).points_shape(shape)  # pyright: ignore
    if min(rows, columns) == 1:
        return "slices of one column"
    if math.prod(lanes) < len(BY_SHAPE.manifolds):
        return "too few slices for three manifolds"
    return ""
