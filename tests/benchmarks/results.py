"""The Markdown file of measured tables: one block for each section, replaced one at a time."""

import io
import re
from collections.abc import Iterable
from pathlib import Path

import rich.console

from fgsgd_jax.experiments.bench import sections
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.files import write_text

HEADER = """# Results of the benchmarks

Written by `python -m tests.benchmarks --results`. Each block shows the command that printed it, the
machine and the versions. Measuring a section again replaces its block.
"""


def block(command: str, headline: str, tables: sections.Tables) -> str:
    """The output of a section as a Markdown block of text.

    Args:
        command: The command that measured it.
        headline: The line about the machine.
        tables: The tables of the section.
    """
    console = rich.console.Console(file=io.StringIO(), width=sections.WIDTH, highlight=False)
    for table in (headline, *tables):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    return "\n".join(["```text", f"$ {command}", *lines, "```"])


def replace(path: Path, section: str, block: str, order: Iterable[str]) -> None:
    """Writes the block of a section into the file, and keeps the blocks of all other sections.

    Args:
        path: The file; created if it does not exist.
        section: The name of the section.
        block: Its block.
        order: The names of all sections, in the order of the file.

    Raises:
        UsageError: If the file cannot be read or written.
    """
    try:
        blocks = read(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}).") from error
    blocks[section] = block
    parts = [f"\n## {name}\n\n{blocks[name]}\n" for name in order if name in blocks]
    write_text(path, HEADER + "".join(parts))


def read(text: str) -> dict[str, str]:
    """The blocks of a file by the name of their section."""
    names_and_blocks = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
    return {
        name: block.strip()
        for name, block in zip(names_and_blocks[::2], names_and_blocks[1::2], strict=True)
    }
