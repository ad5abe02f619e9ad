"""`balance` and `unbalance`: rescale hidden units and keep the function of a ReLU network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax import linalg
from fgsgd_jax._keys import require_key
from fgsgd_jax._numbers import known_number, require_count, require_number
from fgsgd_jax.pathsgd._chain import AffineMap, Layers, chain_of

# Without biases, one round gives all layers the same norm. With biases, a round leaves at most
# 1 − 1/layers of the differences between the logarithms of the norms.
MAX_ROUNDS = 500


def balance(params: Any, p: float = 2, *, layers: Layers | None = None) -> Any:
    """Rescales hidden units so that the weights into each have the same p-norm, bias included.

    The network computes the same function as before. Its last layer has the common norm, too (with
    several outputs, the largest of their norms). For a network of d layers with one output and no
    biases, φ_p is the d-th power of the common norm, and no rescaling makes the largest norm of any
    unit smaller (Lemma 4.1). A unit whose incoming weights are all 0 is not changed.

    Args:
        params: The parameters of a chain of dense layers, or of convolutions and then dense layers,
            with ReLU between and pooling and flattening anywhere. The last axis of a kernel is its
            outputs, the one before its inputs, as in Flax; flattening leaves channels last.
        p: The power of the norm, at least 1.
        layers: The paths of the kernels in the order of the network, each alone or as a pair with
            the path of its bias: `[("in/kernel", "in/bias"), "out/kernel"]`. By default the arrays
            of two and more axes, sorted by path with numbers in numerical order, and the vectors
            next to them as biases.

    Returns:
        A tree like `params`.

    Raises:
        TypeError: If p is no number.
        ValueError: If the shapes of consecutive layers do not fit each other, if it is unclear
            which layer a vector belongs to, or if p is below 1 or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"1": jnp.array([[8.0, 1.0]]), "2": jnp.array([[1.0], [4.0]])}
        >>> balance(params, 1)["1"]  # φ₁ = 8·1 + 1·4 = 12, so the norms are √12
        Array([[3.4641016, 3.4641016]], dtype=float32)

    References:
        Neyshabur, Salakhutdinov & Srebro, 2015, Lemma 4.1.
    """
    require_number("p", p)
    if not 1 <= p < np.inf:
        raise ValueError(f"balance needs a finite p of at least 1, not {p!r}.")
    leaves, structure, chain = chain_of(params, layers)
    arrays = [linalg.in_working_dtype(leaf) for leaf in leaves]
    target = 1.0
    for _ in range(MAX_ROUNDS):
        for index in range(len(chain) - 1):
            norms = _incoming_norms(arrays, chain[index], p)
            _rescale(arrays, chain, index, jnp.where(norms > 0, target / norms, 1))
        last = float(jnp.max(_incoming_norms(arrays, chain[-1], p)))
        if last == 0 or abs(np.log(last / target)) < 1e-12:
            break
        previous, target = target, target * (last / target) ** (1 / len(chain))
        # In float32 there is nothing left to change once the target is the same number.
        if np.float32(target) == np.float32(previous) and not _is_double(arrays):
            break
    return _in_own_dtypes(arrays, leaves, structure)


def unbalance(
    key: jax.Array,
    params: Any,
    *,
    draws: int | None = None,
    factor: float = 10.0,
    layers: Layers | None = None,
) -> Any:
    """Rescales hidden units at random, as the paper does to unbalance networks.

    `draws` times, a hidden unit is drawn; its incoming weights are multiplied by factor·c and its
    outgoing weights divided by it, with c log-normal. The network computes the same function as
    before.

    Args:
        key: A PRNG key.
        params: The parameters of a chain, as for `balance`.
        draws: How many units are drawn, with replacement; by default a quarter of the number of
            hidden units (2000 of the paper's 8000).
        factor: The median of the factors.
        layers: The layers in order, as for `balance`.

    Returns:
        A tree like `params`.

    Raises:
        TypeError: If the key is not one key of JAX, or a number is none.
        ValueError: As `balance` for the layers; also if `draws` is negative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = {"1": jnp.ones((1, 3)), "2": jnp.ones((3, 1))}
        >>> params = unbalance(jax.random.key(0), params, draws=5)
        >>> jnp.sum(params["1"] @ params["2"])  # still 3
        Array(3., dtype=float32)

    References:
        Neyshabur, Salakhutdinov & Srebro, 2015, section 5 (2000 draws, factor 10, log-normal c).
    """
    require_key(key)
    leaves, structure, chain = chain_of(params, layers)
    arrays = [linalg.in_working_dtype(leaf) for leaf in leaves]
    widths = [arrays[affine.kernel].shape[-1] for affine in chain[:-1]]
    hidden = sum(widths)
    draws = hidden // 4 if draws is None else draws
    require_count("draws", draws)
    require_number("factor", factor)
    if (size := known_number(factor)) is not None and not 0 < size < np.inf:
        raise ValueError(f"factor must be a finite number above 0, got {size!r}.")
    unit_key, factor_key = jax.random.split(key)
    units = jax.random.randint(unit_key, (draws,), 0, max(hidden, 1))
    exponents = jnp.log(factor) + jax.random.normal(factor_key, (draws,))
    # Logarithms are summed, as a unit may be drawn more than once.
    scales = jnp.exp(jnp.zeros(hidden).at[units].add(exponents))
    start = 0
    for index, width in enumerate(widths):
        _rescale(arrays, chain, index, scales[start : start + width])
        start += width
    return _in_own_dtypes(arrays, leaves, structure)


# --- one rescaling -------------------------------------------------------------------------------


def _in_own_dtypes(arrays: list, leaves: list, structure) -> Any:
    """The tree of the rescaled arrays, each in the dtype of its leaf."""
    return structure.unflatten(
        [array.astype(jnp.result_type(leaf)) for array, leaf in zip(arrays, leaves, strict=True)]
    )


def _is_double(arrays: list) -> bool:
    return any(array.dtype == jnp.float64 for array in arrays)


def _rescale(arrays: list, chain: list[AffineMap], index: int, factors) -> None:
    """Multiplies the incoming weights and biases of units, and divides their outgoing weights."""
    affine, following = chain[index], chain[index + 1].kernel
    factors = factors.astype(arrays[affine.kernel].dtype)
    arrays[affine.kernel] = arrays[affine.kernel] * factors
    if affine.bias is not None:
        arrays[affine.bias] = arrays[affine.bias] * factors
    kernel = arrays[following]
    positions = kernel.shape[-2] // factors.size  # above 1 if a feature map is flattened in between
    arrays[following] = kernel / jnp.tile(factors, positions)[:, None].astype(kernel.dtype)


def _incoming_norms(arrays: list, affine: AffineMap, p: float):
    """The p-norm of the incoming weights and bias of each unit, without overflow of powers."""
    kernel = arrays[affine.kernel]
    parts = [kernel.reshape(-1, kernel.shape[-1])]
    if affine.bias is not None:
        parts.append(arrays[affine.bias][None])
    sizes = jnp.abs(jnp.concatenate(parts))
    largest = jnp.max(sizes, 0)
    nonzero = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sum((sizes / nonzero) ** p, 0) ** (1 / p)
