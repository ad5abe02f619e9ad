"""Types of command-line arguments: each parses a text or says what is needed."""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping

from fgsgd_jax.experiments.cli import nearest


def _number(text: str, kind: type[int] | type[float] = float) -> float:
    """The number that a text spells; NaN if it spells none."""
    try:
        return kind(text)
    except ValueError:
        return math.nan


def whole_number(minimum: int, below: float = math.inf) -> Callable[[str], int]:
    """An argument type: a whole number, at least `minimum` and less than `below`."""
    needed = f"of at least {minimum}" + (f" and below {below}" if below < math.inf else "")

    def parse(text: str) -> int:
        number = _number(text, int)
        if not minimum <= number < below:  # also refuses NaN
            raise argparse.ArgumentTypeError(
                f"{text!r} was given, a whole number {needed} is needed"
            )
        return int(number)

    return parse


def real_number(minimum: float, below: float = math.inf) -> Callable[[str], float]:
    """An argument type: a finite number, at least `minimum` and less than `below`."""
    needed = f"at least {minimum:g}" + (f" and below {below:g}" if below < math.inf else "")

    def parse(text: str) -> float:
        number = _number(text)
        if not minimum <= number < below:  # also refuses NaN
            finite = "finite " if number == math.inf else ""
            raise argparse.ArgumentTypeError(
                f"{text!r} was given, a {finite}number of {needed} is needed"
            )
        return number

    return parse


def positive_number(text: str) -> float:
    """An argument type: a finite number above 0."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} was given, a finite number above 0 is needed")
    return number


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """An argument type: one of some names, in upper or lower case."""
    spelled = {name.lower(): name for name in names}

    def parse(text: str) -> str:
        if text.lower() not in spelled:
            raise argparse.ArgumentTypeError(
                f"{text!r} was given, one of {', '.join(spelled.values())} is needed."
                + nearest(text, spelled.values())
            )
        return spelled[text.lower()]

    return parse


def number_or(names: Iterable[str]) -> Callable[[str], float | str]:
    """An argument type: a finite number above 0, or one of some names."""
    spelled = {name.lower(): name for name in names}

    def parse(text: str) -> float | str:
        if text.lower() in spelled:
            return spelled[text.lower()]
        if math.isnan(_number(text)):
            raise argparse.ArgumentTypeError(
                f"{text!r} was given, a number above 0 or one of {', '.join(spelled.values())} is "
                "needed." + nearest(text, spelled.values())
            )
        return positive_number(text)

    return parse


def sum_of(names: Mapping[str, str]) -> Callable[[str], tuple[str, ...]]:
    """An argument type: some names joined by `+`, each in full or in its short form.

    Args:
        names: The short form of each full name.
    """
    full = {**{name: name for name in names}, **{short: name for name, short in names.items()}}

    def parse(text: str) -> tuple[str, ...]:
        parts = [part.strip().lower() for part in text.split("+")]
        for part in parts:
            if part not in full:
                forms = ", ".join(f"{name} ({short})" for name, short in names.items())
                raise argparse.ArgumentTypeError(
                    f"{part!r} was given, names joined by + out of {forms} are needed."
                    + nearest(part, full)
                )
        return tuple(full[part] for part in parts)

    return parse
