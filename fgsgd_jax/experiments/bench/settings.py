"""The settings of the benchmark of whole updates, and the constants of all benchmarks."""

import dataclasses

from fgsgd_jax.experiments.config import Scheme

MOMENTUM = 0.9
RATE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, with the defaults of the program. `bench --help` explains each field."""

    networks: tuple[str, ...] = ("resnet18-3x3",)
    manifolds: tuple[tuple[str, ...], ...] = (
        ("sphere",),
        ("oblique",),
        ("stiefel",),
        ("sphere", "oblique", "stiefel"),
    )
    schemes: tuple[Scheme, ...] = ("PI", "PO", "PIO")
    momentum: str = "one"
    width: float = 1.0
    rounds: int = 11
