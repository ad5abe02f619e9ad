"""`manifold_muon`: steepest descent in the spectral norm on manifolds, as a chain of links."""

from typing import Any

import optax

from fgsgd_jax._numbers import require_momentum, require_number_or_schedule
from fgsgd_jax.optimizers._euclidean import with_euclidean
from fgsgd_jax.optimizers._resolution import warn_of_short_steps
from fgsgd_jax.spec import Collection
from fgsgd_jax.transforms import (
    Solver,
    project_to_tangent,
    retract_updates,
    scale_by_learning_rate,
    scale_by_manifold_muon,
    trace_on_manifold,
)


def manifold_muon(
    learning_rate: optax.ScalarOrSchedule,
    spec: Collection,
    *,
    momentum: Any = 0.95,
    nesterov: bool = False,
    solver: Solver = "tangent",
    rescale: bool = False,
    euclidean: optax.GradientTransformation | None = None,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Manifold Muon: every singular direction of a step has about the same length.

    This chain::

        optax.chain(
            project_to_tangent(spec),
            trace_on_manifold(spec, momentum),  # left out without momentum
            scale_by_manifold_muon(spec, solver=solver),
            optax.scale_by_learning_rate(learning_rate, spec),
            retract_updates(spec),
        )

    A step has the spectral norm `learning_rate` whatever the gradients, at unit scale: on Stiefel,
    no direction turns by more than arctan(`learning_rate`). Name the axes of attention heads,
    experts and scanned layers by `fg.Component`, and choose `component="matrix"` for convolutions;
    each matrix has a direction of its own.

    Args:
        learning_rate: A number or schedule.
        spec: The spec of the parameters, usually of Stiefel manifolds.
        momentum: The decay of the momentum, or None for none.
        nesterov: Whether to use Nesterov momentum.
        solver: "tangent" or "exact", see `scale_by_manifold_muon`.
        rescale: Whether to multiply steps by √(columns/rows) of a component.
        euclidean: A transformation for Euclidean leaves, such as `optax.adamw(1e-3)`; by default,
            as in `optax.contrib.muon`, Adam with the same rate.
        accumulator_dtype: The dtype of the momentum; by default that of the parameters.

    Returns:
        A transformation whose `update` needs `params` and returns differences, for
        `optax.apply_updates`.

    Raises:
        TypeError: If the rate, the momentum, its dtype or `euclidean` is of the wrong type.
        ValueError: If the solver does not fit; at `init`, if weights are not on their manifolds:
            `project` them first.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (16, 8))}
        >>> spec = fg.collection(params, ("kernel", fg.pom("layer", fg.Stiefel())))
        >>> params = fg.project(params, spec)
        >>> tx = manifold_muon(0.1, spec)
        >>> gradients = {"kernel": jnp.linspace(-1.0, 1.0, 128).reshape(16, 8)}
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> moved = optax.apply_updates(params, updates)
        >>> bool(fg.residual(moved, spec)["kernel"] < 1e-6)
        True

    References:
        Bernstein, *Modular manifolds*, 2025; Su, *Muon on the Stiefel manifold*, 2025.
    """
    require_number_or_schedule("learning_rate", learning_rate)
    require_momentum(momentum, nesterov, accumulator_dtype)
    links = [
        project_to_tangent(spec),
        scale_by_manifold_muon(spec, solver=solver, rescale=rescale),
        scale_by_learning_rate(learning_rate, spec),
        retract_updates(spec),
    ]
    if momentum is not None:
        links.insert(1, trace_on_manifold(spec, momentum, nesterov, accumulator_dtype))
    chain = optax.with_extra_args_support(optax.chain(*links))
    others = optax.adam(learning_rate) if euclidean is None else euclidean
    tx = with_euclidean(chain, spec, others, 0.0, None)
    return warn_of_short_steps(tx, spec, learning_rate)
