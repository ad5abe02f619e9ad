"""Cuts that have a name, for a weight whose axes a layout names, and the choice among them.

    "slice"     the spatial axes per input and output channel: W × 1, H × W, D·H × W
    "filter"    spatial axes and inputs, a vector per output channel
    "matrix"    spatial axes and inputs × outputs, the whole kernel
    "row"       the last of two axes per entry of the first: the vectors of an embedding

The axes named S are stacked in every cut.
"""

from typing import Literal, get_args

from fgsgd_jax._text import did_you_mean
from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._layouts import DEFAULT, contradiction, letters_for, spatial
from fgsgd_jax.spec._spelling import is_spelled, spelled
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import (
    is_called_as_in_pytorch,
    keys_of,
    may_have_outputs_before_inputs,
)

ComponentName = Literal["slice", "filter", "matrix", "row"]
NAMES: tuple[ComponentName, ...] = get_args(ComponentName)


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
    if is_called_as_in_pytorch(path):
        raise ValueError(
            f"has shape {shape} and is called {keys_of(path)[-1]!r}, as in Equinox and PyTorch, "
            "where outputs come first; write layout='OIHW' if they do (it covers dense weights) or "
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


def _as_text(letters: str) -> str:
    """The axes of the slices of a layout as text, such as "H:rows W:columns I:inputs O:outputs"."""
    roles = {"I": "inputs", "O": "outputs", "S": "stack", spatial(letters)[-1]: "columns"}
    return " ".join(f"{letter}:{roles.get(letter, 'rows')}" for letter in letters)
