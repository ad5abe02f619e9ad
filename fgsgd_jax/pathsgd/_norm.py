"""The path norm, and what of it each weight holds."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from fgsgd_jax.pathsgd import _extended_range
from fgsgd_jax.pathsgd._extended_range import SEED_EXPONENT, Mass
from fgsgd_jax.pathsgd._interpreter import Network, is_weight, read


def path_norm(apply_fn: Callable, params: Any, input_shape: Sequence[int], p: Any = 2) -> jax.Array:
    """The path norm of a ReLU network: φ_p(w) = (Σ_paths ∏ |w_e|^p)^{1/p}.

    A path starts at an input or at a bias, follows weights and ends at an output. Counted are all
    paths, in one pass over one example, through dense layers, convolutions (strided, padded,
    dilated, grouped), pooling, skip connections, loops of known length, and whatever moves values
    around. Constants on edges count like weights: an average over k units has edges of 1/k and adds
    (1/k)^p. Each unit of a maximum has its own path, so max pooling counts as a sum over its window
    (an upper bound, as in Gonon et al.). ReLU, leaky ReLU and abs pass all paths on.

    Differentiable, so it can be a penalty; its derivative at 0 is taken to be 0. Half-precision
    weights are worked on in float32, and no weight is too large or small for it unless φ_p itself
    is.

    Args:
        apply_fn: The network, `apply_fn(params, x)` of a batch x.
        params: Its parameters, any tree. Float leaves are weights.
        input_shape: The shape of one example, without the batch.
        p: The power, at least 1.

    Returns:
        φ_p, a scalar: float32, or float64 if a parameter is.

    Raises:
        ValueError: If the network does what no sum over paths describes, such as a sigmoid or a
            normalization by its own features, or if p or the shape makes no sense.

    Example:
        >>> import jax.numpy as jnp
        >>> def network(params, x):
        ...     return jnp.maximum(x @ params["in"], 0) @ params["out"]
        >>> params = {"in": jnp.array([[1.0, -2.0]]), "out": jnp.array([[3.0], [4.0]])}
        >>> path_norm(network, params, (1,), p=1)  # 1·3 + 2·4
        Array(11., dtype=float32)

    References:
        Neyshabur, Salakhutdinov & Srebro, *Path-SGD*, 2015 (arXiv 1506.02617), section 3; Gonon,
        Brisebarre, Riccietti & Gribonval, 2023 (arXiv 2310.01225) for biases, skips and pooling.
    """
    check(apply_fn, p, input_shape, params)
    return _compiled(_path_norm, apply_fn, tuple(input_shape), p)(params)


def _path_norm(apply_fn, input_shape, p, params):
    network = read(apply_fn, params, input_shape)
    total = network.total(network.masses(p), p)
    # At 0 the root has no derivative; every weight's is 0 there for p > 1.
    none = total.mantissa == 0  # false for NaN, which must stay visible
    root = _extended_range.raised(
        total._replace(mantissa=jnp.where(none, 1, total.mantissa)), 1 / p
    )
    return jnp.where(none, 0, _extended_range.number(root))


def path_scales(
    apply_fn: Callable,
    params: Any,
    input_shape: Sequence[int],
    p: Any = 2,
    *,
    second_term: bool = False,
) -> Any:
    """The scales of Path-SGD, by weight: κ_e = (Σ_{paths ∋ e} ∏_{e' ≠ e} |w_e'|^p)^{2/p}.

    κ is the derivative of P = φ_p^p by |w_e|^p, to the power 2/p. A weight that stands on several
    edges (of a convolution, of a loop) collects the paths through each of them: κ⁽¹⁾ of the paper
    on recurrent networks. If a path can pass the same weight twice, as in a recurrent cell,
    `second_term` adds κ⁽²⁾ = w² Σ_{e₁ ≠ e₂} Σ_{paths ∋ e₁, e₂} ∏_{e ≠ e₁, e₂} w_e², over ordered
    pairs of edges of the weight. It is for p = 2, and costs a pass for every single weight.

    Args:
        apply_fn: The network, as for `path_norm`.
        params: Its parameters.
        input_shape: The shape of one example.
        p: The power.
        second_term: Whether to add κ⁽²⁾.

    Returns:
        A tree like `params`, in float32 (float64 where the parameters are). 0 for a weight that no
        path runs through; leaves that are not float are 0, too.

    Raises:
        ValueError: As `path_norm` does; also for `second_term` with another p than 2.

    Example:
        >>> import jax.numpy as jnp
        >>> def network(params, x):
        ...     return jnp.maximum(x @ params["in"], 0) @ params["out"]
        >>> params = {"in": jnp.array([[1.0, -2.0]]), "out": jnp.array([[3.0], [4.0]])}
        >>> path_scales(network, params, (1,), p=2)["in"]  # 3² and 4²
        Array([[ 9., 16.]], dtype=float32)

    References:
        Neyshabur, Salakhutdinov & Srebro, 2015, eq. (7); Neyshabur, Wu, Salakhutdinov & Srebro,
        *Path-normalized optimization of recurrent neural networks*, 2016 (arXiv 1605.07154).
    """
    check(apply_fn, p, input_shape, params)
    return _compiled(_path_scales, apply_fn, tuple(input_shape), p, second_term)(params)


def _path_scales(apply_fn, input_shape, p, second_term, params):
    network = read(apply_fn, params, input_shape)
    leaves, structure = jax.tree.flatten(params)
    remaining = iter(network_scales(network, p, second_term=second_term))
    return structure.unflatten(
        [
            _extended_range.number(next(remaining))
            if is_weight(leaf)
            else jnp.zeros(jnp.shape(leaf))
            for leaf in leaves
        ]
    )


def _compiled(function: Callable, *arguments) -> Callable:
    """The function of params with its first arguments given, under `jit` where that can be kept."""
    try:
        return _jitted(function, arguments)
    except TypeError:  # an argument that cannot be a key, such as a traced p
        return functools.partial(function, *arguments)


@functools.lru_cache(maxsize=32)
def _jitted(function: Callable, arguments: tuple) -> Callable:
    return jax.jit(functools.partial(function, *arguments))


def network_scales(network: Network, p, *, second_term: bool = False) -> list[Mass]:
    """κ of all weights of a network, with exponents beyond those of floats."""
    if second_term and not _equals(p, 2):
        raise ValueError(f"The second term of κ is defined for p = 2, not for p = {p}.")
    masses = network.masses(p)
    exponents = [mass.exponent for mass in masses]

    def total(mantissas):
        whole = network.total(list(map(Mass, mantissas, exponents)), p)
        return 2.0**SEED_EXPONENT * whole.mantissa, whole.exponent

    mantissas = [mass.mantissa for mass in masses]
    through, top = jax.grad(total, has_aux=True)(mantissas)
    # ∂P/∂|w|^p: the derivative by the mantissa lacks the exponents of both.
    scales = [
        Mass(derivative, top - SEED_EXPONENT - exponent)
        for derivative, exponent in zip(through, exponents, strict=True)
    ]
    if second_term:
        slope = jax.grad(lambda mantissas: total(mantissas)[0])
        scales = _with_second_term(slope, mantissas, scales)
    return scales if _equals(p, 2) else [_extended_range.raised(mass, 2 / p) for mass in scales]


def _with_second_term(slope: Callable, mantissas: list, scales: list[Mass]) -> list[Mass]:
    """Adds |w|²·∂²P/∂(|w|²)², which counts the ordered pairs of edges of a weight on a path."""

    def curvature(number, index):
        """The second derivative by one entry of one leaf."""
        one = jnp.zeros(mantissas[number].size, mantissas[number].dtype).at[index].set(1)
        direction = [jnp.zeros_like(mantissa) for mantissa in mantissas]
        direction[number] = one.reshape(mantissas[number].shape)
        return jax.jvp(slope, (mantissas,), (direction,))[1][number].ravel()[index]

    sums = []
    for number, (mass, mantissa) in enumerate(zip(scales, mantissas, strict=True)):
        indices = jnp.arange(mantissa.size)
        second = jax.lax.map(lambda index, n=number: curvature(n, index), indices)
        # The derivative is by the mantissa twice, and one of |w|² makes up for one exponent.
        paired = Mass(second.reshape(mantissa.shape) * mantissa, mass.exponent)
        sums.append(_extended_range.plus(mass, paired))
    return sums


def check(apply_fn, p, input_shape, params) -> None:
    """Refuses what no path norm can be taken of, in a sentence."""
    if not callable(apply_fn):
        raise TypeError(
            "The network is a function of parameters and a batch, apply_fn(params, x), but a "
            f"{type(apply_fn).__name__} was given in its place."
        )
    if not isinstance(p, Tracer) and not 1 <= float(p) < np.inf:
        raise ValueError(f"The path norm needs a finite p of at least 1, not {p!r}.")
    if not isinstance(input_shape, (tuple, list)) or not all(
        isinstance(size, (int, np.integer)) and size > 0 for size in input_shape
    ):
        raise ValueError(
            "input_shape is the shape of one example without the batch, such as (28, 28, 1), not "
            f"{input_shape!r}."
        )
    masked = [
        jax.tree_util.keystr(keys, simple=True, separator="/")
        for keys, node in jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_masked)[0]
        if _is_masked(node)
    ]
    if masked:
        raise ValueError(
            "Paths run through all layers, so path scaling needs the parameters of the whole "
            f"network, but {', '.join(map(repr, masked[:3]))}{', …' * (len(masked) > 3)} "
            f"{'is' if len(masked) == 1 else 'are'} masked out, as inside optax.partition or "
            "optax.masked. Put scale_by_path or path_sgd outermost, and mask or partition what "
            "follows it in the chain."
        )


def _is_masked(node) -> bool:
    return isinstance(node, optax.MaskedNode)


def _equals(p, value: float) -> bool:
    return isinstance(p, (int, float)) and p == value
