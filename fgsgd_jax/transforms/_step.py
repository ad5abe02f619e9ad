"""`scale_by_fgsgd`: the step-size normalizer of FG-SGD, one number per group.

The Riemannian gradient of a whole group has the norm g = (Σ_components ‖grad‖²)^½ (Theorem 1, eq.
6). With ρ, the distance to a minimum, and c, a bound of the curvature, the step is divided by

    τ = max{1, Γ}^½,   Γ = g²·max{(2ρ + g)², 1 + c(ρ + g)}            (eq. 5)

With ρ = 1, for every c ≤ 3 + g, this is τ = max(1, g(2 + g)) (eq. 7). Then a step of rate r has
length r·g for g ≤ √2 − 1 and r/(2 + g) beyond: never more than 0.42·r, and shorter for larger
gradients. Larger groups have larger g, so they take smaller steps at the same rate: choose the rate
for each scheme separately.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax._numbers import require_flag
from fgsgd_jax.spec import Collection, Groups, map_leaves, require_collection, require_weights
from fgsgd_jax.transforms._finished import require_unfinished
from fgsgd_jax.transforms._guards import require_tangent_vectors
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state
from fgsgd_jax.transforms._per_group import (
    Rho,
    ScalarOrScheduleOrGroup,
    checked_curvature,
    checked_rho,
    group_of,
    is_travelled,
    value_at,
)
from fgsgd_jax.transforms._travelled import Travelled


class ScaleByFgsgdState(NamedTuple):
    """The state of the normalizer.

    Attributes:
        count: The number of steps taken, for schedules.
        groups: The drawn groups, by path, of weights under PIO.
        spec: The fingerprint of the spec; where a manifold has an `inner` of its own, or ρ is the
            distance travelled, the drawn manifolds and λ as well.
        travelled: The distances travelled, if ρ is one.
    """

    count: jax.Array
    groups: dict[str, Groups]
    spec: SpecState
    travelled: Travelled = Travelled({}, {})


def scale_by_fgsgd(
    spec: Collection,
    *,
    rho: Rho = 1.0,
    curvature: ScalarOrScheduleOrGroup = 1.0,
    per_component: bool = False,
) -> Link:
    """Divides the step of every group by τ (eq. 5), one number per group.

    Euclidean leaves pass unchanged: they are in no group. (Components placed on `Euclidean()`
    inside a group count like any other.) A NaN or infinite entry of a vector makes its group NaN;
    norms too large for the dtype give steps of 0.

    Args:
        spec: The spec of the parameters.
        rho: ρ, the distance to a minimum or a bound of it: a number, a schedule, or a function of
            the group marked by `per_group`. 1 gives eq. (7). "travelled" estimates it as the
            largest distance of the group from its first weights so far, measured as in
            `scale_by_rdog`: ρ grows from 0, and steps are longer than with 1 until it is 1.
        curvature: c, an upper bound of the sectional curvature of the groups, in the same forms.
            At unit scale 1 bounds all manifolds of this library.
        per_component: Whether every component is its own group, whatever the scheme.

    Returns:
        A transformation that takes tangent vectors, so it comes after `project_to_tangent`.

    Raises:
        TypeError: If ρ or c is of another form.
        ValueError: If a number is not finite, or ρ is negative. At `update`, where values and
            `params` are known, which they are not inside a jitted function, if a vector is not
            tangent.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]]).reshape(2, 1, 1, 1)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> link = scale_by_fgsgd(spec)
        >>> step, _ = link.update(
        ...     {"w": jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1)}, link.init(params)
        ... )
        >>> step["w"].ravel()  # g = 2, so τ = 2·(2 + 2) = 8
        Array([0.  , 0.25], dtype=float32)

    References:
        Ozay, 2019, Theorem 1 (eq. 5, 6) and Corollary 2 (eq. 7), with c for the √|κ| of Bonnabel,
        *Stochastic gradient descent on Riemannian manifolds*, 2013.
    """
    require_collection(spec)
    require_flag("per_component", per_component)
    rho, curvature = checked_rho(rho), checked_curvature(curvature)
    travels, per = is_travelled(rho), "component" if per_component else "group"
    needs_weights = travels or any(
        leaf_spec.overrides(verb)
        for _, leaf_spec in spec.on_manifolds()
        for verb in ("inner", "norm")
    )

    def init_fn(params):
        require_weights(params, spec, empty=True, shapes=True)
        groups = {} if per_component else spec.drawn_groups()
        of_spec = SpecState.of(spec, params) if needs_weights else SpecState.without_arrays(spec)
        state = ScaleByFgsgdState(jnp.zeros([], jnp.int32), groups, of_spec)
        if travels:
            state = state._replace(travelled=Travelled.of(spec, of_spec, params, per))
        return state

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_state(state, ScaleByFgsgdState, spec)
        require_unfinished(updates)
        if needs_weights:
            require_params(params, "the inner product, or the distance, depends on the weights")
        require_tangent_vectors(updates, params, spec)
        farthest = dict(state.travelled.farthest)

        def on_manifold(path, leaf_spec, vector, weight=None):
            group = group_of(path, leaf_spec, per_component=per_component)
            groups, manifold_ids, s = state.groups.get(path), None, None
            if needs_weights:
                manifold_ids, s, _ = state.spec.leaf(path, leaf_spec, weight)
            if travels:
                drawn = manifold_ids, groups, s
                farthest[path] = state.travelled.at(path, leaf_spec, weight, *drawn, per)
            rho_now = farthest[path] if travels else value_at(rho, state.count, group)
            numbers = (rho_now, value_at(curvature, state.count, group))
            return leaf_spec.divide_by_normalizer(
                vector,
                weight,
                manifold_ids,
                groups,
                s,
                *map(jnp.asarray, numbers),
                normalizer=normalizer,
                single_components=per_component,
            )

        others = (params,) if needs_weights else ()
        scaled = map_leaves(spec, on_manifold, lambda vector, *_: vector, updates, *others)
        count = jnp.asarray(optax.safe_increment(state.count))
        travelled = state.travelled._replace(farthest=farthest)
        after = state.spec.after_update()
        return scaled, ScaleByFgsgdState(count, state.groups, after, travelled)

    return Link.of(
        init_fn,
        update_fn,
        spec=spec,
        rho=rho,
        curvature=curvature,
        per_component=per_component,
    )


def normalizer(g: jax.Array, rho, curvature) -> jax.Array:
    """τ of eq. (5). Written without g², so that it is finite wherever g·(2ρ + g) is."""
    # Injected hyper-parameters arrive in the dtype of the parameters; g may have a longer one.
    rho, curvature = jnp.asarray(rho, g.dtype), jnp.asarray(curvature, g.dtype)
    g = jnp.minimum(g, jnp.finfo(g.dtype).max)  # c = 0 times an infinite g would be NaN
    bend = jnp.sqrt(jnp.maximum(1 + curvature * (rho + g), 0))
    return jnp.maximum(1, g * jnp.maximum(2 * rho + g, bend))
