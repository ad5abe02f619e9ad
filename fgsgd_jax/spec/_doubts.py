"""Sentences of presets on what neither names nor shapes decide, with the rule to write."""

from collections.abc import Collection, Mapping

from fgsgd_jax._trees import listed
from fgsgd_jax.spec._attention import Shape, outputs_first
from fgsgd_jax.spec._blocks import Block, normalized
from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec._reasons import UNSAID, Reason

_HEADS, _MATRIX = "in:rows heads:stack out:columns", "in:rows out:columns"


def on_unsaid(weights: Mapping[str, str], shapes: Mapping[str, Shape], layout: str | None) -> str:
    """A sentence on weights of which nothing says what they are, with a rule for one of them.

    Args:
        weights: By path, the weight of the preset that a leaf is, or why it is none.
        shapes: By path, the shapes without stacked layers.
        layout: The layout of one layer, or None.

    Returns:
        The sentence; "" if there are no such weights, or all have more than three axes.
    """
    unsaid = [path for path in weights if weights[path] in UNSAID and len(shapes[path]) < 4]
    if not unsaid:
        return ""
    one = len(unsaid) == 1
    stays, it_is, it = ("stays", "it is", "it") if one else ("stay", "they are", "one")
    cut = _example(weights[unsaid[0]], shapes[unsaid[0]], layout)
    return (
        f"{listed(unsaid, 3)} {stays} Euclidean, because neither name nor shape says for certain "
        f"what {it_is}. To place {it}, name its axes in a rule, such as ({unsaid[0]!r}, "
        f"fg.pom('layer', fg.Stiefel(), component={cut!r}))."
    )


def _example(why: str, shape: Shape, layout: str | None) -> str:
    """A cut of a weight, as text."""
    if len(shape) == 3:
        first = why == Reason.GATES_OR_HEADS and shape[0] < min(shape[1:])
        return "heads:stack in:rows out:columns" if first else _HEADS
    if why == Reason.GATES:
        cut = f"in:rows (gates={max(shape) // min(shape)}:stack out:columns)"
        return cut if shape[0] < shape[1] else outputs_first(cut)
    first = (letters_for(layout or DEFAULT, 2) or "").startswith("O")
    return outputs_first(_MATRIX) if first else _MATRIX


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
