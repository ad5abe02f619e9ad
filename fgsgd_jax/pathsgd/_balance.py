"""`balance` and `unbalance`: rescalings of hidden units, which a ReLU network does not feel."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax._trees import leaves_with_paths

Layers = Sequence[str | tuple[str, str | None]]

# Rounds until all layers have the same norm. Without biases one is enough; with them a round leaves
# at most 1 - 1/layers of the difference of the logarithms.
MOST_ROUNDS = 500


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer of a chain: where its kernel and bias are among the leaves."""

    kernel: int
    bias: int | None


def balance(params: Any, p: float = 2, *, layers: Layers | None = None) -> Any:
    """Rescales hidden units so that the weights into each have the same p-norm, bias included.

    The network computes what it did before. The common norm is the one that the last layer has,
    too: with it, φ_p of a network of d layers with one output and no biases is its d-th power, the
    least that any rescaling can do (Lemma 4.1). Of several outputs the largest norm counts. A unit
    with no weights into it stays as it is.

    Args:
        params: The parameters of a chain of dense layers, or of convolutions and then dense layers,
            with ReLU between and pooling and flattening anywhere. The last axis of a kernel is its
            outputs, the one before its inputs, as in Flax; flattening leaves channels last.
        p: The power of the norm, at least 1.
        layers: The paths of the kernels in the order of the network, each alone or as a pair with
            that of its bias: `[("in/kernel", "in/bias"), "out/kernel"]`. By default the arrays of
            two and more axes, numbers in their paths counting as numbers, with the vectors beside
            them as biases.

    Returns:
        A tree like `params`.

    Raises:
        ValueError: If the layers do not fit each other, or p makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"1": jnp.array([[8.0, 1.0]]), "2": jnp.array([[1.0], [4.0]])}
        >>> balance(params, 1)["1"]  # φ₁ = 8·1 + 1·4 = 12, so the norms are √12
        Array([[3.4641016, 3.4641016]], dtype=float32)

    References:
        Neyshabur, Salakhutdinov & Srebro, 2015, Lemma 4.1.
    """
    if not 1 <= p < np.inf:
        raise ValueError(f"balance needs a finite p of at least 1, not {p!r}.")
    leaves, structure, chain = _chain(params, layers)
    arrays = [_wide(leaf) for leaf in leaves]
    level = None
    for _ in range(MOST_ROUNDS):
        for place in range(len(chain) - 1):
            norms = _incoming_norms(arrays, chain[place], p)
            target = 1.0 if level is None else level
            _rescale(arrays, chain, place, jnp.where(norms > 0, target / norms, 1))
        last = float(jnp.max(_incoming_norms(arrays, chain[-1], p)))
        target = 1.0 if level is None else level
        if last == 0 or abs(np.log(last / target)) < 1e-12:
            break
        level = target * (last / target) ** (1 / len(chain))
        if float(np.float32(level)) == float(np.float32(target)) and not _is_double(arrays):
            break
    return structure.unflatten(
        [array.astype(jnp.result_type(leaf)) for array, leaf in zip(arrays, leaves, strict=True)]
    )


def unbalance(
    key: jax.Array,
    params: Any,
    *,
    draws: int | None = None,
    factor: float = 10.0,
    layers: Layers | None = None,
) -> Any:
    """Rescales hidden units at random, as the paper does to put networks out of balance.

    As often as `draws` says, a hidden unit is drawn, and the weights into it are multiplied, those
    out of it divided, by factor·c with c log-normal. The network computes what it did before.

    Args:
        key: A PRNG key.
        params: The parameters of a chain, as for `balance`.
        draws: How many units are drawn, with replacement; by default as many as a quarter of the
            hidden units (2000 of the paper's 8000).
        factor: The median of the factors.
        layers: The layers in order, as for `balance`.

    Returns:
        A tree like `params`.

    Raises:
        ValueError: If the layers do not fit each other.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = {"1": jnp.ones((1, 3)), "2": jnp.ones((3, 1))}
        >>> params = unbalance(jax.random.key(0), params, draws=5)
        >>> jnp.sum(params["1"] @ params["2"])  # still 3
        Array(3., dtype=float32)

    References:
        Neyshabur, Salakhutdinov & Srebro, 2015, section 5 (2000 draws, factor 10, log-normal c).
    """
    leaves, structure, chain = _chain(params, layers)
    arrays = [_wide(leaf) for leaf in leaves]
    widths = [arrays[layer.kernel].shape[-1] for layer in chain[:-1]]
    hidden = sum(widths)
    draws = hidden // 4 if draws is None else draws
    if draws < 0:
        raise ValueError(f"unbalance needs a number of draws of at least 0, not {draws}.")
    unit_key, factor_key = jax.random.split(key)
    units = jax.random.randint(unit_key, (draws,), 0, max(hidden, 1))
    exponents = jnp.log(factor) + jax.random.normal(factor_key, (draws,))
    # Sums of logarithms: a unit may be drawn again.
    scales = jnp.exp(jnp.zeros(hidden).at[units].add(exponents))
    start = 0
    for place, width in enumerate(widths):
        _rescale(arrays, chain, place, scales[start : start + width])
        start += width
    return structure.unflatten(
        [array.astype(jnp.result_type(leaf)) for array, leaf in zip(arrays, leaves, strict=True)]
    )


