"""Text for people to read."""

from collections.abc import Collection, Sequence


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
