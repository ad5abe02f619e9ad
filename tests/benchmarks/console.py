"""What the programs of the benchmarks share: a command line with a single command."""

import sys
from collections.abc import Callable, Sequence

from fgsgd_jax.experiments import cli


def run(program: str, description: str, command: Callable, argv: Sequence[str] | None) -> int:
    """Runs a command with the arguments of the program, and returns the exit code.

    Args:
        program: The words that start the program.
        description: The text of `--help`.
        command: The command.
        argv: The arguments after the program's name; by default those of the process.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def run_app() -> int:
        app = cli.new_app(program, help=description)
        app.default(command)
        return cli.run(app, words)

    return cli.exit_code(run_app)
