"""The benchmark program: `python -m tests.benchmarks` in a clone of the repository."""

import importlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from fgsgd_jax.experiments import cli
from fgsgd_jax.experiments.bench import sections

from . import __doc__ as description
from . import results, settings

PROGRAM = "python -m tests.benchmarks"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures as the arguments say, prints tables, and returns the exit code.

    Args:
        argv: The arguments after the program's name; by default those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return cli.exit_code(lambda: _run(arguments))


def _run(argv: list[str]) -> int:
    parser = cli.Parser(prog=PROGRAM, description=description)
    settings.add_arguments(parser)
    args = parser.parse_args(argv)
    chosen = settings.chosen(args)

    def write_results(section: str, headline: str, tables: sections.Tables) -> None:
        if args.results:
            command = shlex.join([*PROGRAM.split(), *argv])
            block = results.block(command, headline, tables)
            results.replace(args.results, section, block, settings.SECTIONS)

    sections.measure(
        {name: _section(name) for name in dict.fromkeys(args.sections)},
        chosen,
        json_path=args.json,
        on_measured=write_results,
    )
    return 0


def _section(name: str) -> sections.Section:
    module: Any = importlib.import_module(settings.SECTIONS[name], __package__)
    return module


if __name__ == "__main__":
    sys.exit(main())
