"""Optimizers on manifolds: chains one reads in a glance, and a schedule with a guarantee."""

import warnings
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import Collection, Coordinates
from fgsgd_jax.transforms import Normalization, ScalarOrScheduleOrGroup, descend_on_manifolds


def fgsgd(
    learning_rate: optax.ScalarOrSchedule,
    spec: Collection,
    *,
    momentum: Any = None,
    nesterov: bool = False,
    coordinates: Coordinates = "unit",
    rho: ScalarOrScheduleOrGroup = 1.0,
    curvature: ScalarOrScheduleOrGroup = 1.0,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    euclidean: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Fine-grained SGD: SGD on products of manifolds, its step normalized once per group.

    Algorithm 1 of the paper. Up to rounding, and faster, it is this chain, one line a link::

        optax.chain(
            project_to_tangent(spec),  # line 5
            trace_on_manifold(spec, momentum),  # not in the paper; left out without momentum
            scale_by_fgsgd(spec),  # τ, eq. (5) to (7)
            optax.scale_by_learning_rate(learning_rate),
            retract_updates(spec),  # line 7
        )

    The normalizer sees the momentum, so a step is never longer than 0.42 times the learning rate,
    whatever the gradients. Where g is large the step is about r/(2 + g), and momentum makes g
    larger: choose the rate anew when you change the momentum. Euclidean leaves get ordinary SGD
    with the same rate and momentum, or the transformation given as `euclidean`.

    Args:
        learning_rate: A number or schedule. Larger groups take smaller steps at the same rate, so
            choose it anew for every scheme.
        spec: The collection of the parameters.
        momentum: The decay of the momentum, or None for none.
        nesterov: Whether to use Nesterov momentum.
        coordinates: The radius of the manifolds on which steps are taken where the collection has
            a scale s. "unit", the default: τ and the step are those of the unit weights θ = W/s, so
            a rate means the same whatever s is. "scaled": those of the weights themselves, the
            paper's literal reading; where s is small, so is the best rate. Or a number.
        rho: ρ of eq. (5), see `scale_by_fgsgd`.
        curvature: c of eq. (5), see `scale_by_fgsgd`.
        weight_decay: L2 weight decay of Euclidean leaves, added to their gradients. Leaves on
            manifolds never decay: where the norm is fixed it would do nothing (a warning says so).
        weight_decay_mask: An Optax mask of the leaves that decay; by default all Euclidean ones.
            Give `spec.euclidean_mask` to say that this is meant, without a warning.
        euclidean: What Euclidean leaves get instead of SGD, such as `optax.adamw(1e-3)`. Their
            rate, momentum and weight decay are then its own affair.
        accumulator_dtype: The dtype of the momentum; by default that of the parameters.

    Returns:
        A transformation whose `update` needs `params` and returns differences, for
        `optax.apply_updates`.

    Raises:
        TypeError: If the rate, the momentum, the decay or `euclidean` is of another kind.
        ValueError: At `init`, if weights are not on their manifolds: `project` them first.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 8))}
        >>> spec = fg.collection(params)
        >>> params = fg.project(params, spec)
        >>> tx = fg.fgsgd(0.5, spec, momentum=0.9)
        >>> state = tx.init(params)
        >>> loss = lambda params: jnp.sum(params["kernel"][0])
        >>> before = loss(params)
        >>> for _ in range(10):
        ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < before), bool(fg.residual(params, spec)["kernel"] < 1e-6)
        (True, True)

    References:
        Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, Algorithm 1.
    """
    return _descend(
        learning_rate,
        spec,
        normalization="group",
        rho=rho,
        curvature=curvature,
        momentum=momentum,
        nesterov=nesterov,
        coordinates=coordinates,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        euclidean=euclidean,
        accumulator_dtype=accumulator_dtype,
    )


def rsgd(
    learning_rate: optax.ScalarOrSchedule,
    spec: Collection,
    *,
    momentum: Any = None,
    nesterov: bool = False,
    normalize: bool = False,
    coordinates: Coordinates = "unit",
    rho: ScalarOrScheduleOrGroup = 1.0,
    curvature: ScalarOrScheduleOrGroup = 1.0,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    euclidean: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Riemannian SGD: every component for itself, whatever its group.

    The chain of `fgsgd` without its normalizer, or, with `normalize`, with one normalizer per
    component: then it is Submanifold SGD.

    Args:
        learning_rate: A number or schedule.
        spec: The collection of the parameters; its groups are not used.
        momentum: The decay of the momentum, or None for none.
        nesterov: Whether to use Nesterov momentum.
        normalize: Whether to divide the step of every component by its own τ (eq. 7).
        coordinates: As for `fgsgd`.
        rho: ρ of eq. (5), where `normalize` is set.
        curvature: c of eq. (5), where `normalize` is set.
        weight_decay: As for `fgsgd`.
        weight_decay_mask: As for `fgsgd`.
        euclidean: As for `fgsgd`.
        accumulator_dtype: As for `fgsgd`.

    Returns:
        A transformation whose `update` needs `params` and returns differences, for
        `optax.apply_updates`.

    Raises:
        TypeError: If the rate, the momentum, the decay or `euclidean` is of another kind.
        ValueError: At `init`, if weights are not on their manifolds: `project` them first.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 4, 8))}
        >>> spec = fg.collection(params, ("w", fg.pom("kernel", fg.Stiefel())))
        >>> params = fg.project(params, spec)
        >>> tx = fg.rsgd(0.1, spec)
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(jnp.abs(updates["w"]).max() < 1e-5)  # along x itself nothing is tangent
        True

    References:
        Bonnabel, *Stochastic gradient descent on Riemannian manifolds*, 2013; Ozay & Okatani,
        *Optimization on submanifolds of convolution kernels in CNNs*, 2016 (Submanifold SGD).
    """
    return _descend(
        learning_rate,
        spec,
        normalization="component" if normalize else None,
        rho=rho,
        curvature=curvature,
        momentum=momentum,
        nesterov=nesterov,
        coordinates=coordinates,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        euclidean=euclidean,
        accumulator_dtype=accumulator_dtype,
    )


