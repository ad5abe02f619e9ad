"""The benchmark program: `python -m tests.benchmarks` in a clone of the repository."""

import importlib
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from fgsgd_jax.experiments import cli
from fgsgd_jax.experiments.bench import sections

from . import __doc__ as description
from . import console, results, settings

PROGRAM = "python -m tests.benchmarks"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures as the arguments say, prints tables, and returns the exit code.

    Args:
        argv: The arguments after the program's name; by default those of the process.
    """
    return console.run(PROGRAM, str(description), _measure, argv)


CHOSEN, OPTIONS = settings.BenchmarkSettings(), settings.Program()


def _measure(
    *,
    chosen: settings.BenchmarkSettings = CHOSEN,
    program: settings.Program = OPTIONS,
    words: Annotated[Sequence[str], Parameter(parse=False)] = (),
) -> None:
    settings.require_consistent(chosen, program)

    def write_results(section: str, headline: str, tables: sections.Tables) -> None:
        if program.results_file:
            command = shlex.join([*PROGRAM.split(), *words])
            block = results.block(command, headline, tables)
            results.replace(program.results_file, section, block, settings.SECTIONS)

    sections.measure(
        {name: _section(name) for name in dict.fromkeys(program.sections)},
        chosen,
        json_path=program.json,
        on_measured=write_results,
    )


def _section(name: str) -> sections.Section:
    module: Any = importlib.import_module(settings.SECTIONS[name], __package__)
    return module


if __name__ == "__main__":
    cli.exit_after(main)
