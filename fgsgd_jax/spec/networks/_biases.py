"""What a bias says of the weight beside it: it has one entry for each output.

So has a normalization that is the next layer of a numbered list, as in a `Sequential` of PyTorch.
"""

from collections.abc import Mapping

from fgsgd_jax.spec._layouts import DEFAULT, letters_for, swapped_letters
from fgsgd_jax.spec.networks._blocks import layer_of
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import keys_of
from fgsgd_jax.spec.networks._stack_axes import Shape, of_one_layer

_NAMES = ("bias", "b")


def swapped_by_bias(path: str, layout: str | None, shapes: Mapping[str, Shape]) -> str | None:
    """The layout with inputs and outputs swapped, if the bias of a weight speaks for it; else None.

    It does if it has as many entries as the weight has inputs, and not as many as it has outputs.

    Args:
        path: The path of a convolution or a matrix.
        layout: Its layout, or None.
        shapes: The shapes of all leaves, stacked layers included.

    Example:
        >>> shapes = {"up/weight": (64, 32, 2, 2), "up/bias": (32,)}
        >>> swapped_by_bias("up/weight", "OIHW", shapes)
        'IOHW'
    """
    sizes, bias = _inputs_and_outputs(path, layout, shapes), _one_per_output(path, shapes)
    if sizes is None or bias is None:
        return None
    entries = [size for size in of_one_layer(bias, layout) if size > 1]
    inputs, outputs = sizes
    if len(entries) != 1 or entries[0] == outputs or entries[0] != inputs:
        return None
    letters = letters_for(layout or DEFAULT, len(shapes[path])) or ""
    swapped = swapped_letters(letters)
    if swapped in ("IO", "OI"):
        return "HWIO" if swapped == "IO" else "OIHW"
    return swapped


def says_which_axis_counts_outputs(
    path: str, layout: str | None, shapes: Mapping[str, Shape]
) -> bool:
    """Whether the bias of a convolution leaves no doubt which of its axes counts outputs.

    It has another size than its inputs, or as many axes as Equinox gives it, (outputs, 1, 1).
    """
    sizes, bias = _inputs_and_outputs(path, layout, shapes), _one_per_output(path, shapes)
    if sizes is None or bias is None:
        return False
    return sizes[0] != sizes[1] or len(of_one_layer(bias, layout)) > 1


def _inputs_and_outputs(
    path: str, layout: str | None, shapes: Mapping[str, Shape]
) -> tuple[int, int] | None:
    """The sizes of the axes I and O of a convolution or a matrix; None of all other weights."""
    shape = shapes[path]
    letters = letters_for(layout or DEFAULT, len(shape))
    axes = len(of_one_layer(shape, layout))
    if letters is None or not (axes in (2, 4, 5) or kind_of(path) == "convolution"):
        return None
    return shape[letters.index("I")], shape[letters.index("O")]


def what_counts_outputs(path: str, shapes: Mapping[str, Shape]) -> str:
    """In words, what has one entry for each output of a weight."""
    return "its bias" if _bias_beside(path, shapes) else "the normalization after it"


def _one_per_output(path: str, shapes: Mapping[str, Shape]) -> Shape | None:
    return _bias_beside(path, shapes) or _normalization_after(path, shapes)


def _bias_beside(path: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the bias in the layer of a weight, if the layer has one weight and one bias."""
    layer = layer_of(path)
    others = [other for other in shapes if other != path and layer_of(other) == layer]
    biases = [other for other in others if keys_of(other)[-1] in _NAMES]
    weights = [other for other in others if len(shapes[other]) > 1 and other not in biases]
    return shapes[biases[0]] if layer and len(biases) == 1 and not weights else None


def _normalization_after(path: str, shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of the vectors of the next layer in a list of numbers, if it holds nothing else.

    Only for convolutions: a matrix in such a list may be read in either order.
    """
    *before, number = layer_of(path) or ("",)
    if not number.isdigit() or len(shapes[path]) < 4:
        return None
    following = (*before, str(int(number) + 1))
    found = {shapes[other] for other in shapes if layer_of(other) == following}
    return found.pop() if len(found) == 1 and len(next(iter(found))) == 1 else None
