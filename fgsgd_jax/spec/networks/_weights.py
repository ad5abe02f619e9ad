"""Weights of a preset: which one a leaf is, by its path and its number of axes."""

import math
from collections.abc import Mapping

from fgsgd_jax.spec._defaults import ROUTER, passed_over, without_geometry
from fgsgd_jax.spec._layouts import (
    DEFAULT,
    LARGEST_KERNEL,
    contradiction,
    letters_for,
    spatial,
    stacked,
)
from fgsgd_jax.spec._reasons import Reason, by_path
from fgsgd_jax.spec.networks._attention import (
    Shape,
    is_attention_output,
    is_in_attention,
    may_be_any_projection,
    queries_beside,
    seems_of_attention,
)
from fgsgd_jax.spec.networks._bare import (
    is_of_distribution,
    is_own_parameter,
    is_projection_alone,
    may_be_learned_queries,
)
from fgsgd_jax.spec.networks._biases import says_which_axis_counts_outputs
from fgsgd_jax.spec.networks._dense import is_dense
from fgsgd_jax.spec.networks._feed_forward import gates_before, is_of_feed_forward
from fgsgd_jax.spec.networks._fused import fused
from fgsgd_jax.spec.networks._keras import SEVERAL_OUTPUTS, has_several_outputs
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import (
    is_called_as_in_pytorch,
    is_transposed,
    keys_of,
    may_have_outputs_before_inputs,
)
from fgsgd_jax.spec.networks._outputs import is_called_last
from fgsgd_jax.spec.networks._placements import DENSE, OUTPUTS_FIRST
from fgsgd_jax.spec.networks._recurrent import holds_input_and_recurrent, is_input_matrix, recurrent
from fgsgd_jax.spec.networks._routers import routes_beside_experts
from fgsgd_jax.spec.networks._stack_axes import without_stack

GATES = 2  # of a gated layer (gates, in, out), whose first axis nothing else has so short


def weight_of(preset: str, path: str, leaf, layout: str | None, shapes: Mapping[str, Shape]) -> str:
    """The weight of the preset that a leaf is, or why it is none.

    Args:
        preset: The name of the preset.
        path: The path of the leaf.
        leaf: Anything with a shape and a dtype.
        layout: The layout of the leaf, or None.
        shapes: The shapes of all leaves without stacked layers.
    """
    shape, kind = shapes[path], kind_of(path, len(shapes[path]))
    if _is_low_rank(path, shapes):
        return Reason.LOW_RANK
    why = without_geometry(leaf.dtype) or passed_over(path, shape)
    if why or math.prod(shape) == 0:
        return why or Reason.EMPTY
    if routes_beside_experts(path, shapes):
        return ROUTER
    if is_of_distribution(path):
        return Reason.DISTRIBUTION
    if sum(size > 1 for size in shape) < 2:
        return Reason.ONE_LONG_AXIS
    if len(shape) == {"mlp": 2, "resnet": 4}.get(preset) and is_own_parameter(path, shapes):
        return Reason.OWN_PARAMETER
    if preset == "resnet" and layout is None and may_have_outputs_before_inputs(path):
        return Reason.TRANSPOSED
    if preset == "resnet" and _may_be_of_pytorch(path, layout, shapes):
        return Reason.TRANSPOSED_BESIDE_OTHERS
    of_one = layout.replace("S", "") if layout else None
    if preset == "resnet" and has_several_outputs(path, shape, of_one):
        return SEVERAL_OUTPUTS
    unnamed = preset == "resnet" and _is_unnamed_convolution(leaf, kind, path, layout)
    if preset == "resnet" and (kind == "convolution" or unnamed):
        return "convolution"
    if preset == "transformer" and (found := _of_a_transformer(path, shape, layout, shapes)):
        return found
    dense = kind in ("dense", "") or (kind == "query" and is_dense(path, shapes))
    if preset == "mlp" and dense and len(shape) == 2:
        return "hidden dense"
    if preset == "mlp" and kind in ("dense", "") and len(shape) == 3 and "S" not in (layout or ""):
        if not is_own_parameter(path, shapes):
            return _three_axes(layout)
    if preset == "rnn" and holds_input_and_recurrent(path):
        return "input and recurrent matrices in one weight"
    if preset == "rnn" and (found := recurrent(path, shape, shapes)):
        return found
    if preset == "rnn" and is_input_matrix(path, shapes):
        return Reason.INPUT_MATRIX
    known = kind and not (kind == "query" and is_dense(path, shapes))
    return by_path(kind) if known else f"not in the preset {preset!r}"


def _three_axes(layout: str | None) -> str:
    """Why a dense weight of three axes is none, with the layout that may hold."""
    stacks = stacked(letters_for(layout or DEFAULT, 2))
    return f"3 axes: give layout={stacks!r} if the first stacks layers, else name them in a rule"


def _may_be_of_pytorch(path: str, layout: str | None, shapes: Mapping[str, Shape]) -> bool:
    """Whether a transposed convolution may be (in, out, …) beside others that are (out, in, …)."""
    of_one = (layout or "").replace("S", "")
    certain = says_which_axis_counts_outputs(path, of_one, shapes)
    return of_one.startswith("O") and is_transposed(path) and not certain


