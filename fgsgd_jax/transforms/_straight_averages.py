"""Averages of weights along straight lines, which no link can bring back to the manifolds."""

import inspect

import optax

from fgsgd_jax.geometry import Euclidean
from fgsgd_jax.spec import Collection

LEAVES_MANIFOLDS = (
    "optax.contrib.schedule_free keeps averages of weights along straight lines, which leave the "
    "manifolds. Take its base optimizer alone, with fgsgd_jax.average_on_manifolds(spec) behind it "
    "in a chain, or with a rate that falls."
)
_FILE = optax.contrib.schedule_free.__code__.co_filename


def require_no_straight_averages(spec: Collection) -> None:
    """Raises if an `init` was called by `optax.contrib.schedule_free`, also in a jitted function.

    The functions that are being called have to tell: all that the wrapper hands on looks as it does
    without it, until the third update starts from an average.
    """
    flat = all(
        isinstance(manifold, Euclidean)
        for _, leaf_spec in spec.on_manifolds()
        for manifold in leaf_spec.manifolds
    )
    frame = None if flat else inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename == _FILE:
            raise ValueError(LEAVES_MANIFOLDS)
        frame = frame.f_back
