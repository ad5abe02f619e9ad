"""Weights of a preset: which one a leaf is, by its path and its number of axes."""

import math
import re
from collections.abc import Mapping

from fgsgd_jax.spec._attention import Shape, fused, is_attention_output
from fgsgd_jax.spec._defaults import passed_over, without_geometry
from fgsgd_jax.spec._kinds import keys_of, kind_of, may_have_outputs_before_inputs
from fgsgd_jax.spec._layouts import DEFAULT, contradiction, letters_for
from fgsgd_jax.spec._reasons import Reason
from fgsgd_jax.spec._stacked import without_stack

GATES = 2  # of a gated layer (gates, in, out), whose first axis nothing else has so short

# The last keys of the recurrent matrices of Flax (linen and NNX), Haiku and Equinox.
_RECURRENT = re.compile(
    r"(^|.*/)(h[ifgorzn]?|dense_h|weight_hh|w_h|hidden_to_hidden|vanilla_rnn\w*/linear_1)(/[^/]*)?"
)
# Haiku's LSTM has one weight for its input and its last output, stacked on the first axis.
_INPUT_AND_RECURRENT = re.compile(r"(^|.*/)lstm\w*/linear/w")


def weight_of(preset: str, path: str, leaf, layout: str | None, shapes: Mapping[str, Shape]) -> str:
    """The weight of the preset that a leaf is, or why it is none.

    Args:
        preset: The name of the preset.
        path: The path of the leaf.
        leaf: Anything with a shape and a dtype.
        layout: The layout of the leaf, or None.
        shapes: The shapes of all leaves without stacked layers.
    """
    shape, kind = shapes[path], kind_of(path)
    why = without_geometry(leaf.dtype) or passed_over(path, shape)
    if why or math.prod(shape) == 0:
        return why or Reason.EMPTY
    if "lora" in path.lower():
        return Reason.LOW_RANK
    if sum(size > 1 for size in shape) < 2:
        return Reason.ONE_LONG_AXIS
    if preset == "resnet" and layout is None and may_have_outputs_before_inputs(path):
        return Reason.TRANSPOSED
    unnamed = preset == "resnet" and _is_unnamed_convolution(leaf, kind, path, layout)
    if preset == "resnet" and (kind == "convolution" or unnamed):
        return "convolution"
    if preset == "transformer" and (found := _of_a_transformer(path, shape, layout, shapes)):
        return found
    if preset == "mlp" and kind in ("dense", "") and len(shape) == 2:
        return "hidden dense"
    if preset == "rnn" and holds_input_and_recurrent(path):
        return "input and recurrent matrices in one weight"
    if preset == "rnn" and _RECURRENT.fullmatch("/".join(keys_of(path))):
        small, large = sorted(shape[-2:])
        return "recurrent matrix" if large % small == 0 and large // small <= 4 else "not square"
    name = "attention" if kind == "query" else kind
    return f"{name} by its path" if name else f"not in the preset {preset!r}"


def holds_input_and_recurrent(path: str) -> bool:
    """Whether a weight is that of Haiku's LSTM, which holds two matrices."""
    return _INPUT_AND_RECURRENT.fullmatch(path) is not None


def _of_a_transformer(
    path: str, shape: Shape, layout: str | None, shapes: Mapping[str, Shape]
) -> str:
    """The weight of a transformer that a leaf is, or why it is none; "" if its path is silent."""
    kind = kind_of(path)
    of_one = layout.replace("S", "") if layout else None
    if kind in ("query", "attention", "dense") and (found := fused(path, shape, of_one, shapes)):
        return found
    if kind == "query":
        einsum = "einsum" in path and len(shape) > 2
        return "query, key, value, heads first" if einsum else "query, key, value"
    if is_attention_output(path, shapes):
        return "attention output"
    if kind not in ("attention", "dense"):
        return ""
    if len(shape) == 3 and shape[0] != GATES and "gating" not in path:
        return Reason.GATES_OR_HEADS
    embeds = len(shape) > 3 and any("embed" in key for key in keys_of(path))
    return "embedding by its path" if embeds else "dense"


def _is_unnamed_convolution(leaf, kind: str, path: str, layout: str | None) -> bool:
    """Whether a residual network has a convolution here, such as a shortcut called `down`.

    Its four axes, without stacked ones, can be nothing else unless the path says so, or the shape
    speaks for another layout.
    """
    shape = tuple(leaf.shape)
    letters = letters_for(layout or DEFAULT, len(shape))
    known = layout is not None or keys_of(path)[-1] != "weight"
    return (
        kind in ("dense", "")
        and len(without_stack(shape, layout)) == 4
        and known
        and letters is not None
        and not contradiction(letters, shape, guessed=layout is None)
    )
