"""Stacked axes of a weight: shapes without those that its layout stacks, and cuts with them."""

import re

Shape = tuple[int, ...]


def of_one_layer(shape: Shape, layout: str | None) -> Shape:
    """A shape without the axes that the layout stacks first or last, if it does."""
    return without_stack(shape, layout) if re.fullmatch(r"S*[^S]+S*", layout or "") else shape


def without_stack(shape: Shape, layout: str | None) -> Shape:
    """A shape without the axes that the layout stacks."""
    match = re.fullmatch(r"(S*)[^S]*(S*)", layout or "")
    if match is None:
        raise ValueError(
            f"A preset takes stacked layers on the first or the last axes, but the layout is "
            f"{layout!r}; give rules in place of the preset."
        )
    return shape[len(match[1]) : len(shape) - len(match[2])]


def with_stack(cut: str, layout: str | None) -> str:
    """Axes as text, with those that the layout stacks before and behind them."""
    first, last = re.fullmatch(r"(S*)[^S]*(S*)", layout or "").groups()  # pyright: ignore
    return " ".join(["stack"] * len(first) + [cut] + ["stack"] * len(last))


def stack_sizes(shape: Shape, layout: str) -> tuple[Shape, Shape]:
    """The sizes of the axes that a layout stacks, before and behind the others."""
    first = len(layout) - len(layout.lstrip("S"))
    last = len(layout) - len(layout.rstrip("S"))
    return shape[:first], shape[len(shape) - last :]


def outputs_first(cut: str) -> str:
    """The cut of a weight whose outputs come before its inputs, from that of the usual order.

    Example:
        >>> outputs_first("in:rows (qkv=3:stack out:columns)")
        '(qkv=3:stack out:columns) in:rows'
    """
    before, _, outputs = cut.partition("in:rows ")
    return f"{before}{outputs} in:rows"
