"""Text for people to read."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

_NUMBER = re.compile(r"(?<!\d)(0|[1-9]\d*)(?!\d)")  # "01" is text: as a number it would be 1


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """The sentence " Did you mean …?" with the name spelled most alike; empty if none is.

    >>> did_you_mean("po", ("PI", "PO")), did_you_mean("resnte", ("resnet", "rnn"))
    (" Did you mean 'PO'?", " Did you mean 'resnet'?")
    """
    in_lower_case = {name.lower(): name for name in names}
    word = given.lower() if isinstance(given, str) else ""
    near = difflib.get_close_matches(word, in_lower_case, 1)
    return f" Did you mean {in_lower_case[near[0]]!r}?" if near else ""


def counted(number: int, thing: str) -> str:
    """A number of things in words.

    >>> counted(1, "component"), counted(1200, "component")
    ('1 component', '1,200 components')
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"


def shown(value: object, most: int = 100) -> str:
    """A wrong value in a message: an array by its shape, anything else on one line, shortened.

    >>> import numpy as np
    >>> shown(np.ones((2, 3))), shown("0.1"), shown(list(range(9)), most=8)
    ('an array of shape (2, 3)', "'0.1'", '[0, 1, 2…')
    """
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and shape:
        return f"an array of shape {shape}"
    text = " ".join(repr(value).split())
    return text if len(text) <= most else text[:most] + "…"


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table, every column as wide as its widest cell.

    Args:
        rows: The cells, row by row.
        right: The indices of the columns that are aligned on the right; others are on the left.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def padded(column: int, cell: str) -> str:
        return cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])

    return ["  ".join(padded(*cell) for cell in enumerate(row)).rstrip() for row in rows]


def natural_order(text: str) -> list[tuple[int, str]]:
    """A key that sorts Block_2 before Block_10."""
    parts = enumerate(texts_and_numbers(text))
    return [(int(part), "") if index % 2 else (-1, part) for index, part in parts]


def texts_and_numbers(text: str) -> list[str]:
    """The texts and the numbers in a text in turn, from text to text."""
    return _NUMBER.split(text)
