"""Measured feature standard deviations λ: a check of their values, one array per weight."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fgsgd_jax._text import shown
from fgsgd_jax._trees import leaves_with_paths, listed
from fgsgd_jax.spec._scales import is_positive


def checked_feature_stds(
    measured: Any,
    channels: Mapping[str, tuple[int, ...]],
    min_std: float | None = None,
    pooled: bool = False,
) -> dict[str, jax.Array]:
    """λ by path, in the shape `LeafSpec.feature_channels` of each weight.

    Where a component holds several input channels, the weight has a single λ, the root of their
    mean variance.

    Args:
        measured: A tree or dictionary of standard deviations by path: one for each input channel of
            a weight, or one for all.
        channels: By path, `LeafSpec.feature_channels` of the weights that have a scale.
        min_std: A lower bound; smaller standard deviations are raised to it.
        pooled: Whether every weight has a single λ, as if its components held all input channels.

    Returns:
        λ of the paths in `measured`.

    Raises:
        TypeError: If `measured` is no tree of numbers, such as a spec or a manifold.
        ValueError: If a path has no scale; if there is not one standard deviation for each input
            channel, or one for all; if one is NaN, infinite, negative, or zero without `min_std`;
            or if `min_std` is not positive. The values of tracers cannot be checked.
    """
    stds = dict(leaves_with_paths(measured))
    if not stds and not isinstance(measured, (Mapping, tuple, list)):
        raise TypeError(
            "Feature standard deviations are numbers by path, such as {'conv/kernel': 0.7}, as "
            f"get_feature_std(state) returns them, but {shown(measured)} was given."
        )
    unknown = sorted(set(stds) - set(channels))
    if unknown and not channels:
        raise ValueError(
            f"Feature standard deviations were given for {listed(unknown)}, but the spec was built "
            "without a scale. Build it with collection(…, scale='geometric') or scale=1.0."
        )
    if unknown:
        raise ValueError(
            f"Feature standard deviations were given for {listed(unknown)}, but the leaves that "
            f"have a scale are {listed(channels)}. Measure only those: feature_std(…, spec=spec)."
        )
    return {
        path: _checked_feature_std(path, given, channels[path], min_std, pooled)
        for path, given in stds.items()
    }


def _checked_feature_std(
    path: str, given: Any, shape: tuple[int, ...], min_std: float | None, pooled: bool
) -> jax.Array:
    if not (min_std is None or isinstance(min_std, Tracer) or is_positive(min_std)):
        raise ValueError(
            "min_std, a lower bound of the standard deviations, is a positive number, or None for "
            f"no bound; got {min_std!r}."
        )
    stds = jnp.asarray(given)
    if not jnp.issubdtype(stds.dtype, jnp.floating):
        stds = stds.astype(float)
    if stds.ndim > 1 or (stds.ndim and shape and stds.shape != shape):
        wanted = f"for each of the {shape[0]} input channels" if shape else "for each input channel"
        raise ValueError(
            f"{path!r} got feature standard deviations of shape {stds.shape}; give one {wanted}, "
            "or one for all, as feature_std of fgsgd_jax.nnx or fgsgd_jax.linen measures them."
        )
    if not isinstance(stds, Tracer):
        _check_values(path, np.atleast_1d(np.asarray(stds, np.float64)), min_std)
    if min_std is not None:
        stds = jnp.maximum(stds, min_std)
    if stds.ndim and (pooled or not shape):
        stds = jnp.sqrt(jnp.mean(stds**2))
    return jnp.broadcast_to(stds, shape)


def _check_values(path: str, stds: np.ndarray, min_std: float | None) -> None:
    allowed = stds > 0 if min_std is None else stds >= 0
    bad = np.flatnonzero(~(allowed & np.isfinite(stds)))
    if len(bad) == 0:
        return
    first = stds[bad[0]]
    remedy = (
        "A feature that never varies has standard deviation 0: give min_std=, a lower bound."
        if first == 0
        else "Check the features that enter this weight."
    )
    raise ValueError(
        f"{path!r} got feature standard deviations that are not positive, finite numbers for "
        f"{len(bad)} of {len(stds)} input channels: input channel {bad[0]} is {first:g}. {remedy}"
    )
