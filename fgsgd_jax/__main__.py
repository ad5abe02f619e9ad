"""The program: `python -m fgsgd_jax <command>`.

Each command is a package in `fgsgd_jax.experiments` with `add_arguments(parser)` and
`main(args) -> int`; its docstring is the text of its --help. Only the chosen command is
imported, so that no command waits for the dependencies of another.
"""

import importlib
import sys
from collections.abc import Sequence

from fgsgd_jax.experiments import cli

COMMANDS = {
    "train": "train a convolutional network with its kernels on manifolds",
    "compare": "compare variants of the re-scaling, each with its learning rate tuned",
    "paths": "reproduce the figures of the Path-SGD paper",
    "bench": "measure the time and memory of updates, compared with optax.sgd and optax.adamw",
}

PACKAGES = {"paths": "path_figures"}
"""The packages whose name differs from that of their command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: The arguments after the program's name; by default those of the process.

    Returns:
        0 on success, 2 after a mistake of the user (reported in one line on stderr), 130 after
        Ctrl-C. Any other exception is a bug and keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return cli.exit_code(lambda: _run(arguments))


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        hint = cli.nearest(name, COMMANDS)
        raise cli.UsageError(
            f"{name!r} is not a command; the commands are {', '.join(COMMANDS)}.{hint} "
            "See python -m fgsgd_jax --help."
        )
    command = importlib.import_module(f"fgsgd_jax.experiments.{PACKAGES.get(name, name)}")
    parser = cli.Parser(prog=f"python -m fgsgd_jax {name}", description=command.__doc__)
    command.add_arguments(parser)
    return command.main(parser.parse_args(rest))


def _overview() -> str:
    lines = ["usage: python -m fgsgd_jax <command> [arguments]", "", "commands:"]
    lines += [f"  {name:<10}{purpose}" for name, purpose in COMMANDS.items()]
    lines += ["", "python -m fgsgd_jax <command> --help lists the arguments of a command."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
