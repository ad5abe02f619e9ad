"""`scale_by_rdog`: steps without a learning rate, from the distance travelled over the gradients.

The best constant rate of gradient descent is the distance to the minimum over the root of the
summed squares of the gradients. The largest distance r̄ travelled so far stands for the unknown
distance; it starts tiny and grows until it is about right.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fgsgd_jax import linalg
from fgsgd_jax._numbers import require_finite, require_not_negative
from fgsgd_jax.spec import Collection, Groups, drawn_groups, map_leaves, require_collection
from fgsgd_jax.transforms._component_norms import divide, norms_of_groups, sizes
from fgsgd_jax.transforms._finished import require_unfinished
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state
from fgsgd_jax.transforms._travelled import Travelled

DistanceMethod = Literal["rdog", "rdowg", "nrdog"]
InitStep = tuple[Literal["distance", "learning_rate", "heuristic"], float]


class ScaleByRdogState(NamedTuple):
    """The state of RDoG.

    Attributes:
        count: The number of steps taken.
        travelled: The first weights, and r̄ of every group.
        total: √Σ, the root of the summed (weighted) squares of the gradients of every group, by
            path.
        groups: The drawn groups, by path.
        spec: The drawn manifolds, and λ.
    """

    count: jax.Array
    travelled: Travelled
    total: dict[str, jax.Array]
    groups: dict[str, Groups]
    spec: SpecState


def scale_by_rdog(
    spec: Collection,
    method: DistanceMethod = "rdog",
    *,
    init_step: InitStep = ("distance", 1e-4),
    curvature: float = -0.5,
    eps: float = 1e-8,
) -> Link:
    """Multiplies the tangent vectors g of every group by a step size η that needs no tuning.

    With the largest distance r̄ of the group from its first weights so far, the curvature factor
    ζ = √|κ|·r̄/tanh(√|κ|·r̄) for κ < 0, else 1, and w = r̄/√ζ, in the t-th step::

        rdog    Σ = Σ + ‖g‖²         η = w/(√Σ + eps)
        rdowg   Σ = Σ + w²·‖g‖²      η = w²/(√Σ + eps)
        nrdog                        η = w/(√t·‖g‖ + eps)

    Distances are geodesic, except on Stiefel, where the distance has no closed form and the chord
    ‖x − x₀‖ stands for it. Euclidean leaves pass unchanged.

    Args:
        spec: The spec of the parameters.
        method: "rdog", distance over gradients; "rdowg", over weighted gradients, which forgets the
            gradients of the beginning; "nrdog", over the present gradient.
        init_step: As in `optax.contrib.dog`: `("distance", r)` starts with r̄ = r, `("heuristic",
            a)` with r̄ = a·(1 + ‖x₀‖) of every group, and `("learning_rate", η)` takes a first step
            with that η. Until steps have a useful length, r̄ grows by a factor in every step: with
            a steady gradient it takes some 50 steps from 1e-4 and 100 from 1e-6, with "rdowg" 20
            and 50.
        curvature: κ, a lower bound of the sectional curvatures at unit scale. −½ is one for all
            manifolds of this library, 0 for all of them but Stiefel.
        eps: A small constant, in the unit of gradients.

    Returns:
        A transformation whose `update` needs `params`. It takes tangent vectors, so it comes after
        `project_to_tangent`.

    Raises:
        TypeError: If the curvature or `eps` is no number.
        ValueError: If the method or the kind of `init_step` is unknown, or a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]])}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> link = fg.scale_by_rdog(spec, init_step=("distance", 0.01), curvature=0.0)
        >>> gradient = {"w": jnp.array([[0.0], [5.0]])}
        >>> step, _ = link.update(gradient, link.init(params), params)
        >>> step["w"].ravel()  # the first step has the length r̄
        Array([0.  , 0.01], dtype=float32)

    References:
        Dodd, Sharrock & Nemeth, *Learning-rate-free stochastic optimization over Riemannian
        manifolds*, ICML 2024; Ivgi, Hinder & Carmon, *DoG is SGD's best friend*, 2023; Khaled,
        Mishchenko & Jin, *DoWG unleashed*, 2023.
    """
    require_collection(spec)
    _check_arguments(method, init_step)
    require_finite("curvature", curvature)
    require_not_negative("eps", eps)
    kind, value = init_step

    def init_fn(params):
        state = SpecState.of(spec, params)
        travelled = Travelled.of(spec, state, params)
        farthest = {
            path: first + (0 if kind == "learning_rate" else value)
            for path, first in travelled.farthest.items()
        }
        if kind == "heuristic":
            for path, leaf_spec in spec.on_manifolds():
                norms = linalg.norm(leaf_spec.points(travelled.start[path]))
                farthest[path] *= 1 + norms_of_groups(leaf_spec, norms, drawn_groups(leaf_spec))
        return ScaleByRdogState(
            count=jnp.zeros([], jnp.int32),
            travelled=travelled._replace(farthest=farthest),
            total={path: jnp.zeros_like(first) for path, first in farthest.items()},
            groups=spec.drawn_groups(),
            spec=state,
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "distances are measured between weights")
        require_state(state, ScaleByRdogState, spec)
        require_unfinished(updates)
        count = jnp.asarray(optax.safe_increment(state.count))
        farthest, total = dict(state.travelled.farthest), dict(state.total)

        def scaled(path, leaf_spec, g, weight):
            manifold_ids, s, _ = state.spec.leaf(path, leaf_spec, weight)
            drawn = manifold_ids, state.groups.get(path), s
            farthest[path] = state.travelled.at(path, leaf_spec, weight, *drawn)
            w = farthest[path] / jnp.sqrt(curvature_factor(farthest[path], curvature))
            length = sizes(leaf_spec, g, weight, *drawn, moment="group").astype(w.dtype)
            if method == "rdog":
                total[path] = jnp.hypot(total[path], length)
                divisor = (total[path] + eps) / w
            elif method == "rdowg":
                total[path] = jnp.hypot(total[path], w * length)
                divisor = (total[path] + eps) / w**2
            else:
                divisor = (jnp.sqrt(count.astype(w.dtype)) * length + eps) / w
            if kind == "learning_rate":
                divisor = jnp.where(state.count == 0, 1 / value, divisor)
            return divide(leaf_spec, g, weight, divisor, *drawn, moment="group")

        steps = map_leaves(spec, scaled, lambda g, _: g, updates, params)
        travelled = state.travelled._replace(farthest=farthest)
        after = state.spec.after_update()
        return steps, ScaleByRdogState(count, travelled, total, state.groups, after)

    return Link.of(init_fn, update_fn, spec=spec, method=method, init_step=init_step)


def curvature_factor(distance: jax.Array, curvature: float) -> jax.Array:
    """ζ: by how much longer the opposite side of a triangle may be than in flat space."""
    if curvature >= 0:
        return jnp.ones_like(distance)
    angle = (-curvature) ** 0.5 * distance
    positive = angle > 0
    safe = jnp.where(positive, angle, 1)
    return jnp.where(positive, safe / jnp.tanh(safe), 1)


def _check_arguments(method: Any, init_step: Any) -> None:
    if method not in get_args(DistanceMethod):
        names = ", ".join(map(repr, get_args(DistanceMethod)))
        raise ValueError(f"`method` is one of {names}; got {method!r}.")
    kinds = ("distance", "learning_rate", "heuristic")
    pair = isinstance(init_step, (tuple, list)) and len(init_step) == 2
    if not pair or init_step[0] not in kinds or not _is_positive(init_step[1]):
        raise ValueError(
            f"`init_step` is a pair of one of {', '.join(map(repr, kinds))} and a number above 0, "
            f"such as ('distance', 1e-4); got {init_step!r}."
        )


def _is_positive(number: Any) -> bool:
    is_number = isinstance(number, (int, float, np.number)) and not isinstance(number, bool)
    return is_number and 0 < float(number) < float("inf")
