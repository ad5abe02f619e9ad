"""Writing files so that each is complete under its name at any moment."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments.cli import UsageError

UNFINISHED = ".unfinished-"
"""The beginning of the names of files that are being written."""


@contextlib.contextmanager
def replacing(path: Path, remedy: str = "make room, or give another folder") -> Iterator[Path]:
    """Yields a path to write to, which then replaces `path` in one step.

    A program that is killed leaves the previous file, or none; it never leaves half a file.

    Args:
        path: The file to replace or to create.
        remedy: What to do if it cannot be written.

    Raises:
        UsageError: If it cannot be written.
    """
    # Of the same ending, from which some writers take the format.
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        if path.is_dir():
            raise UsageError(f"{path} cannot be written: it is a folder; remove it.") from error
        said = error.strerror or error
        raise UsageError(f"{path} cannot be written ({said}); {remedy}.") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text, or raises `UsageError`."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON, or raises `UsageError`."""
    write_text(path, json.dumps(content, indent=2) + "\n")
