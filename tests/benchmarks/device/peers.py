"""geoopt and PyTorch on the same device, in a process of their own."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fgsgd_jax.experiments.bench import networks, timing

from ..processes import Process
from . import cases


def measure(
    shapes: networks.Shapes, baseline: float | None, rounds: int
) -> Iterator[dict[str, Any]]:
    """The rows of all steps, or one that says why there are none.

    Args:
        shapes: The shapes of the weights.
        baseline: The seconds of an update of `optax.sgd` with momentum.
        rounds: How often each is timed.
    """
    sizes: Sequence[int] = [math.prod(shape[2:]) for shape in shapes.values()]
    with Process("torch_device", threads=1, sizes=sizes) as torch:
        if "error" in torch.answer:
            yield _skipped("torch", torch.answer["error"])
        for name in torch.answer.get("missing", []):
            yield _skipped(name, "not installed")
        steps = torch.answer["steps"]
        seconds = timing.in_turn({step: torch.clock(step) for step in steps}, rounds)
        for step in steps:
            median = float(np.median(seconds[step]))
            yield {
                "kind": "peer",
                "block": cases.SMALL,
                "label": step,
                "seconds": median,
                "ratio": median / baseline if baseline else None,
                "versions": torch.answer["versions"],
            }


def _skipped(label: str, reason: str) -> dict[str, Any]:
    return {"kind": "skipped", "block": cases.SMALL, "label": label, "reason": reason}
