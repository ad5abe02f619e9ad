"""Axes written as text: `"in:rows heads:stack out:columns"` is a `Component`.

One word for each axis of the weight, in its order:

    name:role       the role is rows, columns, inputs, outputs or stack; the name is up to you
    role            a role alone
    name            heads, experts and layers need no role: they are stacked
    (a=3:role b:role)
                    one axis of the weight that holds several, the last varying fastest, as in
                    einops; the size of one of them may be left out
"""

import re

from fgsgd_jax._text import did_you_mean
from fgsgd_jax.spec._components import ROLES, Component

STACKED = ("heads", "experts", "layers")
_WORD = re.compile(r"(?:(?P<name>\w+)(?:=(?P<size>\d+))?:)?(?P<role>\w+)(?:=(?P<own_size>\d+))?")


def spelled(text: str) -> Component:
    """The component that a text spells.

    Raises:
        ValueError: If a word has no role, two axes have one name, or the parentheses do not match.

    Example:
        >>> spelled("in:rows heads out:columns").points_shape((64, 8, 16))
        (64, 16, 8)
        >>> spelled("in:rows (qkv=3:stack out:columns)").points_shape((64, 192))
        (64, 64, 3)
    """
    axes: dict[str, tuple[int, ...]] = dict.fromkeys(ROLES, ())
    split, parts, weight_axis, inside = [], [], 0, False
    _require_different_names(text)
    for word in re.findall(r"[()]|[^\s()]+", text):
        if word in "()":
            if inside == (word == "(") or (word == ")" and not parts):
                raise ValueError(
                    f"The parentheses in component={text!r} do not match, or are empty or nested; "
                    'write "in:rows (qkv=3:stack out:columns)" for an axis that holds two.'
                )
            inside = word == "("
        else:
            role, size = _role_and_size(word, text)
            axes[role] += (sum(map(len, axes.values())),)
            parts.append(size)
        if not inside:
            if parts != [-1]:
                split.append((weight_axis, tuple(parts)))
            weight_axis, parts = weight_axis + 1, []
    if inside:
        raise ValueError(f"component={text!r} lacks a closing parenthesis; add it.")
    if any(sizes.count(-1) > 1 for _, sizes in split):
        raise ValueError(
            f"In component={text!r} one axis holds several of unknown size; give all sizes but "
            'one, as in "(qkv=3:stack out:columns)".'
        )
    return Component(**axes, split=tuple(split), name=" ".join(text.split()))  # pyright: ignore


def is_spelled(text: str) -> bool:
    """Whether a text is meant as axes rather than as the name of a cut."""
    return bool(re.search(r"[\s:()=]", text)) or text in ROLES


def axis_called(name: str, text: str) -> int | None:
    """The axis that a text gives a name, counted after axes are split; None if there is none.

    Example:
        >>> axis_called("heads", "in:rows heads out:columns")
        1
    """
    names = _names(text) if is_spelled(text) else []
    return names.index(name) if name in names else None


def _names(text: str) -> list[str]:
    """The names of the axes of a text, or their roles where they have no name."""
    words = [_WORD.fullmatch(word) for word in re.findall(r"[^\s()]+", text)]
    return [match["name"] or match["role"] for match in words if match]


def _require_different_names(text: str) -> None:
    """Raises if two axes have one name, of which one is probably a slip."""
    names = _names(text)
    twice = [name for name in names if names.count(name) > 1 and name not in ROLES]
    if twice:
        raise ValueError(
            f"component={text!r} names two axes {twice[0]!r}; give every axis a name of its own, "
            "or its role alone."
        )


def _role_and_size(word: str, text: str) -> tuple[str, int]:
    """The role of an axis, and its size or -1."""
    match = _WORD.fullmatch(word)
    role = match["role"] if match else word
    if match and not match["name"] and role in STACKED:
        role = "stack"
    if not match or role not in ROLES:
        raise ValueError(
            f"{word!r} in component={text!r} has no role; write one word for each axis, "
            f"name:role, where the role is one of {', '.join(ROLES)}."
            + (" Separate words by spaces." if "," in text else did_you_mean(role, ROLES))
        )
    return role, int(match["size"] or match["own_size"] or -1)
