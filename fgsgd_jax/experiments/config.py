"""The configuration of a training run: defaults, forbidden combinations, saving and resuming."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments import data
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.spec import SCHEMES as SCHEMES
from fgsgd_jax.spec import Scheme as Scheme

SCALES = ("none", "geometric", "literal")
FEATURE_STDS = ("channel", "kernel")
COORDINATES = ("unit", "scaled")
OPTIMIZERS = ("sgd", "fgsgd", "rsgd")
MANIFOLDS = {"sphere": "sp", "oblique": "ob", "stiefel": "st", "euclidean": "euc"}

# The default rates, chosen on validation sets of digits and MNIST (two to six seeds, rates a factor
# of about 2 apart). A step of fgsgd turns a kernel by at most 0.42 times its rate, whatever the
# gradient; nothing limits the dense layer, which needs a twentieth of that rate.
LEARNING_RATES = {"sgd": 0.05, "fgsgd": 1.0, "rsgd": 1.0}

FILE = "config.json"
PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A training run, with the defaults of the program. `train --help` explains each field."""

    data: str = "digits"
    data_dir: str | None = None
    train_size: int | None = None
    channels: tuple[int, ...] = (32, 64, 64)
    optimizer: str = "fgsgd"
    scheme: Scheme = "PIO"
    groups: int | None = None
    manifolds: tuple[str, ...] = ("sphere", "oblique", "stiefel")
    learning_rate: float
    euclidean_learning_rate: float = 0.05
    momentum: float = 0.9
    scale: str | float = "none"
    feature_batches: int = 0
    feature_std: str = "channel"
    min_std: float = 0.1
    coordinates: str | float = "unit"
    weight_decay: float = 0.0
    batch_size: int = 50
    epochs: int = 20
    seed: int = 0

    def __str__(self) -> str:
        manifolds = f" {self.scheme} {'+'.join(self.manifolds)}" if self.optimizer != "sgd" else ""
        scale = "" if self.scale == "none" else f" · scale {spelled(self.scale)}"
        if self.feature_batches:
            scale += " by features" + " of kernels" * (self.feature_std == "kernel")
        return f"{self.data} · {self.optimizer}{manifolds}{scale} · seed {self.seed}"


FIELDS = tuple(field.name for field in dataclasses.fields(Config))

# What a resumed run may change: its length, and the folder that now holds the same images.
FREE_ON_RESUME = ("epochs", "data_dir")


def configured(given: Mapping[str, Any]) -> Config:
    """The run that these arguments define, with defaults for all others.

    Raises:
        UsageError: If the arguments contradict each other.
    """
    rate = LEARNING_RATES[given.get("optimizer", Config.optimizer)]
    config = Config(**{"learning_rate": rate, **given})
    _require_consistent(config, given)
    return config


_RESCALING = ("scale", "feature_batches", "feature_std", "min_std", "coordinates")


def _require_consistent(config: Config, given: Mapping[str, Any]) -> None:
    data.require_folder(config.data, config.data_dir)
    for name in ("scheme", "groups", "manifolds", "euclidean_learning_rate", *_RESCALING):
        if config.optimizer == "sgd" and name in given:
            raise UsageError(f"{_flag(name)} has no use with --optimizer sgd; omit it.")
    if config.scale == "none" and config.feature_batches:
        raise UsageError(
            "--feature-batches re-scales the kernels, but --scale none keeps them at unit scale; "
            "give --scale geometric, or omit --feature-batches."
        )
    for name in ("feature_std", "min_std"):
        if name in given and not config.feature_batches:
            raise UsageError(
                f"{_flag(name)} says how features re-scale the kernels, but --feature-batches 0 "
                f"measures no features; give --feature-batches 10, or omit {_flag(name)}."
            )
    if config.groups is not None and config.scheme != "PIO":
        raise UsageError(
            f"--groups is for --scheme PIO; the groups of --scheme {config.scheme} follow from the "
            "channels."
        )


def resumed(run_dir: Path, given: Mapping[str, Any]) -> tuple[Config, str]:
    """The configuration of an earlier run, and the fingerprint of its data.

    Args:
        run_dir: The folder of the run.
        given: The arguments given now. They may repeat the configuration, but not change it.

    Raises:
        UsageError: If an argument changes it, or if this is not the folder of a run.
    """
    path = run_dir / FILE
    try:
        saved = json.loads(path.read_text())
        fields: dict[str, Any] = {name: saved[name] for name in FIELDS}
        for name in ("channels", "manifolds"):  # lists in JSON
            fields[name] = tuple(fields[name])
        digest = saved["data_digest"]
    except FileNotFoundError as error:
        raise UsageError(f"--resume {run_dir} is not the folder of a run: no {FILE}.") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is damaged ({error!r}); start a new run.") from error
    config = Config(**fields)
    differing = [
        f"{_flag(name)} {spelled(value)} (but with {spelled(getattr(config, name))})"
        for name, value in given.items()
        if name not in FREE_ON_RESUME and value != getattr(config, name)
    ]
    if differing:
        raise UsageError(
            f"{run_dir} was not trained with {', '.join(differing)}; omit these arguments, or "
            "start a new run."
        )
    free = {name: given[name] for name in FREE_ON_RESUME if name in given}
    config = dataclasses.replace(config, **free)
    _require_consistent(config, given)
    return config, digest


def save(run_dir: Path, config: Config, digest: str) -> None:
    """Writes the configuration, the digest of the data and the package versions to `FILE`."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    content = dataclasses.asdict(config) | {"data_digest": digest, "versions": versions}
    (run_dir / FILE).write_text(json.dumps(content, indent=2) + "\n")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def spelled(value: Any) -> str:
    """A value as it is written on the command line.

    >>> spelled(("sphere", "stiefel")), spelled((32, 64)), spelled(None)
    ('sphere+stiefel', '32 64', 'the default')
    """
    if isinstance(value, tuple):
        return ("+" if isinstance(value[0], str) else " ").join(map(str, value))
    return "the default" if value is None else str(value)
