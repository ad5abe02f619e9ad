"""Layouts: what the axes of a weight are, one letter for each, and what a shape says of them.

    O, I        output and input channels
    H, W, D     height, width, depth, and any other capital letter: spatial axes
    S           stacked layers: scanned layers, experts, heads

"HWIO" is the layout of Flax and Haiku, "OIHW" that of Equinox and PyTorch. The layout of a
convolution says how its framework lays out weights with fewer and more spatial axes: "HWIO" gives
IO, WIO and DHWIO, "OIHW" gives OI, OIW and OIDHW.
"""

from fgsgd_jax._text import did_you_mean

DEFAULT = "HWIO"
LARGEST_KERNEL = 11
_SPATIAL_ORDER = "DHW"  # other letters come before these


def check_layout(layout: object) -> None:
    """Raises unless `layout` is None or a text of capital letters with one I and one O."""
    if layout is None:
        return
    valid = isinstance(layout, str) and layout.isascii() and layout.isalpha() and layout.isupper()
    unique = str(layout).replace("S", "")
    if not valid or "I" not in unique or "O" not in unique or len(set(unique)) < len(unique):
        raise ValueError(
            "`layout` has one capital letter for each axis: O and I for output and input channels, "
            "H, W and others for spatial axes, S for stacked layers, such as 'HWIO', 'OIHW' or "
            f"'SIO'; got {layout!r}." + did_you_mean(layout, ("HWIO", "OIHW", "SHWIO", "SOIHW"))
        )


def spatial(letters: str) -> str:
    """The spatial letters of a layout, in the order in which they are flattened."""
    return "".join(sorted(set(letters) - set("OIS"), key=lambda x: (_SPATIAL_ORDER.find(x), x)))


def letters_for(layout: str, axes: int) -> str | None:
    """The letters of a weight with this number of axes; None if the layout does not say.

    Example:
        >>> letters_for("OIHW", 2), letters_for("OIHW", 5), letters_for("OIHW", 1)
        ('OI', 'OIDHW', None)
    """
    while len(layout) > axes and spatial(layout):
        layout = layout.replace(spatial(layout)[0], "")
    while len(layout) < axes and 1 <= len(spatial(layout)) < 3:
        first = spatial(layout)[0]
        before = _SPATIAL_ORDER[_SPATIAL_ORDER.find(first) - 1] if first in "HW" else "A"
        if before in layout:
            return None
        layout = layout.replace(first, before + first)
    return layout if len(layout) == axes else None


def swapped_letters(letters: str) -> str:
    """The letters with inputs and outputs in each other's place."""
    return letters.translate(str.maketrans("IO", "OI"))


def stacked(layout: str | None) -> str:
    """The layout of stacked layers for that of one, to write in a message."""
    return f"S{layout or 'IO'}"


def contradiction(letters: str, shape: tuple[int, ...], *, guessed: bool = False) -> str | None:
    """The layout that a shape speaks for, if it speaks against its own; else None.

    Spatial sizes of 32×16 before 3×3 channels are channels before a 3×3 kernel. Shapes of two axes
    say nothing. Against a layout that was guessed, because none was given, less is enough: 9×9
    before 3×3 may be a large kernel between three channels, but more often is a small one.
    """
    stack = "S" * letters.count("S")
    own, sizes = (
        letters.replace("S", ""),
        [size for letter, size in zip(letters, shape, strict=True) if letter != "S"],
    )
    inside = spatial(own)
    if len(inside) < (1 if guessed else 2):
        return None
    for other in (inside + "IO", "OI" + inside):

        def sizes_of(of: str, layout: str) -> list[int]:
            return [sizes[layout.index(letter)] for letter in of]

        mine, theirs = sizes_of(inside, own), sizes_of(inside, other)
        # Kernels of 2×2 and 4×4 prove less than odd ones: they may be two channels or four.
        odd = theirs[0] % 2 == 1
        larger = max(mine) > (max(theirs) if odd or guessed else LARGEST_KERNEL)
        doubtful = guessed and len(inside) > 1 and (odd or mine[0] % 2 == 0)
        if _is_kernel_size(theirs) and larger and (doubtful or not _is_kernel_size(mine)):
            return stack + other
    if guessed and len(inside) > 1 and _seem_to_be_channels(sizes, own, inside):
        return f"{stack}OI{inside}"
    return None


def _seem_to_be_channels(sizes: list[int], layout: str, inside: str) -> bool:
    """Whether spatial sizes are larger than those of kernels, and than both channels.

    32×4 before 8×8 channels are channels before an 8×8 kernel. A kernel of 1×64 before 1×8 channels
    may be one over time: neither of the two pairs is square.
    """
    spatial_sizes = [sizes[layout.index(letter)] for letter in inside]
    channels = [sizes[layout.index(letter)] for letter in "IO"]
    square = any(len(set(pair)) == 1 for pair in (spatial_sizes, channels))
    return square and max(spatial_sizes) > max(LARGEST_KERNEL, *channels)


def _is_kernel_size(sizes: list[int]) -> bool:
    size = sizes[0]
    return len(set(sizes)) == 1 and (size in (2, 4) or (size % 2 == 1 < size <= LARGEST_KERNEL))
