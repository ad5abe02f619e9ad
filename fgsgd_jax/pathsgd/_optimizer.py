"""`scale_by_path` and `path_sgd`: steps that do not depend on how the units are scaled."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for it

from fgsgd_jax import _xla_cpu
from fgsgd_jax._arrays import require_gradient_values
from fgsgd_jax._numbers import (
    checked_schedule,
    require_flag,
    require_momentum,
    require_number_or_schedule,
)
from fgsgd_jax._text import shown
from fgsgd_jax.pathsgd import _extended_range
from fgsgd_jax.pathsgd._extended_range import ScaledFloat
from fgsgd_jax.pathsgd._network import Network, check_arguments, is_weight, trace
from fgsgd_jax.pathsgd._norm import network_scales

# From this many entries on, copying a weight costs more than delaying its in-place update until it
# has been read for the last time.
LARGE_SIZE = 1 << 20


def scale_by_path(
    apply_fn: Callable,
    input_shape: Sequence[int],
    p: Any = 2,
    *,
    second_term: bool = False,
    extended_range: bool | None = None,
    scales: Callable | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides the gradient of every weight by its scale κ (see `path_scales`).

    Momentum, a learning rate and decoupled weight decay may follow. Then a step commutes with every
    rescaling of hidden units (incoming weights and bias times c > 0, outgoing weights divided by
    c). With Adam's scaling, L2 decay or clipping by a global norm it does not.

    A weight with κ = 0 is on no path of nonzero weights, and its update is 0. No small number is
    added to the denominator, which would break the invariance. A gradient of NaN remains NaN. A
    step costs one more example in the batch, and reading the weights.

    Paths run through all layers, so this raises an error inside `optax.partition` and
    `optax.masked`. Under `optax.inject_hyperparams`, name `apply_fn` among its `static_args`, or
    Optax takes it for a schedule; name `p`, too, for the fastest code.

    Args:
        apply_fn: The network, `apply_fn(params, x)` of a batch x.
        input_shape: The shape of one example, without the batch.
        p: The power of the path norm, at least 1.
        second_term: Whether to add κ⁽²⁾ for weights that a path can pass twice.
        extended_range: Whether path sums get exponents of their own, so that rescalings of any size
            are possible, at about twice the cost in dense layers. Without them, the path sum of
            each unit must be in the range of a float: for p = 2 and float32, units may be scaled by
            1e±18, also where differently scaled units are combined; for a weight that is used more
            than once, |w|^p must be in range, too. Out of range, or if the sum over all paths
            overflows, updates are NaN. By default only for p above 2.
        scales: A function that computes other κ, such as the data-dependent ones of DDP-SGD (arXiv
            1511.06747), which are not part of this library. Called as `scales(params,
            **extra_args)` with the extra arguments of `update`, it returns a tree like `params`.
            Then `apply_fn`, `p` and `second_term` have no effect.

    Returns:
        A transformation without state, whose `update` needs `params`.

    Raises:
        TypeError: If an option is of another kind; at `init`, if `apply_fn` is no function of
            parameters and a batch.
        ValueError: At `init`, if the network is not one of weights, sums, pooling and ReLU-like
            activations, if p is below 1 or if the input shape is not a shape; at `update`, if
            `params` are missing or parts of the tree are masked.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def network(params, x):
        ...     return jnp.maximum(x @ params["in"], 0) @ params["out"]
        >>> params = {"in": jnp.array([[1.0, -2.0]]), "out": jnp.array([[3.0], [4.0]])}
        >>> link = scale_by_path(network, (1,))
        >>> scaled, _ = link.update(jax.tree.map(jnp.ones_like, params), link.init(params), params)
        >>> scaled["out"].ravel()  # divided by 1² and 2²
        Array([1.  , 0.25], dtype=float32)

    References:
        Neyshabur, Salakhutdinov & Srebro, 2015 (arXiv 1506.02617), section 4 and Theorem 5.1.
    """
    require_flag("second_term", second_term)
    if extended_range is not None:
        require_flag("extended_range", extended_range)
    if not (scales is None or callable(scales)):
        raise TypeError(f"scales must be a function of the parameters, got {shown(scales)}.")
    extended = not _is_at_most_two(p) if extended_range is None else extended_range

    def init_fn(params):
        check_arguments(apply_fn, p, input_shape, params)
        # Optax calls `init` with trees of placeholders without leaves, too.
        if scales is None and jax.tree.leaves(params):
            # Computes shapes only; raises the errors of an unsupported network early.
            jax.eval_shape(lambda params: divided(params, params), params)
        return optax.EmptyState()

    @jax.jit  # so that the network is traced once, even if `update` is not under jit
    def divided(updates, params):
        network = trace(apply_fn, params, input_shape)
        if not (second_term or extended):
            return _divided_on_plain_floats(network, p, updates, params)
        kappas = network_scales(network, p, second_term=second_term)
        return _map_weights(_extended_range.divided, updates, params, kappas)

    def update_fn(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(f"{NO_PARAMS_MSG} The paths run over the present weights.")
        require_gradient_values(updates)
        check_arguments(apply_fn, p, input_shape, (params, updates))
        if scales is None:
            return divided(updates, params), state
        pairs = zip(
            jax.tree.leaves(params), jax.tree.leaves(scales(params, **extra_args)), strict=True
        )
        kappas = [
            ScaledFloat(kappa, jnp.zeros(kappa.shape, jnp.int32))
            for leaf, kappa in pairs
            if is_weight(leaf)
        ]
        return _map_weights(_extended_range.divided, updates, params, kappas), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _divided_on_plain_floats(network: Network, p, updates, params):
    """The updates divided by κ, with path sums as plain floats."""

    def total(perturbations, scale_slots):
        powers, kernels = network.kernels(p, perturbations, scale_slots)
        sum_of_paths = network.total(powers, p, kernels).mantissa
        return sum_of_paths, sum_of_paths

    zeros = [jnp.zeros_like(weight) for weight in network.weights]
    # Of each weight the derivative by (s·|w|)^p, and s (see `Kernel`).
    (derivatives, scales), sum_of_paths = jax.grad(total, (0, 1), has_aux=True)(zeros, zeros)
    # If the sum over all paths overflowed, NaN is better than a wrong number.
    known = jnp.isfinite(sum_of_paths)
    if any(weight.size >= LARGE_SIZE for weight in network.weights):
        # Update no weight in place before all gradients and scales, which read it, are computed.
        readers = (leaf for leaf in jax.tree.leaves((updates, derivatives)) if leaf.size)
        known = _xla_cpu.wait(known, _xla_cpu.completion_token(*readers))
    known = jnp.where(known, 1, jnp.nan).astype(sum_of_paths.dtype)

    def divide(update, kappa):
        derivative, scale = kappa
        return _extended_range.divided_by_scales(update, derivative, scale, p) * known

    return _map_weights(divide, updates, params, list(zip(derivatives, scales, strict=True)))


def _is_at_most_two(p) -> bool:
    """Whether p is known to be at most 2; an injected hyper-parameter is not known."""
    return isinstance(p, (int, float)) and p <= 2


def _map_weights(divide: Callable, updates, params, kappas: list):
    """The updates of weights divided by their κ, in their own dtypes; other leaves unchanged."""
    leaves, structure = jax.tree.flatten(updates)
    weights = jax.tree.leaves(params)
    if [jnp.shape(leaf) for leaf in leaves] != [jnp.shape(weight) for weight in weights]:
        raise ValueError(
            "The updates and params given to path scaling have leaves of different shapes; give "
            "the gradient with respect to exactly these params."
        )
    indices = [index for index, weight in enumerate(weights) if is_weight(weight)]
    for index, kappa in zip(indices, kappas, strict=True):
        update = leaves[index].astype(jax.tree.leaves(kappa)[0].dtype)
        leaves[index] = divide(update, kappa).astype(leaves[index].dtype)
    return structure.unflatten(leaves)


def path_sgd(
    learning_rate: optax.ScalarOrSchedule,
    apply_fn: Callable,
    input_shape: Sequence[int],
    p: Any = 2,
    momentum: Any = None,
    *,
    nesterov: bool = False,
    weight_decay: Any = 0.0,
    accumulator_dtype: Any = None,
    second_term: bool = False,
    extended_range: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Path-SGD: steepest descent with respect to the path norm.

    Each step is `w_e ← w_e − (η/κ_e)·∂L/∂w_e`, with the κ of `path_scales` at the present weights.
    Two networks that compute the same function and differ only by a rescaling of their units take
    the same steps up to this rescaling, so they continue to compute the same function. The chain::

        optax.chain(
            scale_by_path(apply_fn, input_shape, p),
            optax.trace(momentum),  # omitted if momentum is None
            optax.add_decayed_weights(weight_decay),  # omitted if it is 0
            optax.scale_by_learning_rate(learning_rate),
        )

    Args:
        learning_rate: A number or schedule. κ is of the order of the squared weights of the other
            layers, so good rates differ from those of SGD: search over powers of ten.
        apply_fn: The network, `apply_fn(params, x)` of a batch x; `path_norm` says which networks
            are supported.
        input_shape: The shape of one example, without the batch.
        p: The power of the path norm, at least 1.
        momentum: The decay of the momentum, or None for none.
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Decoupled weight decay: a step subtracts learning_rate·weight_decay·w.
        accumulator_dtype: The dtype of the momentum; by default that of the parameters.
        second_term: Whether to add κ⁽²⁾ for weights that a path can pass twice.
        extended_range: As for `scale_by_path`.

    Returns:
        A transformation whose `update` needs the `params` of the whole network. See `scale_by_path`
        for `optax.partition`, `optax.masked` and `optax.inject_hyperparams`.

    Raises:
        TypeError: As `scale_by_path`, and if a number or dtype is of the wrong type.
        ValueError: As `scale_by_path`, and if a number is outside its range.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> def network(params, x):
        ...     return jnp.maximum(x @ params["in"] + params["bias"], 0) @ params["out"]
        >>> keys = jax.random.split(jax.random.key(0))
        >>> params = {
        ...     "in": jax.random.normal(keys[0], (3, 8)),
        ...     "bias": jnp.zeros(8),
        ...     "out": jax.random.normal(keys[1], (8, 1)),
        ... }
        >>> x = jnp.eye(3)
        >>> loss = lambda params: jnp.mean((network(params, x)[:, 0] - jnp.arange(3)) ** 2)
        >>> tx = path_sgd(0.1, network, input_shape=(3,), momentum=0.9)
        >>> state, before = tx.init(params), loss(params)
        >>> for _ in range(50):
        ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 0.01 * before)
        True

    References:
        Neyshabur, Salakhutdinov & Srebro, *Path-SGD: path-normalized optimization in deep neural
        networks*, NeurIPS 2015 (arXiv 1506.02617), Algorithm 1.
    """
    require_number_or_schedule("learning_rate", learning_rate)
    require_number_or_schedule("weight_decay", weight_decay)
    require_momentum(momentum, nesterov, accumulator_dtype)
    links: list[optax.GradientTransformation] = [
        scale_by_path(
            apply_fn, input_shape, p, second_term=second_term, extended_range=extended_range
        )
    ]
    if momentum is not None:
        links.append(optax.trace(momentum, nesterov, accumulator_dtype))
    if not (isinstance(weight_decay, (int, float)) and weight_decay == 0):
        weight_decay = checked_schedule("weight_decay", weight_decay)
        links.append(optax.add_decayed_weights(weight_decay))
    learning_rate = checked_schedule("learning_rate", learning_rate)
    links.append(optax.scale_by_learning_rate(learning_rate))
    return optax.with_extra_args_support(optax.chain(*links))
