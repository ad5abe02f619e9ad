"""Layouts: what the axes of a weight are, one letter for each, and the cuts that follow.

    O, I        output and input channels
    H, W, D     height, width, depth, and any other capital letter: spatial axes
    S           stacked layers: scanned layers, experts, heads

"HWIO" is the layout of Flax and Haiku, "OIHW" that of Equinox and PyTorch. The layout of a
convolution says how its framework lays out weights with fewer and more spatial axes: "HWIO" gives
IO, WIO and DHWIO, "OIHW" gives OI, OIW and OIDHW. Four cuts have names:

    "slice"     the spatial axes per input and output channel: W × 1, H × W, D·H × W
    "filter"    spatial axes and inputs, a vector per output channel
    "matrix"    spatial axes and inputs × outputs, the whole kernel
    "row"       the last of two axes per entry of the first: the vectors of an embedding

The axes named S are stacked in every cut.
"""

from typing import Literal, get_args

from fgsgd_jax._text import did_you_mean
from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._spelling import is_spelled, spelled
from fgsgd_jax.spec.networks._kinds import keys_of, kind_of, may_have_outputs_before_inputs

ComponentName = Literal["slice", "filter", "matrix", "row"]
NAMES: tuple[ComponentName, ...] = get_args(ComponentName)
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


def stacked(layout: str | None) -> str:
    """The layout of stacked layers for that of one, to write in a message."""
    return f"S{layout or 'IO'}"


def cut(name: ComponentName, letters: str) -> Component | None:
    """The component of a named cut; None where a weight has no such cut."""

    def axes(of: str) -> tuple[int, ...]:
        return tuple(letters.index(letter) for letter in of)

    stack = tuple(axis for axis, letter in enumerate(letters) if letter == "S")
    inside = spatial(letters)
    if name == "slice" and inside:
        rows, columns = (inside[:-1], inside[-1]) if len(inside) > 1 else (inside, "")
        return Component(axes(rows), axes(columns), axes("I"), axes("O"), stack, name=name)
    if name == "filter":
        return Component(rows=axes(inside + "I"), outputs=axes("O"), stack=stack, name=name)
    if name == "matrix":
        return Component(rows=axes(inside + "I"), columns=axes("O"), stack=stack, name=name)
    if name == "row" and not inside:
        first, last = sorted(axes("IO"))  # embeddings are (entries, features) in every framework
        return Component(rows=last, outputs=first, stack=stack, name=name)
    return None


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


def _as_text(letters: str) -> str:
    """The axes of the slices of a layout as text, such as "H:rows W:columns I:inputs O:outputs"."""
    roles = {"I": "inputs", "O": "outputs", "S": "stack", spatial(letters)[-1]: "columns"}
    return " ".join(f"{letter}:{roles.get(letter, 'rows')}" for letter in letters)


def _is_kernel_size(sizes: list[int]) -> bool:
    size = sizes[0]
    return len(set(sizes)) == 1 and (size in (2, 4) or (size % 2 == 1 < size <= LARGEST_KERNEL))


def check_component_name(component: object) -> Component | ComponentName | None:
    """A component as `pom` takes it: a `Component`, one of the names, or None; text is read.

    Raises:
        ValueError: If it is none of them.
    """
    if component is None or isinstance(component, Component) or component in NAMES:
        return component  # pyright: ignore[reportReturnType]
    if isinstance(component, str) and is_spelled(component):
        return spelled(component)
    raise ValueError(
        f"`component` must be one of {', '.join(map(repr, NAMES))}, axes such as "
        "'in:rows heads:stack out:columns', or a Component(rows=…, columns=…, …) that names every "
        f"axis; got {component!r}." + did_you_mean(component, NAMES)
    )


