"""`riemannian_adam`: Adam on manifolds, as a chain of links."""

from typing import Any

import optax

from fgsgd_jax._numbers import require_number_or_schedule
from fgsgd_jax.optimizers._euclidean import with_euclidean
from fgsgd_jax.optimizers._resolution import warn_of_short_steps
from fgsgd_jax.spec import Collection, Coordinates
from fgsgd_jax.transforms import (
    Moment,
    chain_adam_links,
    project_to_tangent,
    retract_updates,
    scale_by_learning_rate,
    scale_by_riemannian_adam,
)


def riemannian_adam(
    learning_rate: optax.ScalarOrSchedule,
    spec: Collection,
    *,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    moment: Moment = "component",
    amsgrad: bool = False,
    coordinates: Coordinates = "unit",
    euclidean: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Riemannian Adam: Adam whose moments belong to components, not to entries.

    It equals this chain up to rounding, and is faster except with `moment="entry"`::

        optax.chain(
            project_to_tangent(spec),
            scale_by_riemannian_adam(spec, b1, b2, eps),
            optax.scale_by_learning_rate(learning_rate, spec),
            retract_updates(spec),
        )

    In the first step every component takes a step of length `learning_rate`, whatever its gradient.
    The weights of a component share one divisor, so a step is tangent and does not depend on the
    basis in which the component is written.

    Args:
        learning_rate: A number or schedule: about the length of a step of a unit component.
        spec: The spec of the parameters.
        b1: The decay of the first moment.
        b2: The decay of the second moment.
        eps: A small constant, in the unit of gradients.
        moment: What has a second moment of its own: every "component", "group" or "entry"; see
            `scale_by_riemannian_adam`.
        amsgrad: Whether second moments may not decrease.
        coordinates: As for `fgsgd`.
        euclidean: A transformation for Euclidean leaves, such as `optax.adamw(1e-3)`; by default
            Optax's Adam with the same rate and constants. For weight decay of Euclidean leaves,
            give `optax.adamw`; on manifolds that fix the norm it would do nothing.

    Returns:
        A transformation whose `update` needs `params` and returns differences, for
        `optax.apply_updates`.

    Raises:
        TypeError: If the rate or `euclidean` is of the wrong type.
        ValueError: If `moment` is unknown; at `init`, if weights are not on their manifolds:
            `project` them first.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 8))}
        >>> spec = fg.collection(params, ("kernel", fg.pom("PO", fg.Sphere())))
        >>> params = fg.project(params, spec)
        >>> tx = riemannian_adam(0.1, spec)
        >>> gradients = {"kernel": jnp.ones((3, 3, 4, 8))}
        >>> updates, state = tx.update(gradients, tx.init(params), params)
        >>> moved = optax.apply_updates(params, updates)
        >>> angles = fg.Sphere().dist(params["kernel"], moved["kernel"])
        >>> bool(jnp.allclose(angles, jnp.arctan(0.1)))  # the angle of a tangent step of 0.1
        True

    References:
        Bécigneul & Ganea, *Riemannian adaptive optimization methods*, 2019.
    """
    require_number_or_schedule("learning_rate", learning_rate)
    links = chain_adam_links(
        project_to_tangent(spec, coordinates=coordinates),
        scale_by_riemannian_adam(spec, b1, b2, eps, moment=moment, amsgrad=amsgrad),
        scale_by_learning_rate(learning_rate, spec),
        retract_updates(spec, coordinates=coordinates),
    )
    tx = with_euclidean(links, spec, euclidean, 0.0, None)
    return warn_of_short_steps(tx, spec, learning_rate)
