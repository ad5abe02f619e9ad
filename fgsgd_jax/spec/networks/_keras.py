"""Kernels of Keras whose axes stand otherwise than those of its convolutions.

Depthwise kernels are (H, W, channels, multiplier), where Flax and PyTorch have one input for each
output, as in any grouped convolution. Transposed ones are (H, W, outputs, inputs).
"""

import re

from fgsgd_jax.spec._layouts import DEFAULT, letters_for, swapped_letters
from fgsgd_jax.spec.networks._names import keys_of, words_of

_WORDS = {"depthwise", "dw", "dwconv"}
_TRANSPOSED = re.compile(r"(.*_)?conv[123]d_transpose(_\d+)?")

SEVERAL_OUTPUTS = "depthwise, but of several inputs and outputs: name its axes in a rule"


def as_in_keras(path: str, shape: tuple[int, ...], layout: str | None) -> str | None:
    """The layout of a leaf: inputs and outputs swapped for such a kernel of Keras.

    Example:
        >>> as_in_keras("depthwise_conv2d/depthwise_kernel", (3, 3, 32, 1), None)
        'HWOI'
        >>> as_in_keras("conv2d_transpose_1/kernel", (3, 3, 32, 64), None)
        'HWOI'
        >>> as_in_keras("dw/kernel", (3, 3, 1, 32), "HWIO")
        'HWIO'
    """
    inputs, outputs = _channels(path, shape, layout)
    letters = letters_for(layout or DEFAULT, len(shape)) or ""
    *_, layer, name = ("", *keys_of(path))
    transposed = name == "kernel" and _TRANSPOSED.fullmatch(layer) and letters.endswith("IO")
    if (inputs > 1 and outputs == 1) or transposed:
        return swapped_letters(letters)
    return layout


def has_several_outputs(path: str, shape: tuple[int, ...], layout: str | None) -> bool:
    """Whether a depthwise kernel makes several outputs of each channel, as in Keras."""
    return min(_channels(path, shape, layout)) > 1


def _channels(path: str, shape: tuple[int, ...], layout: str | None) -> tuple[int, int]:
    """The inputs and outputs of a depthwise kernel by its layout; (0, 0) for all other leaves."""
    letters = letters_for(layout or DEFAULT, len(shape))
    named = any(_WORDS & set(words_of(key)) for key in keys_of(path)[-2:])
    if letters is None or len(shape) < 3 or not named:
        return 0, 0
    return shape[letters.index("I")], shape[letters.index("O")]
