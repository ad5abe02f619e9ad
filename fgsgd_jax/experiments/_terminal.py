"""Manners at the terminal: mistakes told in one line, Ctrl-C that waits for a good moment."""

import argparse
import contextlib
import difflib
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path


class UsageError(Exception):
    """A mistake of the person at the keyboard: what was given, what is needed, what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` where `argparse` would print and leave."""

    def __init__(self, **kwargs):
        # No abbreviations: --group in a script of today would mean another argument tomorrow.
        super().__init__(allow_abbrev=False, formatter_class=_Help, **kwargs)

    def error(self, message: str):
        # argparse writes "argument --epochs: …"; the first word says nothing.
        message = message.removeprefix("argument ")
        stop = "" if message.endswith((".", "?")) else "."
        raise UsageError(f"{message}{stop} See {self.prog} --help.")

    def parse_args(self, args=None, namespace=None):
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = self._option_string_actions
            self.error(f"{unknown[0]!r} is not an argument.{nearest(unknown[0], flags)}")
        return known


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with the description as written and room for the longest of our arguments."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)


def is_taken(folder: Path) -> bool:
    """Whether something is where a new run is to write its results."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def new_run_dir(name: str) -> Path:
    """A folder named after the run and the time, and a number if two runs start in one second."""
    stamped = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    folders = (Path("runs") / (stamped + ending) for ending in endings)
    return next(folder for folder in folders if not folder.exists())


def make_run_dir(folder: Path) -> None:
    """Makes the folder of a run, or says that it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error}); give another --run-dir.") from error


def nearest(given: str, names: Iterable[str]) -> str:
    """A sentence, after a space, that suggests the name closest to the given one, if any is."""
    spelled = {name.lower(): name for name in names}
    close = difflib.get_close_matches(given.lower(), spelled, n=1)
    return f" Did you mean {spelled[close[0]]!r}?" if close else ""


def _number(text: str, kind: type[int] | type[float] = float) -> float:
    """The number that a text spells; NaN where it spells none."""
    try:
        return kind(text)
    except ValueError:
        return math.nan


def whole_number(minimum: int, below: float = math.inf) -> Callable[[str], int]:
    """An argument type: a whole number, at least `minimum` and less than `below`."""
    needed = f"of at least {minimum}" + (f" and below {below}" if below < math.inf else "")

    def parse(text: str) -> int:
        number = _number(text, int)
        if not minimum <= number < below:  # false for NaN, too
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
        if not minimum <= number < below:
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
    """An argument type: one of some names, in any case of letters."""
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
        names: The full names, with the short form of each.
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


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Lets Ctrl-C stop the program only where the program says so.

    Yields:
        A function that raises `KeyboardInterrupt` if Ctrl-C was pressed since the block began. A
        second Ctrl-C does not wait for it.
    """
    pressed = False

    def note(signum, frame):
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def stop_if_pressed() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop_if_pressed
    finally:
        signal.signal(signal.SIGINT, before)
