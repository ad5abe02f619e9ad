"""What a training run knows of its weights on manifolds beyond loss and error."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax import bounds, diagnostics
from fgsgd_jax.experiments import steps
from fgsgd_jax.experiments.config import Config
from fgsgd_jax.experiments.data import ImageData
from fgsgd_jax.experiments.report import BOUND_COLUMNS, BOUNDS, KINDS
from fgsgd_jax.experiments.steps import TrainState
from fgsgd_jax.spec import Collection

MOST_MARGINS = 5000


def diagnosed(
    settings: Config,
    spec: Collection,
    before: TrainState,
    after: TrainState,
    gradient: Any,
    images: ImageData,
) -> dict[str, float]:
    """The diagnostics of one step, and the bounds of the weights after it, by column.

    Args:
        settings: The run.
        spec: Which weights are on which manifolds.
        before: The state before the step.
        after: The state after it.
        gradient: The gradient at the weights before.
        images: What the network is trained on.
    """
    found = diagnostics.diagnose(
        before.params,
        spec,
        gradients=gradient,
        updates=jax.tree.map(jnp.subtract, after.params, before.params),
        trace=_trace(settings, after),
        feature_std=fg.get_feature_std(before.optimizer),
        coordinates=settings.coordinates,  # pyright: ignore[reportArgumentType]
    )
    numbers = diagnostics.summary(found)
    del numbers["drift"]  # that of the weights after the step has a column of its own
    if settings.optimizer == "rsgd":  # which divides by no τ
        del numbers["tau"], numbers["normalized_share"]
    return {name: float(number) for name, number in numbers.items()} | bounded(spec, after, images)


def bounded(spec: Collection, state: TrainState, images: ImageData) -> dict[str, float]:
    """The logarithms of the bounds of Table 1, by column."""
    terms = _bounds(spec, state, images)
    found = [getattr(getattr(terms, kind), name) for kind in KINDS for name in BOUNDS]
    return dict(zip(BOUND_COLUMNS, map(float, found), strict=True))


def _trace(settings: Config, state: TrainState) -> Any:
    """The momentum of the weights on manifolds, which the normalizer sees."""
    if not settings.momentum:
        return None
    partitioned: Any = state.optimizer
    return optax.tree.get(partitioned.inner_states["manifold"], "trace")


def _bounds(spec: Collection, state: TrainState, images: ImageData) -> bounds.NetworkBounds:
    return bounds.network_bounds(state.params, spec, samples=len(images.train_labels))


def normalized_margins(
    spec: Collection, outputs: steps.Outputs, state: TrainState, images: ImageData
) -> np.ndarray:
    """Bartlett et al.'s normalized margins of (the first) training images, in float64."""
    pixels, labels = images.train_images[:MOST_MARGINS], images.train_labels[:MOST_MARGINS]
    margins = bounds.normalized_margins(
        jnp.asarray(outputs(state, pixels)),
        jnp.asarray(labels),
        steps.normalization(images)(pixels),
        _bounds(spec, state, images).layers,
    )
    scale = np.exp(-np.float64(margins.log_scale))  # may be out of the range of float32
    return np.asarray(margins.margins, np.float64) * scale
