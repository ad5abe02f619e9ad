"""`config.json`: the configuration with which a run was begun, and with which it is resumed."""

import dataclasses
import hashlib
import importlib.metadata
import json
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fgsgd_jax.experiments.cli import UsageError, note, spelled
from fgsgd_jax.experiments.files import write_text
from fgsgd_jax.experiments.train.config import FIELDS, Config, flag

FILE = "config.json"
PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")

# What a resumed run may change: its length, and the folder that now holds the same images.
FREE_ON_RESUME = ("epochs", "data_dir")


class Saved(NamedTuple):
    """What `config.json` holds.

    Attributes:
        config: The configuration.
        data_digest: The digest of the images.
        versions: The versions of `PACKAGES` with which the run was begun.
    """

    config: Config
    data_digest: str
    versions: dict[str, str]


def begun(config: Config, data_digest: str) -> Saved:
    """What a run that begins now has to save."""
    return Saved(config, data_digest, {name: importlib.metadata.version(name) for name in PACKAGES})


def text(saved: Saved) -> str:
    """The text of the file, with a fingerprint of its content, which shows later edits."""
    content = dataclasses.asdict(saved.config)
    content |= {"data_digest": saved.data_digest, "versions": saved.versions}
    content |= {"fingerprint": _fingerprint(content)}
    return json.dumps(content, indent=2) + "\n"


def save(run_dir: Path, saved: Saved) -> None:
    """Writes the file."""
    write_text(run_dir / FILE, text(saved))


def load(run_dir: Path) -> Saved:
    """Reads the file, or, if it is missing or damaged, its copy in the last checkpoint.

    Raises:
        UsageError: If this is not the folder of a run, or the file is not as `save` wrote it.
    """
    path = run_dir / FILE
    try:
        content = _parsed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        content = _copy(run_dir)
        if content is None and isinstance(error, ValueError):
            raise UsageError(f"{path} is damaged: {error}; start a new run.") from error
        if content is None:
            raise UsageError(
                f"--resume {run_dir} is not the folder of a run: no {FILE}."
            ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); make it a readable file, or start a new "
            "run."
        ) from error
    fingerprint = content.pop("fingerprint")
    if fingerprint != _fingerprint(content):
        edits = _edits(content, fingerprint, _copy(run_dir))
        raise UsageError(
            f"{path} was edited after the run began{edits}; undo the edit, or start a new run "
            "(--epochs and --data-dir may be given with --resume)."
        )
    data_digest, versions = content.pop("data_digest"), content.pop("versions")
    if set(content) != set(FIELDS):
        raise UsageError(f"{path} is of another version of this program; start a new run.")
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Saved(Config(**fields), data_digest, versions)


def repair(run_dir: Path, saved: Saved) -> None:
    """Writes the file again if it is missing or damaged, and says so."""
    path = run_dir / FILE
    try:
        _parsed(path.read_bytes())
    except (OSError, ValueError):
        save(run_dir, saved)
        note(f"{path} was missing or damaged; it is restored from the last checkpoint.")


def _copy(run_dir: Path) -> dict[str, Any] | None:
    """The content of the copy in the last checkpoint; None if there is none."""
    from fgsgd_jax.experiments.train import checkpoints  # slow

    try:
        return _parsed(checkpoints.copy_of(run_dir, FILE) or "")
    except ValueError:
        return None


def _parsed(text: str | bytes) -> dict[str, Any]:
    """The content of the file; raises `ValueError`, which says what is wrong, if it has none."""
    if not text.strip():
        raise ValueError("it is empty")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(content, dict) or "fingerprint" not in content:
        raise ValueError("it is not the configuration of a run")
    return content


def _edits(content: Mapping[str, Any], fingerprint: Any, copy: Mapping[str, Any] | None) -> str:
    """Which fields were edited, if the copy is of the file as it was before."""
    if copy is None or copy["fingerprint"] != fingerprint:
        return ""

    def shown(fields: Mapping[str, Any], name: str) -> str:
        known = name in fields
        return textwrap.shorten(json.dumps(fields[name]), 80) if known else "missing"

    names = [name for name in {**copy, **content} if name != "fingerprint"]
    edits = [
        f"{name} is {shown(content, name)} and was {shown(copy, name)}"
        for name in names
        if shown(content, name) != shown(copy, name)
    ]
    return f": {', '.join(edits)}"


def _fingerprint(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def continued(saved: Saved, run_dir: Path, config: Config, given: Collection[str]) -> Config:
    """The configuration of a resumed run.

    Args:
        saved: What the run was begun with.
        run_dir: Its folder.
        config: What was given now.
        given: The fields that were given. They may repeat the configuration, but not change it.

    Raises:
        UsageError: If a field changes that must not.
    """
    now = {name: getattr(config, name) for name in given}
    differing = [
        f"{flag(name)} {spelled(value)} (but with {spelled(getattr(saved.config, name))})"
        for name, value in now.items()
        if name not in FREE_ON_RESUME and value != getattr(saved.config, name)
    ]
    if differing:
        raise UsageError(
            f"{run_dir} was not trained with {', '.join(differing)}; omit these arguments, or "
            "start a new run."
        )
    free = {name: now[name] for name in FREE_ON_RESUME if name in now}
    return dataclasses.replace(saved.config, **free)


def changed_versions(saved: Saved) -> list[str]:
    """The packages whose versions differ from those at the start of the run."""
    now = begun(saved.config, saved.data_digest).versions
    return [
        f"{name} {saved.versions.get(name)} (now {version})"
        for name, version in now.items()
        if saved.versions.get(name) != version
    ]