def _descend(
    learning_rate,
    spec: Collection,
    *,
    normalization: Normalization,
    rho,
    curvature,
    momentum,
    nesterov,
    coordinates,
    weight_decay,
    weight_decay_mask,
    euclidean,
    accumulator_dtype,
) -> optax.GradientTransformationExtraArgs:
    """A descent on manifolds, beside one of the Euclidean leaves."""
    for name, number in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if not (_is_number(number) or callable(number)):
            raise TypeError(f"{name} is a number or a schedule, not {number!r}.")
    if not (_is_number(momentum) or momentum is None):
        raise TypeError(f"momentum is a number, or None for none, not {momentum!r}.")
    if not (euclidean is None or (hasattr(euclidean, "init") and hasattr(euclidean, "update"))):
        raise TypeError(
            f"euclidean is a transformation, such as optax.adamw(1e-3), not {euclidean!r}."
        )
    on_manifolds = descend_on_manifolds(
        learning_rate,
        spec,
        decay=momentum,
        nesterov=nesterov,
        accumulator_dtype=accumulator_dtype,
        normalization=normalization,
        coordinates=coordinates,
        rho=rho,
        curvature=curvature,
    )
    if not _is_zero(weight_decay):
        decayed = _decay(weight_decay, weight_decay_mask, spec)
        on_manifolds = optax.with_extra_args_support(optax.chain(decayed, on_manifolds))
    if euclidean is None:
        return on_manifolds
    transforms: dict[Hashable, Any] = {"manifold": on_manifolds, "euclidean": euclidean}
    return optax.with_extra_args_support(optax.partition(transforms, spec.labels))


def _is_number(number) -> bool:
    """Whether something is a number, be it traced or known."""
    return isinstance(number, (int, float, np.number, np.ndarray, jax.Array))


def _is_zero(number) -> bool:
    """Whether a number is known to be 0; an injected hyper-parameter is not known."""
    return isinstance(number, (int, float)) and number == 0


def _decay(weight_decay, mask, spec: Collection):
    """Decay of the Euclidean leaves of a mask, and a warning about the others it asks for."""
    fixed = [path for path, layer in spec.on_manifolds() if layer.fixes_norm]

    def warn(paths, stacklevel):
        some = ", ".join(map(repr, paths[:3])) + (", …" if len(paths) > 3 else "")
        warnings.warn(
            f"weight_decay does nothing where the norm of a weight is fixed, as it is for "
            f"{len(paths)} weight{'s'[: len(paths) > 1]} ({some}); only Euclidean leaves decay. "
            "Give weight_decay_mask=spec.euclidean_mask to say that this is meant.",
            stacklevel=stacklevel,
        )

    if mask is None:
        # An injected hyper-parameter, a traced array, may be 0 for all we know.
        if fixed and not isinstance(weight_decay, jax.Array):
            warn(fixed, stacklevel=5)
        return optax.add_decayed_weights(weight_decay, mask=spec.euclidean_mask)

    def masked(tree):
        asked = mask(tree) if callable(mask) else mask
        covered = [path for path, chosen in leaves_with_paths(asked) if chosen and path in fixed]
        if covered:
            warn(covered, stacklevel=2)
        euclidean = spec.euclidean_mask(tree)
        return jax.tree.map(lambda one, other: bool(one) and other, asked, euclidean)

    return optax.add_decayed_weights(weight_decay, mask=masked)


def robbins_monro(init_value: float, transition_steps: float, power: float = 1.0) -> optax.Schedule:
    """The learning rate r₀/(1 + t/T)^α, under which the convergence theorems hold.

    For ½ < α ≤ 1 it satisfies Σ r_t = ∞ and Σ r_t² < ∞ (eq. 4).

    Args:
        init_value: r₀, the rate at step 0.
        transition_steps: T, the number of steps after which the rate is r₀/2^α.
        power: α.

    Returns:
        A schedule: a function from the step count to the rate.

    Raises:
        ValueError: If α or T is outside its range.

    Example:
        >>> schedule = robbins_monro(0.5, transition_steps=100, power=1.0)
        >>> float(schedule(0)), float(schedule(100))
        (0.5, 0.25)

    References:
        Robbins & Monro, *A stochastic approximation method*, 1951; Ozay, 2019, eq. (4).
    """
    if not 0.5 < power <= 1:
        raise ValueError(
            "robbins_monro needs a power in (1/2, 1], so that its sum diverges and the sum of its "
            f"squares converges, not {power}."
        )
    if not transition_steps > 0:
        raise ValueError(f"robbins_monro needs transition_steps above 0, not {transition_steps}.")

    def schedule(count):
        return init_value / (1 + jnp.asarray(count) / transition_steps) ** power

    return schedule