def resolve_component(
    component: Component | ComponentName | None,
    shape: tuple[int, ...],
    *,
    prefer_matrix: bool,
    layout: str | None = None,
    path: str = "",
) -> Component:
    """The `Component` for a weight of this shape.

    Args:
        component: A `Component`, a name, or None for the default of the shape: "slice" for
            kernels larger than 1×1, and "matrix" or "filter" for all others.
        shape: The shape of the weight.
        prefer_matrix: Whether the default for those others is "matrix", as manifolds that
            constrain columns need it, rather than "filter".
        layout: The layout given; None for HWIO where path and shape leave no doubt.
        path: The path of the weight.

    Raises:
        ValueError: If a weight of this shape cannot be cut as asked. The message lacks its subject,
            the path of the weight, for the caller to add.
    """
    if isinstance(component, Component):
        if component.weight_axes != len(shape):
            raise ValueError(
                f"has {len(shape)} axes, but its component, {component}, names "
                f"{component.weight_axes}; name every axis of the shape {shape} once"
            )
        component.split_shape(shape)
        return component
    if len(shape) < 2:
        raise ValueError(
            f"has shape {shape}, but only an array with input and output channels can be cut "
            "into components, so leave it Euclidean (None)"
        )
    if component == "row" and layout is None and len(shape) == 2:
        layout = "IO"
    own = "/".join(keys_of(path)[-2:])  # not a layer inside of an embedding
    if len(shape) == 2 and component in (None, "filter") and kind_of(own) == "embedding":
        raise ValueError(
            f"has shape {shape} and is an embedding by its path, so the vectors to constrain are "
            "its rows: write component='row'. For its columns, vectors over the whole vocabulary, "
            "write component='inputs:rows outputs'"
        )
    letters = _letters(shape, layout, path)
    against = contradiction(letters, shape, guessed=layout is None)
    if against is not None:
        inside = "×".join(str(shape[letters.index(letter)]) for letter in spatial(letters))
        certain = contradiction(letters, shape) is not None
        raise ValueError(
            f"has shape {shape}, which as {letters!r} is a kernel of {inside}, larger than its "
            "channels. If it is no convolution, leave it Euclidean by a rule (None); if it is "
            f"{against!r}, as in "
            f"{'Equinox and PyTorch' if against[-1] != 'O' else 'Flax and Haiku'}, write "
            f"layout={against!r}; if it is {letters!r}, "
            + (
                f"name its axes: component={_as_text(letters)!r}"
                if certain
                else f"write layout={letters!r}"
            )
        )
    if component is None:
        sizes = [shape[letters.index(letter)] for letter in spatial(letters)]
        kernel = any(size > 1 for size in sizes)
        component = "slice" if kernel else "matrix" if prefer_matrix else "filter"
    found = cut(component, letters)
    if found is None:
        raise ValueError(
            f"has {len(shape)} axes, {letters}, but {component!r} is defined for "
            f"{'weights with spatial axes' if component == 'slice' else 'two axes and a stack'}; "
            "choose another component"
        )
    return found


def _letters(shape: tuple[int, ...], layout: str | None, path: str) -> str:
    """The letters of a weight, or an error that says how to give them."""
    axes = len(shape)
    if layout is not None:
        letters = letters_for(layout, axes)
        if letters is None:
            raise ValueError(
                f"has shape {shape}, and the layout {layout!r} does not say how {axes} axes are "
                "laid out; give a layout with one letter for each of them"
            )
        return letters
    if keys_of(path)[-1] == "weight":
        raise ValueError(
            f"has shape {shape} and is called 'weight', as in Equinox and PyTorch, where outputs "
            "come first; write layout='OIHW' if they do (it covers dense weights), or "
            "layout='HWIO' if they come last"
        )
    if may_have_outputs_before_inputs(path):
        raise ValueError(
            f"has shape {shape} and is a transposed convolution called 'w', as in Haiku, where "
            "outputs come before inputs; write layout='HWOI' in its pom if they do, or 'HWIO' if "
            "they come last"
        )
    if axes in (2, 4) or (axes == 3 and kind_of(path) == "convolution"):
        return letters_for(DEFAULT, axes)  # pyright: ignore[reportReturnType]
    known = {
        3: "Give layout='WIO' for a 1-D convolution, 'SIO' for stacked matrices. ",
        5: "Give layout='DHWIO' for a 3-D convolution, 'SHWIO' for stacked 2-D ones. ",
    }
    raise ValueError(
        f"has {axes} axes, {shape}, and nothing says what they are. {known.get(axes, '')}Name them "
        "for anything else: Component(rows=…, columns=…, stack=…), or as text with one word for "
        "each axis in order, such as 'in:rows heads:stack out:columns' for (features, heads, size)"
    )
