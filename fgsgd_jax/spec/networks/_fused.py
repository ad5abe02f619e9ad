"""Queries, keys and values in one weight, such as `qkv`.

Such a weight holds two or three matrices side by side along its outputs. Each is a matrix of its
own, so the weight is cut into them where their sizes are certain, and stays Euclidean, with the
reason, where they are not.
"""

from collections.abc import Mapping

from fgsgd_jax.spec._layouts import DEFAULT, letters_for, stacked
from fgsgd_jax.spec.networks._attention import (
    PARTS,
    PLAIN,
    Shape,
    beside,
    is_attention_output,
    may_be_fused,
    parts_of,
)
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import is_called_as_in_pytorch, module_and_name, words_of
from fgsgd_jax.spec.networks._stack_axes import outputs_first, with_stack

THREE, TWO = "queries, keys, values in one", "keys, values in one"
"""What a weight is that holds three or two matrices."""

COMPRESSED = "compressed keys and values, perhaps beside others that are not: give a rule"
OUTPUTS_MAY_COME_FIRST = "its outputs may come first: give layout='OIHW' if they do, or 'HWIO'"

_COMPRESSED = {"a", "down", "latent", "compress", "compressed"}  # as `wkv_a` of latent attention
_BY_AXES = "give a rule that names its axes, or layout={!r} if its first axis stacks layers"


def fused(path: str, shape: Shape, layout: str | None, shapes: Mapping[str, Shape]) -> str:
    """Which matrices a weight holds side by side: `THREE`, `TWO`, or why it stays Euclidean.

    "" for all other weights, and where a stacked axis counts the matrices, as in Gemma's einsum.

    Args:
        path: The path of the weight.
        shape: Its shape without stacked layers.
        layout: Its layout, or None.
        shapes: The shapes of all leaves without stacked layers.

    Example:
        >>> (
        ...     fused("attn/qkv/kernel", (64, 192), None, {}),
        ...     fused("attn/q/kernel", (64, 64), None, {}),
        ... )
        ('queries, keys, values in one', '')
    """
    name = module_and_name(path)[1]
    words, known = set(words_of(name)), parts_of(path)
    spelled_out = {"key", "value"} <= words or {"k", "v"} <= words
    if not (known or spelled_out or may_be_fused(path)) or ("einsum" in path and len(shape) > 2):
        return ""
    of_one = layout.replace("S", "") if layout else None
    letters = letters_for(of_one or DEFAULT, len(shape)) or ""
    if len(shape) != 2:
        counted = known > 1 and shape[1:2] == (known,) and not letters.startswith("O")
        return (
            _named(known)
            if counted
            else f"{name} of {len(shape)} axes: {_BY_AXES.format(stacked(of_one))}"
        )
    inputs, outputs = (shape[letters.index(letter)] for letter in "IO")
    by_heads = _by_heads(outputs, letters.startswith("O"), layout)
    if words & _COMPRESSED:
        return COMPRESSED
    if spelled_out or words - set(PARTS) - PLAIN:
        return f"several matrices in one, their order unknown: {by_heads}"
    others = list(beside(path, shapes))
    has_query = any(kind_of(other) == "query" for other in others)
    parts = known or (2 if has_query else 3)  # GPT-2 calls keys and values c_attn beside q_attn
    read = {
        shapes[other][letters.index("I")]
        for other in others
        if len(shapes[other]) == 2 and is_attention_output(other, shapes)
    }
    if outputs == parts * inputs and read <= {inputs}:
        return _named(parts)
    swapped = parts == 3 and inputs == 3 * outputs
    if layout is None and (swapped or is_called_as_in_pytorch(path)):
        return OUTPUTS_MAY_COME_FIRST
    if read == {outputs / parts} or (known == 2 and outputs % 2 == 0):
        return _named(parts)
    if not known and outputs == inputs:
        return ""
    return f"several matrices in one, their sizes unknown: {by_heads}"


def _by_heads(outputs: int, outputs_come_first: bool, layout: str | None) -> str:
    """What to write for a weight of several matrices, with a number of heads that divides it."""
    heads = next((heads for heads in (6, 4, 8, 3, 2, 5, 7) if outputs % heads == 0), 0)
    if not heads or heads == outputs:
        return "give a rule that cuts it into its matrices"
    cut = f"in:rows (heads={heads}:stack out:columns)"
    cut = outputs_first(cut) if outputs_come_first else cut
    return (
        f"give a rule, such as component={with_stack(cut, layout)!r} if it has {heads} heads, of "
        "queries, keys and values together"
    )


def _named(parts: int) -> str:
    return THREE if parts == 3 else TWO
