"""`path_norm` and `path_scales`: the path norm of a network, and its derivative by each weight."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax._numbers import require_flag
from fgsgd_jax.pathsgd import _extended_range
from fgsgd_jax.pathsgd._extended_range import SEED_EXPONENT, ScaledFloat, equals
from fgsgd_jax.pathsgd._network import Network, check_arguments, is_weight, trace


def path_norm(apply_fn: Callable, params: Any, input_shape: Sequence[int], p: Any = 2) -> jax.Array:
    """The path norm of a ReLU network: φ_p(w) = (Σ_paths ∏ |w_e|^p)^{1/p}.

    A path starts at an input or at a bias, follows weights and ends at an output. The sum runs over
    all paths and is computed by one evaluation of the network on one example. Supported are dense
    layers, convolutions (strided, padded, dilated, grouped), pooling, skip connections, loops of
    known length, and all operations that only move entries. Constants on edges count like weights:
    an average over k units has edges of 1/k and contributes (1/k)^p. Max pooling counts as a sum
    over its window, with a path for each unit (an upper bound, as in Gonon et al.). ReLU, leaky
    ReLU and abs do not change path sums.

    Differentiable, so it can be used as a penalty; its derivative at 0 is defined as 0. It is
    computed in float32 for half-precision weights. Weights of any size are possible, as long as φ_p
    itself is in the range of a float.

    Args:
        apply_fn: The network, `apply_fn(params, x)` of a batch x.
        params: Its parameters, any tree. Float leaves are weights.
        input_shape: The shape of one example, without the batch.
        p: The power, at least 1.

    Returns:
        φ_p, a scalar: float32, or float64 if a parameter is.

    Raises:
        TypeError: If `apply_fn` is not callable.
        ValueError: If the network has an operation that does not map path sums to path sums, such
            as a sigmoid or a normalization by its own features, if p is below 1 or not finite, or
            if `input_shape` is not a shape.

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
    check_arguments(apply_fn, p, input_shape, params)
    return _compiled(_path_norm, apply_fn, tuple(input_shape), p)(params)


def _path_norm(apply_fn, input_shape, p, params):
    network = trace(apply_fn, params, input_shape)
    total = network.total(network.weight_powers(p), p)
    # The root has no derivative at 0; the derivative by every weight is 0 there for p > 1.
    is_zero = total.mantissa == 0  # false for NaN, which the result must show
    nonzero = total._replace(mantissa=jnp.where(is_zero, 1, total.mantissa))
    root = _extended_range.power(nonzero, 1 / p)
    return jnp.where(is_zero, 0, _extended_range.to_float(root))


