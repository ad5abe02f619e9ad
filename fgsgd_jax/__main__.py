"""The program: `python -m fgsgd_jax <command>`.

Each command is a module of `fgsgd_jax.experiments` with `add_arguments(parser)` and
`main(args) -> int`. It is imported when it is asked for, so that one command never waits for what
another one needs.
"""

import importlib
import sys
from collections.abc import Sequence

from fgsgd_jax.experiments import _terminal

COMMANDS = {
    "train": "train a convolutional network with its kernels on manifolds",
    "compare": "compare variants of the re-scaling, each with its rate tuned",
    "paths": "reproduce the figures of the Path-SGD paper",
    "bench": "measure speed, memory and accuracy, next to other libraries",
}

# What `pip install "fgsgd_jax[train]"` brings, by the names they are imported under.
TRAIN_EXTRA = {"PIL", "flax", "matplotlib", "orbax", "rich", "sklearn", "tqdm"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: The arguments after the program's name; by default those of the process.

    Returns:
        0 if all went well, 2 after a mistake of the user (told in one line on stderr), 130 after
        Ctrl-C. Any other exception is a bug of ours and keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(argv)
    except _terminal.UsageError as error:
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


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        hint = _terminal.nearest(name, COMMANDS)
        raise _terminal.UsageError(
            f"{name!r} is not a command; the commands are {', '.join(COMMANDS)}.{hint} "
            "See python -m fgsgd_jax --help."
        )
    command = importlib.import_module(f"fgsgd_jax.experiments.{name}")
    parser = _terminal.Parser(prog=f"python -m fgsgd_jax {name}", description=command.__doc__)
    command.add_arguments(parser)
    return command.main(parser.parse_args(rest))


def _overview() -> str:
    lines = ["usage: python -m fgsgd_jax <command> [arguments]", "", "commands:"]
    lines += [f"  {name:<10}{purpose}" for name, purpose in COMMANDS.items()]
    lines += ["", "python -m fgsgd_jax <command> --help lists the arguments of a command."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
