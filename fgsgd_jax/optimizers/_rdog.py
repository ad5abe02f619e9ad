"""`rdog`: SGD on manifolds without a learning rate, as a chain of links."""

import optax

from fgsgd_jax._numbers import require_number_or_schedule
from fgsgd_jax.optimizers._euclidean import with_euclidean
from fgsgd_jax.spec import Collection
from fgsgd_jax.transforms import (
    DistanceMethod,
    InitStep,
    project_to_tangent,
    retract_updates,
    scale_by_learning_rate,
    scale_by_rdog,
)


def rdog(
    spec: Collection,
    *,
    method: DistanceMethod = "rdog",
    init_step: InitStep = ("distance", 1e-4),
    curvature: float = -0.5,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    euclidean: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Distance over gradients on manifolds: SGD whose step size needs no tuning.

    This chain, with a step size for every group::

        optax.chain(
            project_to_tangent(spec),
            scale_by_rdog(spec, method, init_step=init_step),
            optax.scale_by_learning_rate(learning_rate),
            retract_updates(spec),
        )

    Its authors recommend the average of the weights, `average_on_manifolds`, over the last ones.

    Args:
        spec: The spec of the parameters.
        method: "rdog", "rdowg" or "nrdog", see `scale_by_rdog`.
        init_step: The first step, see `scale_by_rdog`.
        curvature: A lower bound of the sectional curvatures, see `scale_by_rdog`.
        learning_rate: A factor of all steps, 1 by default, such as a schedule that falls to 0.
        euclidean: A transformation for Euclidean leaves; by default `optax.contrib.dog` with the
            same factor and first step.

    Returns:
        A transformation whose `update` needs `params` and returns differences, for
        `optax.apply_updates`.

    Raises:
        TypeError: If the factor or `euclidean` is of the wrong type.
        ValueError: If the method or the first step is unknown; at `init`, if weights are not on
            their manifolds: `project` them first.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 8))}
        >>> spec = fg.collection(params, ("kernel", fg.pom("PO", fg.Sphere())))
        >>> params = fg.project(params, spec)
        >>> tx = rdog(spec, method="rdowg")
        >>> state, update = tx.init(params), jax.jit(tx.update)
        >>> loss = lambda params: jnp.sum(params["kernel"][0])
        >>> for _ in range(40):
        ...     updates, state = update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> round(float(loss(params)), 1)  # the minimum is −32·√3
        -55.4

    References:
        Dodd, Sharrock & Nemeth, *Learning-rate-free stochastic optimization over Riemannian
        manifolds*, ICML 2024.
    """
    require_number_or_schedule("learning_rate", learning_rate)
    links = optax.chain(
        project_to_tangent(spec),
        scale_by_rdog(spec, method, init_step=init_step, curvature=curvature),
        scale_by_learning_rate(learning_rate, spec),
        retract_updates(spec),
    )
    others = optax.contrib.dog(learning_rate, init_step) if euclidean is None else euclidean
    return with_euclidean(optax.with_extra_args_support(links), spec, others, 0.0, None)