def path_scales(
    apply_fn: Callable,
    params: Any,
    input_shape: Sequence[int],
    p: Any = 2,
    *,
    second_term: bool = False,
) -> Any:
    """The scale of every weight in Path-SGD: κ_e = (Σ_{paths ∋ e} ∏_{e' ≠ e} |w_e'|^p)^{2/p}.

    κ is the derivative of P = φ_p^p by |w_e|^p, to the power 2/p. For a weight on several edges (of
    a convolution, of a loop) the sum runs over the paths through each of these edges: κ⁽¹⁾ of the
    paper on recurrent networks. If a path can pass the same weight twice, as in a recurrent cell,
    `second_term` adds κ⁽²⁾ = w² Σ_{e₁ ≠ e₂} Σ_{paths ∋ e₁, e₂} ∏_{e ≠ e₁, e₂} w_e², over ordered
    pairs of edges of the weight. It is defined for p = 2, and costs one evaluation of the network
    for every entry of every weight.

    Args:
        apply_fn: The network, `apply_fn(params, x)` of a batch x, as for `path_norm`.
        params: Its parameters, any tree. Float leaves are weights.
        input_shape: The shape of one example, without the batch.
        p: The power, at least 1.
        second_term: Whether to add κ⁽²⁾.

    Returns:
        A tree of arrays shaped like `params`, in float32, or float64 if a parameter is. 0 for
        weights on no path, and for leaves that are not float.

    Raises:
        TypeError: As `path_norm`.
        ValueError: As `path_norm`; also for `second_term` with a p other than 2.

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
    check_arguments(apply_fn, p, input_shape, params)
    require_flag("second_term", second_term)
    return _compiled(_path_scales, apply_fn, tuple(input_shape), p, second_term)(params)


def _path_scales(apply_fn, input_shape, p, second_term, params):
    network = trace(apply_fn, params, input_shape)
    leaves, structure = jax.tree.flatten(params)
    kappas = iter(network_scales(network, p, second_term=second_term))
    scales = [
        _extended_range.to_float(next(kappas)) if is_weight(leaf) else jnp.zeros(jnp.shape(leaf))
        for leaf in leaves
    ]
    return structure.unflatten(scales)


def _compiled(function: Callable, *arguments) -> Callable:
    """The function with its first arguments bound, under a cached `jit` if they are hashable."""
    try:
        return _jitted(function, arguments)
    except TypeError:  # an argument is not hashable, such as a traced p
        return functools.partial(function, *arguments)


@functools.lru_cache(maxsize=32)
def _jitted(function: Callable, arguments: tuple) -> Callable:
    return jax.jit(functools.partial(function, *arguments))


# --- scales in extended range --------------------------------------------------------------------


def network_scales(network: Network, p, *, second_term: bool = False) -> list[ScaledFloat]:
    """The scales κ of all weights of a network, in extended range."""
    if second_term and not equals(p, 2):
        raise ValueError(
            f"The second term of κ is defined for p = 2, not for p = {p}. Use p=2, or leave out "
            "second_term."
        )
    powers = network.weight_powers(p)
    mantissas = [power.mantissa for power in powers]
    exponents = [power.exponent for power in powers]

    def total(mantissas):
        whole = network.total(list(map(ScaledFloat, mantissas, exponents)), p)
        return 2.0**SEED_EXPONENT * whole.mantissa, whole.exponent

    derivatives, exponent = jax.grad(total, has_aux=True)(mantissas)
    # ∂P/∂|w|^p, from the derivative of the mantissa of P by the mantissa of |w|^p.
    scales = [
        ScaledFloat(derivative, exponent - SEED_EXPONENT - own)
        for derivative, own in zip(derivatives, exponents, strict=True)
    ]
    if second_term:
        gradient = jax.grad(lambda mantissas: total(mantissas)[0])
        scales = _with_second_term(gradient, mantissas, scales)
    return scales if equals(p, 2) else [_extended_range.power(scale, 2 / p) for scale in scales]


def _with_second_term(
    gradient: Callable, mantissas: list, scales: list[ScaledFloat]
) -> list[ScaledFloat]:
    """Adds |w|²·∂²P/∂(|w|²)², the sum over ordered pairs of edges of one weight on a path."""

    def second_derivative(leaf, index):
        """The second derivative by one entry of one leaf."""
        own = mantissas[leaf]
        one = jnp.zeros(own.size, own.dtype).at[index].set(1)
        direction = [jnp.zeros_like(mantissa) for mantissa in mantissas]
        direction[leaf] = one.reshape(own.shape)
        return jax.jvp(gradient, (mantissas,), (direction,))[1][leaf].ravel()[index]

    sums = []
    for leaf, (scale, mantissa) in enumerate(zip(scales, mantissas, strict=True)):
        indices = jnp.arange(mantissa.size)
        second = jax.lax.map(lambda index, leaf=leaf: second_derivative(leaf, index), indices)
        # Each derivative by a mantissa subtracts its exponent, and |w|² adds it once, which leaves
        # the exponent of the first derivative.
        term = ScaledFloat(second.reshape(mantissa.shape) * mantissa, scale.exponent)
        sums.append(_extended_range.plus(scale, term))
    return sums
