"""A spec for people to read: a summary line, and a table in which repeated blocks are folded."""

import dataclasses
import html
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fgsgd_jax._text import aligned, counted, natural_order, texts_and_numbers
from fgsgd_jax.spec._growth import growth_sentence, strides_sentence
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._scales import Gamma, Numbers

HEADER = ("path", "shape", "component", "manifolds", "groups", "scale")


class Leaf(NamedTuple):
    """What the table says of a leaf; the leaf spec is None, with a reason, if it is Euclidean."""

    path: str
    shape: tuple[int, ...]
    leaf_spec: LeafSpec | None
    reason: str


def table_text(leaves: Sequence[Leaf], full: bool, sentence: str) -> str:
    """The summary and the table, one row per leaf if `full`, and what may be wrong."""
    table = aligned(_cells(leaves, full))
    return "\n".join([summary(leaves), *table, *_warnings(leaves, sentence)])


def table_html(leaves: Sequence[Leaf], sentence: str) -> str:
    """The summary and the folded table as HTML."""

    def row(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    header, *rows = _cells(leaves, full=False)
    body = "".join(row("td", cells) for cells in rows)
    before, *after = (
        f"<p>{html.escape(line)}</p>" for line in [summary(leaves), *_warnings(leaves, sentence)]
    )
    return f"{before}<table>{row('th', header)}{body}</table>{''.join(after)}"


def summary(leaves: Sequence[Leaf]) -> str:
    """How many leaves, weights and components are on manifolds, and on which, in one line."""
    placed = [leaf for leaf in leaves if leaf.leaf_spec]
    line = f"{len(placed)} of {len(leaves)} leaves on manifolds"
    if not placed:
        return line
    share = 100 * sum(map(_size, placed)) / sum(map(_size, leaves))
    counts: Counter[str] = Counter()
    for leaf in placed:
        for name, count in _counts(leaf.leaf_spec):
            counts[name.partition("(")[0]] += count
    by_manifold = " · ".join(f"{name} {count:,}" for name, count in counts.items())
    number = counted(counts.total(), "component")
    return f"{line}, {share:.0f} % of the weights, {number}: {by_manifold}"


def _warnings(leaves: Sequence[Leaf], sentence: str) -> list[str]:
    """The sentence given, and those on features that grow or vanish, if there are such."""
    growth = growth_sentence([(leaf.path, leaf.shape, leaf.leaf_spec) for leaf in leaves])
    strides = strides_sentence([(leaf.path, leaf.leaf_spec) for leaf in leaves])
    return [line for line in (sentence, growth, strides) if line]


def _size(leaf: Leaf) -> int:
    return math.prod(leaf.shape)


def _counts(leaf_spec: LeafSpec | None) -> list[tuple[str, int]]:
    """Pairs (manifold, number of components on it); none for a Euclidean leaf."""
    if leaf_spec is None:
        return []
    names = (str(manifold).removesuffix("()") for manifold in leaf_spec.manifolds)
    return list(zip(names, leaf_spec.counts(), strict=True))


# --- rows ------------------------------------------------------------------------------------


def _cells(leaves: Sequence[Leaf], full: bool) -> list[tuple[str, ...]]:
    """The header and the rows of the table."""
    in_order = sorted(leaves, key=lambda leaf: natural_order(leaf.path))
    rows = [(leaf.path, [leaf]) for leaf in in_order] if full else _folded(in_order)
    cells = [HEADER, *(_row(path, members) for path, members in rows)]
    scaled = any(leaf.leaf_spec and leaf.leaf_spec.gamma is not None for leaf in leaves)
    return cells if scaled else [row[:-1] for row in cells]


def _row(path: str, members: Sequence[Leaf]) -> tuple[str, ...]:
    """The row of leaves that differ in their numbers and γ only, or of Euclidean leaves."""
    leaf_spec, reason = members[0].leaf_spec, members[0].reason
    shape = _shape_text([member.shape for member in members])
    if leaf_spec is None:
        return (path, shape, "", f"Euclidean ({reason})" if reason else "Euclidean", "", "")
    rows, columns = leaf_spec.points_shape[:2]
    manifolds = ", ".join(f"{name}: {count}" for name, count in _counts(leaf_spec))
    groups = f"{leaf_spec.scheme}: {leaf_spec.groups}"
    if leaf_spec.stacked > 1:
        groups += f" in each of {leaf_spec.stacked} stacked layers"
    gammas = [member.leaf_spec.gamma for member in members if member.leaf_spec]
    component = f"{leaf_spec.component} {rows}×{columns}"
    return (path, shape, component, manifolds, groups, _gamma_text(gammas))


def _shape_text(shapes: Sequence[tuple[int, ...]]) -> str:
    """The shapes as one, with the range of every axis, as in (64…512, 10)."""
    ranges = [(min(sizes), max(sizes)) for sizes in zip(*shapes, strict=True)]
    texts = [str(low) if low == high else f"{low}…{high}" for low, high in ranges]
    return f"({', '.join(texts)}{',' * (len(texts) == 1)})"


def _gamma_text(gammas: Sequence[Gamma]) -> str:
    lowest = min(_bounds(gamma)[0] for gamma in gammas)
    highest = max(_bounds(gamma)[1] for gamma in gammas)
    return f"{lowest:.3g}" if lowest == highest else f"{lowest:.3g} to {highest:.3g}"


def _bounds(gamma: Gamma) -> tuple[float, float]:
    if isinstance(gamma, Numbers):
        return gamma.array().min(), gamma.array().max()
    return (1.0, 1.0) if gamma is None else (gamma, gamma)


# --- folding ---------------------------------------------------------------------------------


def _folded(leaves: Sequence[Leaf]) -> list[tuple[str, list[Leaf]]]:
    """Leaves that differ in the numbers of their paths only, as Block_{0..15}/Conv_{0,1}/kernel.

    Numbers are folded from left to right, each among the rows that agree in all other numbers, so
    every folded path stands for all combinations of its numbers.
    """
    rows = [(texts_and_numbers(leaf.path), [leaf]) for leaf in leaves]
    for position in range(1, max((len(parts) for parts, _ in rows), default=0), 2):
        merged: dict = {}
        for parts, members in rows:
            others = tuple(part for index, part in enumerate(parts) if index != position)
            merged.setdefault((others, _content(members[0])), []).append((parts, members))
        rows = [_merged(same, position) for same in merged.values()]
    return [("".join(parts), members) for parts, members in rows]


def _merged(rows: list[tuple[list[str], list[Leaf]]], position: int) -> tuple[list, list]:
    """The rows as one, with the set of their numbers at a position."""
    parts = list(rows[0][0])
    if len(rows) > 1:
        parts[position] = _set_text([int(numbers[position]) for numbers, _ in rows])
    return parts, [member for _, members in rows for member in members]


def _set_text(numbers: Sequence[int]) -> str:
    """The numbers, in increasing order, as a set: {0,1}, {0..15}, {0,2..4}."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return "{" + ",".join(texts) + "}"


def _content(leaf: Leaf) -> tuple:
    """What leaves of one row have in common beside the text of their paths."""
    if leaf.leaf_spec is None:
        return (len(leaf.shape), leaf.reason)
    return (dataclasses.replace(leaf.leaf_spec, gamma=None),)
