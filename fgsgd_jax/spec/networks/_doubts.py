"""Sentences of presets on what neither names nor shapes decide, with the rule to write."""

from collections.abc import Collection, Mapping

from fgsgd_jax._trees import listed
from fgsgd_jax.spec._layouts import letters_for, swapped_letters
from fgsgd_jax.spec._reasons import AXES_UNSAID, UNSAID, Reason
from fgsgd_jax.spec.networks._attention import Shape
from fgsgd_jax.spec.networks._blocks import Block, normalized
from fgsgd_jax.spec.networks._readings import (
    Reading,
    as_rules,
    readings,
    readings_of_gates,
    readings_of_matrices,
)
from fgsgd_jax.spec.networks._recurrent import cut_by_gates
from fgsgd_jax.spec.networks._stack_axes import with_stack, without_stack
from fgsgd_jax.spec.networks._stacked import Layouts


def on_unsaid(weights: Mapping[str, str], shapes: Mapping[str, Shape], layouts: Layouts) -> str:
    """A sentence on weights of which nothing says what they are, with a rule for one of them.

    Args:
        weights: By path, the weight of the preset that a leaf is, or why it is none.
        shapes: By path, the shapes, stacked layers included.
        layouts: The layout of every leaf.

    Returns:
        The sentence; "" if there are no such weights, or all have more than three axes in a layer.
    """
    own = layouts.own
    unsaid = [
        path
        for path in weights
        if weights[path] in UNSAID and len(without_stack(shapes[path], own[path])) < 4
    ]
    if not unsaid:
        return ""
    one = len(unsaid) == 1
    stays, it_is, it = ("stays", "it is", "it") if one else ("stay", "they are", repr(unsaid[0]))
    how = _how_to_place(unsaid[0], weights[unsaid[0]], shapes, layouts)
    return (
        f"{listed(unsaid, 3)} {stays} Euclidean, because neither name nor shape says for certain "
        f"what {it_is}. To place {it}, {how}."
    )


def on_circular(
    weights: Mapping[str, str],
    shapes: Mapping[str, Shape],
    layouts: Layouts,
    kept: Collection[str],
) -> str:
    """A sentence on the ends of modules that can read each other; "" if there are none.

    Args:
        weights: By path, the weight of the preset that a leaf is, or why it is none.
        shapes: By path, the shapes, stacked layers included.
        layouts: The layout of every leaf.
        kept: The paths of the weights whose features a normalization layer keeps.
    """
    ends = [path for path in weights if weights[path] == Reason.CIRCULAR]
    if not ends:
        return ""
    end, shape = ends[-1], shapes[ends[-1]]
    found = readings(end, shape, shapes, layouts.own[end])
    stays = "stays Euclidean, because it ends" if len(ends) == 1 else "stay Euclidean, as each ends"
    return (
        f"{listed(ends, 3)} {stays} one of two modules that can read each other, as those of an "
        f"autoencoder, and may give the output of the network. If {end!r} does not, place it by a "
        f"rule, such as {as_rules(end, shape, found, layouts.rules, normalized=end in kept)}."
    )


def _how_to_place(path: str, why: str, shapes: Mapping[str, Shape], layouts: Layouts) -> str:
    """What to write for a weight, for the end of a sentence."""
    layout = layouts.own[path]
    found = readings(path, shapes[path], shapes, layout)
    inner = without_stack(shapes[path], layout)
    if why == Reason.GATES and len(inner) == 2:
        found = [Reading("", with_stack(cut_by_gates(inner), layout))]
    if why == Reason.BARE_PROJECTION:
        found = readings_of_matrices(layout)
    if why == Reason.GATES_BEFORE:
        found = readings_of_gates(layout)
    if not found:
        return "name its axes in a rule"
    return f"name its axes in a rule, such as {as_rules(path, shapes[path], found, layouts.rules)}"


def on_transposed(
    weights: Mapping[str, str],
    shapes: Mapping[str, Shape],
    layouts: Layouts,
    kept: Collection[str],
) -> str:
    """A sentence on transposed convolutions whose layout nothing says, with a rule for one of them.

    Args:
        weights: By path, the weight of the preset that a leaf is, or why it is none.
        shapes: By path, the shapes, stacked layers included.
        layouts: The layout of every leaf.
        kept: The paths of the weights whose features a normalization layer keeps.
    """
    doubtful = [path for path in weights if weights[path] in AXES_UNSAID]
    if not doubtful:
        return ""
    path = doubtful[0]
    letters = letters_for(AXES_UNSAID[Reason(weights[path])], len(shapes[path]))
    if letters is None:
        return ""
    written = layouts.rules.pom_of_convolution(letters, normalized=path in kept)
    usual = swapped_letters(letters)
    stay = "stays" if len(doubtful) == 1 else "stay"
    return (
        f"{listed(doubtful, 3)} {stay} Euclidean, because nothing says whether outputs or inputs "
        f"come first in a transposed convolution. Place one by a rule, such as ({path!r}, "
        f"{written}), or with layout={usual!r} if its axes are those of other convolutions."
    )


def on_normalizations(
    doubtful: Mapping[Block, str],
    leaves: Collection[tuple[str, Shape]],
    weights: Collection[str],
    kept: Collection[str],
) -> str:
    """A sentence on layers that may be normalizations, if the scale of any weight depends on them.

    Args:
        doubtful: Such layers, and the paths of their scales.
        leaves: Path, and shape without stacked layers, of all leaves.
        weights: The paths of the weights whose scale depends on normalization.
        kept: Those of them that count as normalized.
    """
    if normalized(leaves, weights, also=doubtful) == frozenset(kept):
        return ""
    return (
        f"{listed(doubtful.values(), 3)} may belong to a normalization, or to an activation such "
        "as PReLU: it has no bias, and no name says what it is. It is taken for no normalization, "
        "so the weights beside it keep the variance of features. If it is one, scale=1.0 gives "
        "them unit scale."
    )
