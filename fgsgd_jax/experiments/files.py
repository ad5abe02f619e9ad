"""Writing files so that each is complete under its name at any moment, and edits are noticed."""

import contextlib
import hashlib
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
        raise UsageError(f"{path} cannot be written ({error}); {remedy}.") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text, or raises `UsageError`."""
    with replacing(path) as unfinished:
        unfinished.write_text(text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON, or raises `UsageError`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_fingerprinted(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a mapping as JSON, with a fingerprint of its content, or raises `UsageError`."""
    write_json(path, {**content, "fingerprint": _fingerprint(content)})


def read_fingerprinted(path: Path, begun: str, remedy: str) -> dict[str, Any]:
    """Reads what `write_fingerprinted` wrote.

    Args:
        path: The file.
        begun: What began when the file was written, such as "the run".
        remedy: What to do if the file is not as it was written.

    Raises:
        FileNotFoundError: If there is no such file.
        UsageError: If the file is damaged, or was edited.
    """
    try:
        content: dict[str, Any] = dict(json.loads(path.read_text()))
        fingerprint = content.pop("fingerprint")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is damaged ({error!r}); {remedy}.") from error
    if fingerprint != _fingerprint(content):
        raise UsageError(f"{path} was edited after {begun} began; undo the edit, or {remedy}.")
    return content


def _fingerprint(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