def _is_low_rank(path: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a leaf is a factor of LoRA, by its name, or as an A or a B of one small rank."""
    if "lora" in path.lower():
        return True
    layer, slash, name = path.rpartition("/")
    a, b = (shapes.get(f"{layer}{slash}{factor}", ()) for factor in ("A", "B"))
    if name not in ("A", "B") or not len(a) == len(b) == 2:
        return False
    return a[1] == b[0] < min(a[0], b[1]) or b[1] == a[0] < min(b[0], a[1])


def _of_a_transformer(
    path: str, shape: Shape, layout: str | None, shapes: Mapping[str, Shape]
) -> str:
    """The weight of a transformer that a leaf is, or why it is none; "" if its path is silent."""
    kind = kind_of(path, len(shape))
    of_one = layout.replace("S", "") if layout else None
    if len(shape) > 3 and _maps_single_pixels(shape, of_one):
        return "a convolution of single pixels by its shape"
    if kind in ("query", "attention", "dense") and (found := fused(path, shape, layout, shapes)):
        return found
    if kind == "query" and may_be_learned_queries(path, shapes):
        return Reason.LEARNED_QUERIES
    if kind == "query" and not seems_of_attention(path, shapes):
        return Reason.NO_ATTENTION
    if kind == "query":
        einsum = "einsum" in path and len(shape) > 2
        return "query, key, value, heads first" if einsum else "query, key, value"
    if is_attention_output(path, shapes):
        return "attention output"
    if is_projection_alone(path, shapes):
        return Reason.BARE_PROJECTION
    if kind == "" and is_of_feed_forward(path, shapes):
        kind = "dense"
    if kind not in ("attention", "dense"):
        hidden = _may_be_hidden(path, of_one, shapes)
        if kind == "" and is_called_last(path) and (not hidden or len(keys_of(path)) < 3):
            return Reason.NAMED_OUTPUT
        return Reason.UNNAMED if kind == "" and hidden else ""
    if is_in_attention(path):
        alike = may_be_any_projection(path, shape)
        return "attention output" if alike else Reason.IN_ATTENTION
    if len(shape) == 3 and shape[0] != GATES and "gating" not in path:
        return Reason.GATES_OR_HEADS
    if len(shape) == 3 and not (letters_for(of_one or DEFAULT, 2) or "").startswith("O"):
        follows = gates_before(path, shapes)
        return {"inputs": DENSE, "outputs": OUTPUTS_FIRST}.get(follows, Reason.GATES_BEFORE)
    embeds = len(shape) > 3 and any("embed" in key for key in keys_of(path))
    return by_path("embedding") if embeds else "dense"


def _may_be_hidden(path: str, layout: str | None, shapes: Mapping[str, Shape]) -> bool:
    """Whether a matrix may be the weight of a hidden layer: another leaf is as long as its output.

    Embeddings aside, which are as long by chance, and parameters that have no layer.
    """
    letters = letters_for(layout or DEFAULT, 2)
    if letters is None or len(shapes[path]) != 2 or is_own_parameter(path, shapes):
        return False
    if layout is None and is_called_as_in_pytorch(path):
        return False  # which axis counts outputs?
    outputs = shapes[path][letters.index("O")]
    return any(
        outputs in its
        for other, its in shapes.items()
        if other != path and len(its) > 1 and kind_of(other) not in ("embedding", "token", "bias")
    )


def counts_heads_elsewhere(path: str, shapes: Mapping[str, Shape], layout: str | None) -> bool:
    """Whether another axis than in Flax seems to count heads, in a weight of attention of 3 axes.

    Nobody has more heads than features, as a query (heads, in, size) would read as (in, heads,
    size); and an output (heads, size, out) begins with as many heads as a query beside it has.
    Their sizes may differ, as values may be of another size than queries.
    """
    shape = shapes[path]
    if len(shape) != 3 or "einsum" in path:
        return False
    if (letters_for(layout or DEFAULT, 2) or "").startswith("O"):
        return True  # no framework whose outputs come first has (in, heads, size)
    if not is_attention_output(path, shapes):
        return shape[0] < shape[1]
    queries = [its for its in queries_beside(path, shapes) if len(its) == 3]
    return bool(queries) and all(its[1] != shape[0] for its in queries)


def _is_unnamed_convolution(leaf, kind: str, path: str, layout: str | None) -> bool:
    """Whether a residual network has a convolution here, such as a shortcut called `down`.

    Its four axes, without stacked ones, can be nothing else unless the path says so, or the shape
    speaks for another layout, or its kernel is neither square nor small.
    """
    shape = tuple(leaf.shape)
    letters = letters_for(layout or DEFAULT, len(shape))
    known = layout is not None or not is_called_as_in_pytorch(path)
    return (
        kind in ("dense", "")
        and len(without_stack(shape, layout)) in (4, len((layout or "").replace("S", "")))
        and len(shape) > 3
        and known
        and letters is not None
        and _is_kernel([shape[letters.index(letter)] for letter in spatial(letters)])
        and not contradiction(letters, shape, guessed=layout is None)
    )


def _maps_single_pixels(shape: Shape, layout: str | None) -> bool:
    """Whether a shape is that of a 1×1 convolution, which transformers of images begin with."""
    letters = letters_for(layout or DEFAULT, len(shape))
    return letters is not None and all(
        shape[letters.index(letter)] == 1 for letter in spatial(letters)
    )


def _is_kernel(sizes: list[int]) -> bool:
    return len(set(sizes)) == 1 or max(sizes) <= LARGEST_KERNEL
