"""What every command does at the terminal: one-line errors, exit codes, Ctrl-C."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from fgsgd_jax.experiments import mistakes

if TYPE_CHECKING:  # a package of the `train` extra: without it, the program says what is missing
    from cyclopts import App

# What `pip install "fgsgd_jax[train]"` installs, by import names.
TRAIN_EXTRA = set("PIL cyclopts filelock flax matplotlib orbax rich sklearn tqdm".split())


class UsageError(Exception):
    """A mistake of the user. The message says what was given, what is needed, and what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at a point where the program knows what is saved, which the message says."""


def new_app(name: str, **settings: Any) -> "App":
    """A command line that leaves errors, exit codes and results to `run`.

    Args:
        name: The words that start the program.
        **settings: Further settings of `cyclopts.App`.
    """
    from cyclopts import App, Parameter

    arguments = Parameter(
        negative="",  # no --no-quiet
        consume_multiple=(1, None),
        allow_repeating=False,
        show_default=_shown,
    )
    return App(
        name=name,
        default_parameter=arguments,
        help_format="markdown",
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        **settings,
    )


def _shown(default: Any) -> str | None:
    """A default as --help shows it; None shows nothing."""
    if default is None or default is False:
        return None
    return " ".join(map(spelled, default)) if isinstance(default, tuple) else spelled(default)


def run(app: "App", words: Sequence[str]) -> int:
    """Runs the command that the words name.

    Args:
        app: The command line. A function of it with an argument `words` also gets the words.
        words: The words after the name of the program.

    Returns:
        The exit code of the command.

    Raises:
        UsageError: If the words are not a command with its arguments.
    """
    from cyclopts import CycloptsError

    try:
        command, bound, others = app.parse_args(words)
    except (CycloptsError, UsageError) as error:
        sentence = str(error) if isinstance(error, UsageError) else mistakes.sentence(app, error)
        program = " ".join([*app.name, *app.parse_commands(words)[0]])
        raise UsageError(f"{sentence} See {program} --help.") from error
    given = {"words": words} if "words" in others else {}
    return command(*bound.args, **bound.kwargs, **given) or 0


def spelled(value: Any) -> str:
    """A value as it is written on the command line.

    >>> spelled(("sphere", "stiefel")), spelled((32, 64)), spelled((("sphere", "oblique"), ("st",)))
    ('sphere+stiefel', '32 64', 'sphere+oblique st')
    """
    if isinstance(value, tuple):
        return ("+" if isinstance(value[0], str) else " ").join(map(spelled, value))
    return "the default" if value is None else str(value)


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
    except KeyboardInterrupt as stop:
        if signal.getsignal(signal.SIGINT) is _leave:  # the process ends here, with one line
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(str(stop) or "Interrupted.", file=sys.stderr)
        return 130


def note(sentence: str) -> None:
    """Says on stderr what the user should know, but need not act upon."""
    print("note:", sentence, file=sys.stderr)


def _leave(signum: int, frame: Any) -> NoReturn:
    os.write(2, b"Interrupted.\n")  # `print` may be interrupted itself
    os._exit(130)


def leave_at_ctrl_c() -> None:
    """Makes Ctrl-C leave at once with one line, without unwinding.

    JAX may be compiling in another thread, and Python crashes if it ends meanwhile. Every file is
    complete under its name at any moment.
    """
    signal.signal(signal.SIGINT, _leave)


def exit_after(program: Callable[[], int]) -> NoReturn:
    """Runs a program in this process, which Ctrl-C leaves at once, and exits with its code.

    If nobody reads its output any more, as behind `| head`, the code is 1.
    """
    leave_at_ctrl_c()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without × or τ
    try:
        code = program()
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(1)
    if code == 130:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def deferred_interrupts(saved: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Defers Ctrl-C to the points where the program checks for it.

    Args:
        saved: The sentence about what is saved and how to continue, for `Interrupted`.

    Yields:
        A function that raises `KeyboardInterrupt` if Ctrl-C was pressed since the block began. A
        second Ctrl-C raises at once.

    Raises:
        Interrupted: If Ctrl-C ended the block.
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
    except KeyboardInterrupt:
        raise Interrupted(saved()) from None
    finally:
        signal.signal(signal.SIGINT, before)
