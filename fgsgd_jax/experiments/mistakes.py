"""What is said about words that are not a command with its arguments, and what they may mean."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args, get_origin

if TYPE_CHECKING:  # a package of the `train` extra: without it, the program says what is missing
    from cyclopts import App, ArgumentCollection, CoercionError, CycloptsError


def sentence(app: "App", error: "CycloptsError") -> str:
    """The sentence about an error of the command line: the argument, what is needed, what it got.

    Args:
        app: The command line.
        error: What it raised.
    """
    import cyclopts

    name = error.argument.name if error.argument else ""
    if isinstance(error, cyclopts.UnknownCommandError):
        given = (error.unused_tokens or [""])[0]
        return _no_option_before(app, given) if given[:1] == "-" else _no_command(app, given)
    if isinstance(error, cyclopts.UnknownOptionError):
        given = error.token.keyword or error.token.value
        return _no_argument(given, [*_own_flags(app), *_flags(error.argument_collection)])
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"{(error.unused_tokens or [''])[0]!r} is not an argument."
    if isinstance(error, cyclopts.RepeatArgumentError):
        return f"{error.token.keyword} was given twice; give it once."
    if isinstance(error, cyclopts.CoercionError):
        return _wrong_value(error)
    if isinstance(error, cyclopts.MissingArgumentError) and error.command_chain:
        flags = [*_own_flags(app), *_flags_of(app, error.command_chain[0])]
        for word in error.unused_tokens or ():
            if word.startswith("--") and word.partition("=")[0] not in flags:
                return _no_argument(word, flags)
    if isinstance(error, (cyclopts.MissingArgumentError, cyclopts.ConsumeMultipleError)):
        hint = error.argument.hint if error.argument else None
        choices = f", one of {', '.join(get_args(hint))}" if get_origin(hint) is Literal else ""
        return f"{name} needs a value{choices}."
    return " ".join(str(error).split())


def _commands(app: "App") -> list[str]:
    return [command for command in app if not command.startswith("-")]


def _own_flags(app: "App") -> list[str]:
    """The options of the program itself, --help and --version."""
    return [flag for flag in app if flag.startswith("--")]


def _flags(arguments: "ArgumentCollection") -> list[str]:
    return [flag for argument in arguments for flag in argument.names]


def _flags_of(app: "App", command: str) -> list[str]:
    return _flags(
        app[command].assemble_argument_collection(default_parameter=app.default_parameter)
    )


def _no_command(app: "App", given: str) -> str:
    """The sentence for a word in the place of a command."""
    commands = _commands(app)
    known = f"the commands are {', '.join(commands)}"
    return f"{given!r} is not a command; {known}.{did_you_mean(closest(given, commands))}"


def _no_option_before(app: "App", given: str) -> str:
    """The sentence for an option in the place of a command."""
    commands, flag = _commands(app), given.partition("=")[0].replace("_", "-")
    owners = [command for command in commands if flag in _flags_of(app, command)]
    if owners:
        return f"{flag} is an option of {', '.join(owners)}; give the command first."
    return _no_argument(given, _own_flags(app))


def _no_argument(given: str, flags: Iterable[str]) -> str:
    """The sentence for a word that is not among the flags of a command."""
    return f"{given!r} is not an argument.{did_you_mean(closest(given, flags))}"


def _wrong_value(error: "CoercionError") -> str:
    """The sentence for a value that an argument cannot have."""
    assert error.argument is not None
    name, got = error.argument.name, f"got {error.token.value!r}" if error.token else ""
    if error.msg is None:  # of a switch: all other values are read by functions of `arguments`
        return f"{name} takes no value; {got}."
    several = get_origin(error.argument.hint) is tuple and len(error.argument.tokens) > 1
    return f"{'Every value of ' * several}{name} {error.msg}"


def must_be(needed: str, got: str, meant: str | None) -> str:
    """What `sentence` says of an argument after its name.

    >>> must_be("a whole number", "4,8", "4 8")
    "must be a whole number; got '4,8'. Did you mean '4 8'?"
    """
    return f"must be {needed}; got {got!r}.{did_you_mean(meant)}"


def closest(given: str, names: Iterable[str]) -> str | None:
    """The name that a word probably means: by its initials, its spelling, or a part of it.

    >>> flags = ("--batch-size", "--euclidean-learning-rate", "--learning-rate")
    >>> [closest(word, flags) for word in ("--lr", "--batchsize", "--rate", "--help")]
    ['--learning-rate', '--batch-size', '--learning-rate', None]
    """
    word = given.lower().lstrip("-")
    known = {name.lower().lstrip("-"): name for name in names}
    by_initials = [name for name in known if _initials(name) == word and len(word) > 1]
    by_spelling = difflib.get_close_matches(word, known, n=1)
    by_part = sorted((name for name in known if word in name and len(word) > 2), key=len)
    found = by_initials or by_spelling or by_part
    return known[found[0]] if found else None


def _initials(name: str) -> str:
    return "".join(part[:1] for part in name.split("-"))


def did_you_mean(name: str | None) -> str:
    """The sentence " Did you mean …?"; empty if there is no name."""
    return f" Did you mean {name!r}?" if name else ""
