"""`scale_by_path` and `path_sgd`: steps that know nothing of how the units are scaled."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for its own sentence

from fgsgd_jax import _linalg
from fgsgd_jax.pathsgd import _extended_range
from fgsgd_jax.pathsgd._extended_range import Mass
from fgsgd_jax.pathsgd._interpreter import Network, is_weight, read
from fgsgd_jax.pathsgd._norm import check, network_scales

# A weight of so many entries takes longer to copy than the others to wait for its last reader.
COPIED = 1 << 20


def scale_by_path(
    apply_fn: Callable,
    input_shape: Sequence[int],
    p: Any = 2,
    *,
    second_term: bool = False,
    extended_range: bool | None = None,
    scales: Callable | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Divides every gradient by κ, what the path norm holds of its weight (see `path_scales`).

    What follows may be anything that treats a step as it comes: momentum, a learning rate,
    decoupled weight decay. Then a step commutes with every rescaling of hidden units (their
    incoming weights and bias times c > 0, their outgoing weights over c). Adam's scaling, L2 decay
    and clipping by a global norm do not know about rescalings and lose that.

    A weight with κ = 0 is on no living path. Its update is 0, without a small number in the
    denominator, which would break the invariance; a gradient of NaN stays NaN. The cost of a step
    is that of one more example in the batch, and of reading the weights.

    Paths run through all layers: inside `optax.partition` or `optax.masked` this raises an error.
    Under `optax.inject_hyperparams`, `apply_fn` has to be named among its `static_args`, for Optax
    would take it for a schedule; name `p`, too, for the fastest code.

    Args:
        apply_fn: The network, `apply_fn(params, x)` of a batch x.
        input_shape: The shape of one example, without the batch.
        p: The power of the path norm, at least 1.
        second_term: Whether to add κ⁽²⁾ for weights that a path can pass twice.
        extended_range: Whether masses get exponents of their own, so that no rescaling matters,
            for about twice the cost in dense layers. Without, the mass of each unit has to be a
            float: for p = 2 and float32, units scaled by 1e±18, wherever they meet (of a weight
            used more than once, |w|^p has to be a float, too). Beyond, or if all paths together are
            more than a float, there are updates of NaN. By default only for p above 2.
        scales: A function that gives other κ: the place for the data-dependent ones of DDP-SGD
            (arXiv 1511.06747), which itself is not part of this library. Called as
            `scales(params, **extra_args)` with the extra arguments of `update`, it returns a tree
            like `params`. Then `apply_fn`, `p` and `second_term` have no effect.

    Returns:
        A transformation without a state, whose `update` needs `params`.

    Raises:
        ValueError: At `init`, if the network is not one that paths describe.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def network(params, x):
        ...     return jnp.maximum(x @ params["in"], 0) @ params["out"]
        >>> params = {"in": jnp.array([[1.0, -2.0]]), "out": jnp.array([[3.0], [4.0]])}
        >>> link = scale_by_path(network, (1,))
        >>> scaled, _ = link.update(jax.tree.map(jnp.ones_like, params), link.init(params), params)
        >>> scaled["out"].ravel()  # over 1² and 2²
        Array([1.  , 0.25], dtype=float32)

    References:
        Neyshabur, Salakhutdinov & Srebro, 2015 (arXiv 1506.02617), section 4 and Theorem 5.1.
    """
    wide = not _at_most_two(p) if extended_range is None else extended_range

    def init_fn(params):
        check(apply_fn, p, input_shape, params)
        # Optax asks for a state of placeholders, too, which have no leaves.
        if scales is None and jax.tree.leaves(params):
            # Says at once what is wrong; only shapes are computed.
            jax.eval_shape(lambda params: divided(params, params), params)
        return optax.EmptyState()

    @jax.jit  # traced once, also where `update` is not under a jit
    def divided(updates, params):
        network = read(apply_fn, params, input_shape)
        if not (second_term or wide):
            return _plainly_divided(network, p, updates, params)
        masses = network_scales(network, p, second_term=second_term)
        return _map_weights(_extended_range.divided, updates, params, masses)

    def update_fn(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(f"{NO_PARAMS_MSG} The paths run over the present weights.")
        check(apply_fn, p, input_shape, (params, updates))
        if scales is None:
            return divided(updates, params), state
        pairs = zip(
            jax.tree.leaves(params), jax.tree.leaves(scales(params, **extra_args)), strict=True
        )
        masses = [Mass(k, jnp.zeros(k.shape, jnp.int32)) for leaf, k in pairs if is_weight(leaf)]
        return _map_weights(_extended_range.divided, updates, params, masses), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _plainly_divided(network: Network, p, updates, params):
    """The updates over κ, by a pass on plain floats."""

    def total(taps, scales):
        masses, kernels = network.kernels(p, taps, scales)
        mass = network.total(masses, p, kernels).mantissa
        return mass, mass

    zeros = [jnp.zeros_like(weight) for weight in network.weights]
    (through, scales), whole = jax.grad(total, (0, 1), has_aux=True)(zeros, zeros)
    # Where paths are too many or too large for floats: rather no number than a wrong one.
    known = jnp.isfinite(whole)
    if any(weight.size >= COPIED for weight in network.weights):
        # No weight changes before all gradients and scales are there, which read it.
        readers = (leaf for leaf in jax.tree.leaves((updates, through)) if leaf.size)
        known &= _linalg.true_after(_linalg.done(*readers))
    known = jnp.where(known, 1, jnp.nan).astype(whole.dtype)

    def divide(update, kappa):
        derivative, scale = kappa
        return _extended_range.divided_plainly(update, derivative, scale, p) * known

    return _map_weights(divide, updates, params, list(zip(through, scales, strict=True)))


def _at_most_two(p) -> bool:
    """Whether p is known to be at most 2; an injected hyper-parameter is not known."""
    return isinstance(p, (int, float)) and p <= 2


def _map_weights(divide: Callable, updates, params, scales: list):
    """The updates of weights divided by their scales, in their own dtypes."""
    leaves, structure = jax.tree.flatten(updates)
    weights = jax.tree.leaves(params)
    if [jnp.shape(leaf) for leaf in leaves] != [jnp.shape(weight) for weight in weights]:
        raise ValueError(
            "The updates and params given to path scaling have leaves of different shapes; give "
            "the gradient by exactly these params."
        )
    places = [index for index, weight in enumerate(weights) if is_weight(weight)]
    for index, scale in zip(places, scales, strict=True):
        wide = leaves[index].astype(jax.tree.leaves(scale)[0].dtype)
        leaves[index] = divide(wide, scale).astype(leaves[index].dtype)
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
    """Path-SGD: steepest descent where distance is measured by paths instead of weights.

    `w_e ← w_e − (η/κ_e)·∂L/∂w_e`, with κ of `path_scales`, computed anew at each step. Two networks
    that compute the same function and differ by a rescaling of their units stay rescalings of each
    other. The chain::

        optax.chain(
            scale_by_path(apply_fn, input_shape, p),
            optax.trace(momentum),  # left out without momentum
            optax.add_decayed_weights(weight_decay),  # decoupled; left out if it is 0
            optax.scale_by_learning_rate(learning_rate),
        )

    Args:
        learning_rate: A number or schedule. κ is of the order of the squared weights of the other
            layers, so rates are not those of SGD: search over powers of ten.
        apply_fn: The network, `apply_fn(params, x)` of a batch x; see `path_norm` for what it may
            do.
        input_shape: The shape of one example, without the batch.
        p: The power of the path norm, at least 1.
        momentum: The decay of the momentum, or None for none.
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Decoupled weight decay: the rate times this is what a weight loses of itself.
        accumulator_dtype: The dtype of the momentum; by default that of the parameters.
        second_term: Whether to add κ⁽²⁾ for weights that a path can pass twice.
        extended_range: As for `scale_by_path`.

    Returns:
        A transformation whose `update` needs `params`. It has to be given the whole network; see
        `scale_by_path`, also for `optax.inject_hyperparams`.

    Raises:
        ValueError: At `init`, if the network is not one that paths describe.

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
    links: list[optax.GradientTransformation] = [
        scale_by_path(
            apply_fn, input_shape, p, second_term=second_term, extended_range=extended_range
        )
    ]
    if momentum is not None:
        links.append(optax.trace(momentum, nesterov, accumulator_dtype))
    if not (isinstance(weight_decay, (int, float)) and weight_decay == 0):
        links.append(optax.add_decayed_weights(weight_decay))
    links.append(optax.scale_by_learning_rate(learning_rate))
    return optax.with_extra_args_support(optax.chain(*links))
