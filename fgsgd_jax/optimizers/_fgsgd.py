"""`fgsgd` and `rsgd`: SGD on manifolds, as chains of links."""

from typing import Any, Literal

import numpy as np
import optax

from fgsgd_jax._numbers import require_flag, require_momentum, require_number_or_schedule
from fgsgd_jax.optimizers._euclidean import euclidean_share, with_euclidean
from fgsgd_jax.optimizers._resolution import warn_of_short_steps
from fgsgd_jax.spec import Collection, Coordinates
from fgsgd_jax.transforms import (
    Link,
    Rho,
    ScalarOrScheduleOrGroup,
    chain_links,
    project_to_tangent,
    retract_updates,
    scale_by_fgsgd,
    scale_by_learning_rate,
    trace_on_manifold,
    with_master_weights,
)

LONGEST_STEP = 2**0.5 - 1  # max over g of g/τ(g) with eq. (7): no step is longer than this · rate


def fgsgd(
    learning_rate: optax.ScalarOrSchedule,
    spec: Collection,
    *,
    momentum: Any = None,
    nesterov: bool = False,
    coordinates: Coordinates = "unit",
    rho: Rho = 1.0,
    curvature: ScalarOrScheduleOrGroup = 1.0,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    euclidean: optax.GradientTransformation | Literal["sgd"] | None = None,
    accumulator_dtype: Any = None,
    master_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Fine-grained SGD: SGD on products of manifolds, with a step normalized once per group.

    Algorithm 1 of the paper. On manifolds it equals this chain up to rounding, and is faster::

        optax.chain(
            project_to_tangent(spec),  # line 5
            trace_on_manifold(spec, momentum),  # not in the paper; left out without momentum
            scale_by_fgsgd(spec),  # line 6: τ, eq. (5) to (7)
            optax.scale_by_learning_rate(learning_rate),
            retract_updates(spec),  # line 7
        )

    The normalizer is applied to the momentum, so a step is never longer than 0.42 times the
    learning rate, whatever the gradients. Where the norm g of a group is large, its step is about
    r/(2 + g), and momentum makes g larger: tune the rate again when you change the momentum.
    Euclidean leaves get ordinary SGD with the same momentum and a twentieth of the rate, since τ
    does not limit their steps, or what is given as `euclidean`.

    Args:
        learning_rate: A number or schedule. Begin with 0.3, or 0.1 with momentum 0.9; slices that
            normalization follows like 3 to 10 times as much. Larger groups take smaller steps at
            the same rate, so tune it for each scheme separately. It must not be negative: to
            ascend, put `optax.scale(-1.0)` first in a chain. Inside a jitted function, where the
            value of a schedule or of an injected rate is unknown, a negative one is not found.
        spec: The spec of the parameters.
        momentum: The decay of the momentum, from 0 to below 1, or None for none.
        nesterov: Whether to use Nesterov momentum.
        coordinates: The radius of the manifolds on which steps are taken, if the spec has a scale
            s. "unit", the default: τ and the step are computed for the unit weights θ = W/s, so a
            rate means the same for every s. "scaled": for the weights themselves, as in the paper;
            where s is small, so is the best rate. Or a number.
        rho: ρ of eq. (5), see `scale_by_fgsgd`. "travelled", the distance travelled so far, is
            slower: the links then run one after another.
        curvature: c of eq. (5), see `scale_by_fgsgd`.
        weight_decay: L2 weight decay of Euclidean leaves, added to their gradients. Leaves on
            manifolds never decay: where the norm is fixed it would do nothing (a warning says so if
            no leaf is Euclidean).
        weight_decay_mask: An Optax mask of the leaves that decay; by default all Euclidean ones.
            Without `weight_decay` it has no effect. A warning says if it covers leaves whose norm
            is fixed.
        euclidean: A transformation for Euclidean leaves, such as `optax.adamw(1e-3)`, with a rate,
            momentum and weight decay of its own; or "sgd" for SGD with the rate as it is.
        accumulator_dtype: The dtype of the momentum, which it needs; by default that of the
            parameters.
        master_dtype: A dtype, such as "float32", in which the state keeps weights of shorter
            dtypes, see `with_master_weights`. Without it, steps below the resolution of bfloat16 or
            float16 are rounded away; `init` warns where the rate is a number and no step of
            `fgsgd` reaches it.

    Returns:
        A transformation whose `update` needs `params` and returns differences, for
        `optax.apply_updates`.

    Raises:
        TypeError: If the rate, momentum, decay, a dtype or `euclidean` is of the wrong type.
        ValueError: If a number is outside its range, or `weight_decay` is given beside a
            transformation for Euclidean leaves. At `init`, if weights are not on their manifolds:
            `project` them first. At `update`, outside of jitted functions, if a schedule or
            `optax.inject_hyperparams` gives a negative rate.

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
    links = chain_links(
        project_to_tangent(spec, coordinates=coordinates),  # line 5
        _momentum(spec, momentum, nesterov, accumulator_dtype),
        scale_by_fgsgd(spec, rho=rho, curvature=curvature),  # line 6
        _rate(learning_rate, spec, euclidean),
        retract_updates(spec, coordinates=coordinates),  # line 7
    )
    tx = with_euclidean(links, spec, euclidean, weight_decay, weight_decay_mask)
    if master_dtype is not None:
        return with_master_weights(tx, spec, master_dtype)
    if not isinstance(rho, (int, float, np.number)) or rho < 1:  # steps have another bound
        return tx
    return warn_of_short_steps(
        tx, spec, learning_rate, longest=LONGEST_STEP, remedy="Give master_dtype='float32'"
    )


def rsgd(
    learning_rate: optax.ScalarOrSchedule,
    spec: Collection,
    *,
    momentum: Any = None,
    nesterov: bool = False,
    normalize: bool = False,
    coordinates: Coordinates = "unit",
    rho: Rho = 1.0,
    curvature: ScalarOrScheduleOrGroup = 1.0,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    euclidean: optax.GradientTransformation | Literal["sgd"] | None = None,
    accumulator_dtype: Any = None,
    master_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Riemannian SGD: every component takes a step of its own, whatever its group.

    It differs from `fgsgd` in its normalizer only: it has none, or, with `normalize`, one per
    component instead of one per group, which is Submanifold SGD.

    Args:
        learning_rate: A number or schedule.
        spec: The spec of the parameters; its groups are not used.
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
        master_dtype: As for `fgsgd`, without the warning: no τ bounds the steps.

    Returns:
        A transformation whose `update` needs `params` and returns differences, for
        `optax.apply_updates`.

    Raises:
        TypeError: If the rate, momentum, decay, a dtype or `euclidean` is of the wrong type.
        ValueError: If a number is outside its range, or `weight_decay` is given beside a
            transformation for Euclidean leaves. At `init`, if weights are not on their manifolds:
            `project` them first.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"w": jax.random.normal(jax.random.key(0), (3, 3, 4, 8))}
        >>> spec = fg.collection(params, ("w", fg.pom("kernel", fg.Stiefel())))
        >>> params = fg.project(params, spec)
        >>> tx = fg.rsgd(0.1, spec)
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> bool(jnp.abs(updates["w"]).max() < 1e-5)  # the gradient x has no tangent part
        True

        Without a network: two principal components, an orthonormal matrix of largest variance.

        >>> import numpy as np
        >>> data = np.random.default_rng(0).normal(size=(300, 5)) * [3.0, 2.0, 1.0, 0.5, 0.5]
        >>> covariance = jnp.asarray(data.T @ data / 300)
        >>> loss = lambda params: -jnp.trace(params["w"].T @ covariance @ params["w"])
        >>> params = {"w": jax.random.normal(jax.random.key(0), (5, 2))}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Stiefel())))
        >>> params, tx = fg.project(params, spec), fg.rsgd(0.05, spec)
        >>> state, update = tx.init(params), jax.jit(tx.update)
        >>> for _ in range(100):
        ...     updates, state = update(jax.grad(loss)(params), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> largest = np.linalg.eigvalsh(covariance)[-2:].sum()
        >>> bool(abs(loss(params) + largest) < 1e-4)
        True

    References:
        Bonnabel, *Stochastic gradient descent on Riemannian manifolds*, 2013; Ozay & Okatani,
        *Optimization on submanifolds of convolution kernels in CNNs*, 2016 (Submanifold SGD).
    """
    require_flag("normalize", normalize)
    links = chain_links(
        project_to_tangent(spec, coordinates=coordinates),
        _momentum(spec, momentum, nesterov, accumulator_dtype),
        scale_by_fgsgd(spec, rho=rho, curvature=curvature, per_component=True)
        if normalize
        else None,
        _rate(learning_rate, spec, euclidean),
        retract_updates(spec, coordinates=coordinates),
    )
    tx = with_euclidean(links, spec, euclidean, weight_decay, weight_decay_mask)
    return tx if master_dtype is None else with_master_weights(tx, spec, master_dtype)


def _momentum(spec: Collection, momentum, nesterov, accumulator_dtype) -> Link | None:
    require_momentum(momentum, nesterov, accumulator_dtype)
    return (
        None if momentum is None else trace_on_manifold(spec, momentum, nesterov, accumulator_dtype)
    )


def _rate(learning_rate, spec: Collection, euclidean) -> Link:
    require_number_or_schedule("learning_rate", learning_rate)
    return scale_by_learning_rate(learning_rate, spec, euclidean_share(euclidean))
