"""The classical problems under geoopt's RiemannianAdam."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np


def is_installed() -> bool:
    """Whether torch and geoopt are installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "geoopt"))


def points(
    loss: Callable[..., Any],
    data: np.ndarray,
    start: np.ndarray,
    rate: float,
    final: float,
    steps: int,
) -> np.ndarray:
    """The points after every step, `(steps, rows, columns)`.

    Args:
        loss: The loss of `(torch, data, point)`.
        data: What defines the problem.
        start: The first point.
        rate: The first learning rate.
        final: The share of it that is left after all steps.
        steps: The number of steps.
    """
    import geoopt  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    x = geoopt.ManifoldParameter(torch.tensor(start), manifold=geoopt.Stiefel(canonical=False))
    optimizer = geoopt.optim.RiemannianAdam([x], lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda count: final ** (count / steps))
    given, found = torch.tensor(data), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch, given, x).backward()
        optimizer.step()
        schedule.step()
        found.append(x.detach().numpy().copy())
    return np.stack(found)
