"""Depthwise kernels, which keep their channels apart.

Flax and PyTorch give them one input for each output, as to any grouped convolution. Keras has
(H, W, channels, multiplier), whose third axis counts outputs as the fourth does.
"""

from fgsgd_jax.spec._layouts import DEFAULT, letters_for
from fgsgd_jax.spec.networks._names import keys_of, words_of

_WORDS = {"depthwise", "dw", "dwconv"}

SEVERAL_OUTPUTS = "depthwise, but of several inputs and outputs: name its axes in a rule"


def of_depthwise(path: str, shape: tuple[int, ...], layout: str | None) -> str | None:
    """The layout of a leaf: inputs and outputs swapped for a depthwise kernel of Keras.

    Example:
        >>> of_depthwise("depthwise_conv2d/depthwise_kernel", (3, 3, 32, 1), None)
        'HWOI'
        >>> of_depthwise("dw/kernel", (3, 3, 1, 32), "HWIO")
        'HWIO'
    """
    inputs, outputs = _channels(path, shape, layout)
    if inputs > 1 and outputs == 1:
        letters = letters_for(layout or DEFAULT, len(shape)) or ""
        return letters.translate(str.maketrans("IO", "OI"))
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
