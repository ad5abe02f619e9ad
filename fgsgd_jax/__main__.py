"""The program: `python -m fgsgd_jax <command>`.

Each command is a package in `fgsgd_jax.experiments` with a function `main`, whose arguments are
dataclasses; the docstring of the package is the text of its --help. The packages import what takes
long only when they run, so that no command waits for the dependencies of another.
"""

import sys
from collections.abc import Sequence

from fgsgd_jax.experiments import cli

PROGRAM = "python -m fgsgd_jax"


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


def _run(arguments: list[str]) -> int:
    from fgsgd_jax import __version__
    from fgsgd_jax.experiments import bench, path_figures, study, train

    app = cli.new_app(PROGRAM, version=f"fgsgd_jax {__version__}")
    for name, package in {
        "train": train,
        "study": study,
        "paths": path_figures,
        "bench": bench,
    }.items():
        app.command(package.main, name=name, help=package.__doc__)
    return cli.run(app, arguments)


if __name__ == "__main__":
    cli.exit_after(main)
