"""`config.json`: the configuration with which a run was begun, and with which it is resumed."""

import dataclasses
import importlib.metadata
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from fgsgd_jax.experiments.cli import UsageError, spelled
from fgsgd_jax.experiments.files import read_fingerprinted, write_fingerprinted
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


def save(run_dir: Path, saved: Saved) -> None:
    """Writes `FILE`, with a fingerprint of its content."""
    content = dataclasses.asdict(saved.config)
    content |= {"data_digest": saved.data_digest, "versions": saved.versions}
    write_fingerprinted(run_dir / FILE, content)


def load(run_dir: Path) -> Saved:
    """Reads `FILE`.

    Raises:
        UsageError: If this is not the folder of a run, or the file is not as `save` wrote it.
    """
    path = run_dir / FILE
    try:
        content = read_fingerprinted(
            path,
            "the run",
            "start a new run (--epochs and --data-dir may be given with --resume)",
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"--resume {run_dir} is not the folder of a run: no {FILE}.") from error
    data_digest, versions = content.pop("data_digest"), content.pop("versions")
    if set(content) != set(FIELDS):
        raise UsageError(f"{path} is of another version of this program; start a new run.")
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Saved(Config(**fields), data_digest, versions)


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
