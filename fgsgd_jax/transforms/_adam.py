"""`scale_by_riemannian_adam`: momentum over the root of a second moment per component."""

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax import linalg
from fgsgd_jax._numbers import require_decay, require_flag, require_not_negative
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.spec import (
    Collection,
    Groups,
    map_leaves,
    require_collection,
    require_gradients,
)
from fgsgd_jax.transforms._component_norms import Moment, divide, moment_shape, sizes
from fgsgd_jax.transforms._finished import require_unfinished
from fgsgd_jax.transforms._link import (
    Link,
    SpecState,
    require_params,
    require_state,
    working_dtypes,
)
from fgsgd_jax.transforms._momentum import previous_weights


class ScaleByRiemannianAdamState(NamedTuple):
    """The state of Riemannian Adam.

    Attributes:
        count: The number of steps taken.
        mu: The first moment: a tree like the parameters, without Euclidean leaves.
        nu: The root of the second moment √v, by path; squares would overflow in float32.
        nu_max: The largest √v so far, by path; empty without `amsgrad`.
        groups: The drawn groups, by path, for a moment per group.
        previous: As in `TraceOnManifoldState`, for manifolds with a `transport` of their own.
        euclidean: The state of Optax's Adam, for Euclidean leaves.
        spec: The drawn manifolds, and λ.
    """

    count: jax.Array
    mu: Any
    nu: dict[str, jax.Array]
    nu_max: dict[str, jax.Array]
    groups: dict[str, Groups]
    previous: dict[str, jax.Array]
    euclidean: Any
    spec: SpecState


