"""Sentences of a spec where the size of features may not be kept."""

import math
from collections.abc import Sequence

import numpy as np

from fgsgd_jax._trees import listed
from fgsgd_jax.spec._kept_scales import kept_gamma
from fgsgd_jax.spec._leaf import LeafSpec
from fgsgd_jax.spec._scales import Gamma, Numbers, Variance
from fgsgd_jax.spec.networks._blocks import restored
from fgsgd_jax.spec.networks._names import is_transposed

# The gains that suit a linear layer and tanh; √2, for ReLU, is between them.
GAINS = (1.0, 5 / 3)


def growth_sentence(leaves: Sequence[tuple[str, tuple[int, ...], LeafSpec | None]]) -> str:
    """Says by how much features grow or vanish; "" if they do not, or normalization restores them.

    A layer multiplies the root mean square of features by its gain, at random weights. Layers are
    taken to follow one another.

    Args:
        leaves: Path, shape and leaf spec of every leaf; None for a Euclidean one.
    """
    placed = {path: leaf_spec for path, _, leaf_spec in leaves if leaf_spec}
    kept = restored([(path, shape) for path, shape, _ in leaves], placed)
    gains = [_gain(leaf_spec) for path, leaf_spec in placed.items() if path not in kept]
    growing = [gain for gain in gains if gain != 1]
    factor = math.prod(growing)
    if len(growing) < 2 or 0.1 <= factor <= 10:
        return ""
    times = f"{float(f'{factor:.0e}'):,.15g}" if 1e-4 < factor < 1e7 else f"{factor:.0e}"
    changed = f"make features {times} times as large"
    if factor < 1:
        changed = f"shrink features to {times} of their size"
    return (
        f"No normalization layer stands beside {len(growing)} of these weights. Without one, they "
        f"together {changed}; scale='variance' keeps their size."
    )


def strides_sentence(leaves: Sequence[tuple[str, LeafSpec | None]]) -> str:
    """Says that strides count where a transposed convolution is to keep the variance; else "".

    With strides, every output reads only some of the entries of the kernel, one in as many as the
    strides multiply to, and no shape shows the strides.

    Args:
        leaves: Path and leaf spec of every leaf; None for a Euclidean one.
    """
    paths = [
        path
        for path, leaf_spec in leaves
        if leaf_spec and leaf_spec.gamma is not None and is_transposed(path)
        if _gain(leaf_spec) == 1
    ]
    if not paths:
        return ""
    return (
        f"The size of features is kept through {listed(paths, 3)} for strides of 1. For larger "
        "ones, multiply the gain by the root of their product: scale=('variance', 2 * 2**0.5) for "
        "2×2 and ReLU."
    )


def _gain(leaf_spec: LeafSpec) -> float:
    """By how much a layer multiplies features; 1 for a scale that keeps them through activations.

    It is γ over the γ that would keep them through a linear layer, a root mean square over
    components.
    """
    ratio = _array(leaf_spec.gamma) / _array(kept_gamma(Variance(1.0), leaf_spec, None))
    gain = float(np.sqrt(np.mean(ratio**2)))
    lowest, highest = GAINS
    suits = leaf_spec.gamma is not None and lowest - 1e-6 <= gain <= highest + 1e-6
    return 1.0 if suits else gain


def _array(gamma: Gamma) -> np.ndarray:
    return gamma.array() if isinstance(gamma, Numbers) else np.asarray(gamma or 1.0)