# --- one rescaling -------------------------------------------------------------------------------


def _wide(leaf):
    array = jnp.asarray(leaf)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _is_double(arrays) -> bool:
    return any(array.dtype == jnp.float64 for array in arrays)


def _rescale(arrays: list, chain: list[_Layer], place: int, factors) -> None:
    """Multiplies what comes into the units of a layer, and divides what goes out of them."""
    layer, after = chain[place], chain[place + 1].kernel
    factors = factors.astype(arrays[layer.kernel].dtype)
    arrays[layer.kernel] = arrays[layer.kernel] * factors
    if layer.bias is not None:
        arrays[layer.bias] = arrays[layer.bias] * factors
    kernel = arrays[after]
    positions = kernel.shape[-2] // factors.size  # more than 1 after flattening a map
    arrays[after] = kernel / jnp.tile(factors, positions)[:, None].astype(kernel.dtype)


def _incoming_norms(arrays: list, layer: _Layer, p: float):
    """The p-norm of the weights and bias into each unit, safe from overflow."""
    parts = [arrays[layer.kernel].reshape(-1, arrays[layer.kernel].shape[-1])]
    if layer.bias is not None:
        parts.append(arrays[layer.bias][None])
    sizes = jnp.abs(jnp.concatenate(parts))
    largest = jnp.max(sizes, 0)
    safe = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sum((sizes / safe) ** p, 0) ** (1 / p)


# --- which leaves are layers ---------------------------------------------------------------------


def _chain(params: Any, layers: Layers | None):
    """The leaves, their structure, and the layers of a chain, checked to fit each other."""
    paths = [path for path, _ in leaves_with_paths(params)]
    leaves, structure = jax.tree.flatten(params)
    named = _by_default(paths, leaves) if layers is None else _as_named(paths, layers)
    for layer in named:
        outputs = jnp.shape(leaves[layer.kernel])[-1]
        if layer.bias is not None and jnp.shape(leaves[layer.bias]) != (outputs,):
            raise ValueError(
                f"The bias {paths[layer.bias]!r} of shape {jnp.shape(leaves[layer.bias])} does "
                f"not fit the {outputs} outputs of {paths[layer.kernel]!r}; name the layers in "
                "order by `layers`."
            )
    for before, after in itertools.pairwise(named):
        outputs, inputs = (
            jnp.shape(leaves[before.kernel])[-1],
            jnp.shape(leaves[after.kernel])[-2],
        )
        dense = jnp.ndim(leaves[after.kernel]) == 2
        if inputs != outputs and not (dense and inputs % outputs == 0):
            raise ValueError(
                f"{paths[before.kernel]!r} has {outputs} outputs, but {paths[after.kernel]!r}, "
                f"taken for the layer after it, has {inputs} inputs. Name the layers of the chain "
                "in order by `layers`; kernels have inputs and outputs as their last two axes."
            )
    return leaves, structure, named


def _by_default(paths: list[str], leaves: list) -> list[_Layer]:
    order = sorted(range(len(paths)), key=lambda index: _natural(paths[index]))
    kernels = [index for index in order if jnp.ndim(leaves[index]) >= 2]
    biases = [index for index in order if jnp.ndim(leaves[index]) == 1]
    beside = {index: _parent(paths[index]) for index in (*kernels, *biases)}
    if not kernels:
        raise ValueError("There is no array of two or more axes, so there are no layers.")
    # Either each layer is a node of its own, or one node holds the kernels and biases of all.
    if len({beside[index] for index in kernels}) == len(kernels):
        of_node = {beside[index]: index for index in biases}
        chain = [_Layer(kernel, of_node.pop(beside[kernel], None)) for kernel in kernels]
        spare = list(of_node.values())
    elif len(biases) in (0, len(kernels)):
        chain = [
            _Layer(kernel, biases[place] if biases else None)
            for place, kernel in enumerate(kernels)
        ]
        spare = []
    else:
        chain, spare = [], biases
    if spare:
        raise ValueError(
            f"It is not clear which layer the vector {paths[spare[0]]!r} belongs to; name the "
            "layers of the chain in order by `layers`, as pairs of kernel and bias."
        )
    return chain


def _as_named(paths: list[str], layers: Layers) -> list[_Layer]:
    places = {path: index for index, path in enumerate(paths)}

    def find(path):
        if path not in places:
            raise ValueError(
                f"`layers` names {path!r}, but the leaves are {', '.join(map(repr, paths))}."
            )
        return places[path]

    pairs = [(layer, None) if isinstance(layer, str) else layer for layer in layers]
    return [_Layer(find(kernel), None if bias is None else find(bias)) for kernel, bias in pairs]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _natural(path: str) -> list:
    """A key that sorts layer10 behind layer2."""
    parts = re.split(r"(\d+)", path)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