def scale_by_riemannian_adam(
    spec: Collection,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    moment: Moment = "component",
    amsgrad: bool = False,
) -> Link:
    """Rescales tangent vectors as Adam does, with one second moment for each component.

    For the tangent vector g of a component, in the t-th step::

        m = b1·P(m) + (1 − b1)·g          P: transport to the present weight, by default projection
        v = b2·v + (1 − b2)·‖g‖²          one number, so that m/√v is tangent
        d = m/(1 − b1ᵗ) / (√(v/(1 − b2ᵗ)) + eps)

    So in the first step every component has ‖d‖ = 1, whatever the size of its gradient. Euclidean
    leaves get `optax.scale_by_adam` (with `amsgrad`, `optax.scale_by_amsgrad`) of the same
    constants.

    Args:
        spec: The spec of the parameters.
        b1: The decay of the first moment.
        b2: The decay of the second moment.
        eps: A small constant outside the root, in the unit of gradients.
        moment: What has a second moment of its own: every "component", every "group" of the spec
            (its components then keep the relative lengths of their gradients), or every "entry" as
            in Adam, after which the result is projected on the tangent space again.
        amsgrad: Whether to use the largest v so far in place of v.

    Returns:
        A transformation whose `update` needs `params`. It takes tangent vectors, so it comes after
        `project_to_tangent`.

    Raises:
        TypeError: If a constant is no number.
        ValueError: If `moment` is unknown, a decay is not from 0 to below 1, or `eps` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]]).reshape(2, 1, 1, 1)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> link = scale_by_riemannian_adam(spec)
        >>> gradient = {"w": jnp.array([0.0, 100.0]).reshape(2, 1, 1, 1)}
        >>> step, _ = link.update(gradient, link.init(params), params)
        >>> step["w"].ravel().round(4)
        Array([0., 1.], dtype=float32)

    References:
        Bécigneul & Ganea, *Riemannian adaptive optimization methods*, 2019; Kingma & Ba, *Adam*,
        2015; Reddi, Kale & Kumar, *On the convergence of Adam and beyond*, 2018 (AMSGrad).
    """
    require_collection(spec)
    if moment not in get_args(Moment):
        raise ValueError(
            f"`moment` is one of {', '.join(map(repr, get_args(Moment)))}; got {moment!r}."
        )
    for name, decay in (("b1", b1), ("b2", b2)):
        require_decay(name, decay)
    require_not_negative("eps", eps)
    require_flag("amsgrad", amsgrad)
    adam = optax.scale_by_amsgrad if amsgrad else optax.scale_by_adam
    on_euclidean = optax.masked(adam(b1, b2, eps), spec.euclidean_mask)

    def init_fn(params):
        def zeros(path, leaf_spec, weight):
            del path, leaf_spec
            return jnp.zeros(weight.shape, weight.dtype)

        state = SpecState.of(spec, params)
        dtypes = working_dtypes(params)
        roots = {
            path: jnp.zeros(moment_shape(leaf_spec, moment), dtypes[path])
            for path, leaf_spec in spec.on_manifolds()
        }
        return ScaleByRiemannianAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=map_leaves(spec, zeros, lambda _: optax.MaskedNode(), params),
            nu=roots,
            nu_max=jax.tree.map(jnp.copy, roots) if amsgrad else {},
            groups=spec.drawn_groups() if moment == "group" else {},
            previous=previous_weights(spec, state, params),
            euclidean=on_euclidean.init(params),
            spec=state,
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "momentum is carried to the present weights")
        require_unfinished(updates)
        require_gradients(spec, updates, params, of_all=True)
        require_moments(state, spec, moment, amsgrad)
        count = jnp.asarray(optax.safe_increment(state.count))
        old = dict(leaves_with_paths(state.mu))
        mu, nu, nu_max = {}, dict(state.nu), dict(state.nu_max)

        def direction(path, leaf_spec, g, weight):
            manifold_ids, s, _ = state.spec.leaf(path, leaf_spec, weight)
            drawn = (manifold_ids, state.groups.get(path), s)
            previous = state.previous.get(path)
            carried = leaf_spec.transport(weight, old[path], previous, manifold_ids, s)
            mu[path] = (b1 * carried + (1 - b1) * g).astype(carried.dtype)
            size = sizes(leaf_spec, g, weight, *drawn, moment=moment)
            nu[path] = decayed_norm(b2, nu[path], size)
            root = nu[path]
            if amsgrad:
                root = nu_max[path] = jnp.maximum(nu_max[path], root)
            divisor = root / jnp.sqrt(1 - b2**count) + eps
            step = (mu[path] / (1 - b1**count)).astype(g.dtype)
            return divide(leaf_spec, step, weight, divisor, *drawn, moment=moment)

        updates, euclidean = on_euclidean.update(updates, state.euclidean, params)
        steps = map_leaves(spec, direction, lambda step, _: step, updates, params)
        new_mu = map_leaves(spec, lambda path, *_: mu[path], lambda leaf: leaf, state.mu)
        previous = previous_weights(spec, state.spec, params)
        after = state.spec.after_update()
        return steps, ScaleByRiemannianAdamState(
            count, new_mu, nu, nu_max, state.groups, previous, euclidean, after
        )

    return Link.of(
        init_fn,
        update_fn,
        spec=spec,
        b1=b1,
        b2=b2,
        eps=eps,
        moment=moment,
        amsgrad=amsgrad,
        on_euclidean=on_euclidean,
    )


def require_moments(state: Any, spec: Collection, moment: Moment, amsgrad: bool) -> None:
    """Raises unless a state is one of Riemannian Adam, of this spec and with these second moments.

    Raises:
        TypeError: If the state is of another class.
        ValueError: If it was made for another spec, or other arguments `moment` or `amsgrad`.
    """
    require_state(state, ScaleByRiemannianAdamState, spec)
    others = [
        path
        for path, leaf_spec in spec.on_manifolds()
        if state.nu[path].shape != moment_shape(leaf_spec, moment)
    ]
    if others or bool(state.nu_max) != amsgrad:
        other = f"moment={moment!r}" if others else f"amsgrad={amsgrad}"
        raise ValueError(
            "This state was made by a Riemannian Adam with other arguments than this one, which "
            f"has {other}. Give it what its own init returned."
        )


def decayed_norm(decay, root: jax.Array, size: jax.Array) -> jax.Array:
    """√(d·v + (1 − d)·‖g‖²) from √v and ‖g‖, without their squares, in the dtype of √v."""
    scale = linalg.divisor(jnp.maximum(root, size))
    squares = decay * (root / scale) ** 2 + (1 - decay) * (size / scale) ** 2
    return (scale * jnp.sqrt(squares)).astype(root.dtype)
