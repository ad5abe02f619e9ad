"""What every command does at the terminal: parsing, one-line errors, exit codes, Ctrl-C."""

import argparse
import contextlib
import difflib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator

# What `pip install "fgsgd_jax[train]"` installs, by import names.
TRAIN_EXTRA = {"PIL", "flax", "matplotlib", "orbax", "rich", "sklearn", "tqdm"}


class UsageError(Exception):
    """A mistake of the user. The message says what was given, what is needed, and what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UsageError` instead of printing usage and exiting."""

    def __init__(self, **kwargs):
        # No abbreviations: --group in a user's script could mean another argument after an update.
        super().__init__(allow_abbrev=False, formatter_class=_Help, **kwargs)

    def error(self, message: str):
        message = message.removeprefix("argument ")  # of "argument --epochs: …"
        stop = "" if message.endswith((".", "?")) else "."
        raise UsageError(f"{message}{stop} See {self.prog} --help.")

    def parse_args(self, args=None, namespace=None):
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = self._option_string_actions
            self.error(f"{unknown[0]!r} is not an argument.{nearest(unknown[0], flags)}")
        return known


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the description as written, with a column wide enough for our longest arguments."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)


def nearest(given: str, names: Iterable[str]) -> str:
    """The sentence " Did you mean …?" with the closest of the names; empty if none is close."""
    spelled = {name.lower(): name for name in names}
    close = difflib.get_close_matches(given.lower(), spelled, n=1)
    return f" Did you mean {spelled[close[0]]!r}?" if close else ""


def exit_code(program: Callable[[], int]) -> int:
    """Runs a program and reports a mistake of the user in one line on stderr.

    Args:
        program: Takes nothing and returns its own exit code.

    Returns:
        What `program` returns; 2 after a mistake of the user or if a package of the `train` extra
        is missing; 130 after Ctrl-C. Any other exception is a bug and keeps its traceback.
    """
    try:
        return program()
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN_EXTRA:
            raise
        print(
            f'error: {error.name} is not installed: pip install "fgsgd_jax[train]"', file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Defers Ctrl-C to the points where the program checks for it.

    Yields:
        A function that raises `KeyboardInterrupt` if Ctrl-C was pressed since the block began. A
        second Ctrl-C raises at once.
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
