"""Diagnostics of a run besides loss and error: norms, normalizer, angle, bounds, margins."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax import bounds, diagnostics
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.train import steps
from fgsgd_jax.experiments.train.config import Config
from fgsgd_jax.experiments.train.metrics import BOUND_COLUMNS, BOUNDS, KINDS
from fgsgd_jax.experiments.train.steps import TrainState

MOST_MARGINS = 5000


def of_step(
    settings: Config,
    spec: fg.Collection,
    before: TrainState,
    after: TrainState,
    gradient: Any,
    images: ImageData,
) -> dict[str, float]:
    """The diagnostics of one step and the bounds of the weights after it, by column of the metrics.

    Args:
        settings: The run.
        spec: Which weights are on which manifolds.
        before: The state before the step.
        after: The state after it.
        gradient: The gradient at the weights before the step.
        images: The training data.
    """
    found = diagnostics.diagnose(
        before.params,
        spec,
        gradients=gradient,
        updates=jax.tree.map(jnp.subtract, after.params, before.params),
        trace=_momentum(settings, after),
        feature_std=fg.get_feature_std(before.optimizer),
        coordinates=settings.coordinates,  # pyright: ignore[reportArgumentType]
    )
    numbers = diagnostics.summary(found)
    del numbers["drift"]  # of the weights before the step; the metrics have that after it
    if settings.optimizer != "fgsgd":  # the others do not divide by τ
        del numbers["tau"], numbers["normalized_share"]
    columns = {name: float(number) for name, number in numbers.items()}
    return columns | log_bounds(spec, after, images)


def log_bounds(spec: fg.Collection, state: TrainState, images: ImageData) -> dict[str, float]:
    """The logarithms of the bounds of Table 1, by column of the metrics."""
    terms = _network_bounds(spec, state, images)
    found = [getattr(getattr(terms, kind), name) for kind in KINDS for name in BOUNDS]
    return dict(zip(BOUND_COLUMNS, map(float, found), strict=True))


def drift(spec: fg.Collection | None, state: TrainState) -> float | None:
    """The largest distance of a component from its manifold; None if there are no manifolds."""
    if spec is None:
        return None
    feature_std = fg.get_feature_std(state.optimizer)
    distances = fg.residual(state.params, spec, feature_std=feature_std)
    return max(float(distance) for distance in distances.values())


def normalized_margins(
    spec: fg.Collection, outputs: steps.Outputs, state: TrainState, images: ImageData
) -> np.ndarray:
    """The normalized margins (Bartlett et al.) of up to 5,000 training images, in float64."""
    pixels, labels = images.train_images[:MOST_MARGINS], images.train_labels[:MOST_MARGINS]
    margins = bounds.normalized_margins(
        jnp.asarray(outputs(state, pixels)),
        jnp.asarray(labels),
        steps.normalization(images)(pixels),
        _network_bounds(spec, state, images).layers,
    )
    scale = np.exp(-np.float64(margins.log_scale))  # can exceed the range of float32
    return np.asarray(margins.margins, np.float64) * scale


def _momentum(settings: Config, state: TrainState) -> Any:
    """The momentum of the weights on manifolds, from which the normalizer is computed."""
    if not settings.momentum or settings.optimizer not in ("fgsgd", "rsgd"):
        return None
    partitioned: Any = state.optimizer
    return optax.tree.get(partitioned.inner_states["manifold"], "trace")


def _network_bounds(
    spec: fg.Collection, state: TrainState, images: ImageData
) -> bounds.NetworkBounds:
    return bounds.network_bounds(state.params, spec, samples=len(images.train_labels))
