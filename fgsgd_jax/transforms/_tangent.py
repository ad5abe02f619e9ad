"""`project_to_tangent`: the first link of a chain on manifolds."""

import jax
import jax.numpy as jnp
import numpy as np

from fgsgd_jax.spec import (
    Collection,
    Coordinates,
    checked_coordinates,
    map_leaves,
    require_collection,
    step_radius,
)
from fgsgd_jax.transforms._finished import require_unfinished
from fgsgd_jax.transforms._guards import require_on_manifolds, require_still_on_manifolds
from fgsgd_jax.transforms._link import (
    Link,
    SpecState,
    has_known_values,
    require_params,
    require_state,
)

# Times the resolution of the dtype: a tangent part that is a smaller share of its gradient may be
# rounding by more than the share that `retract_updates` admits.
SMALL_SHARE = 1000


def project_to_tangent(spec: Collection, *, coordinates: Coordinates = "unit") -> Link:
    """Projects gradients on the tangent space of the manifolds (Algorithm 1, line 5).

    From the gradient of each component, the part that is normal to its manifold is removed.
    Euclidean leaves pass unchanged, others in the longer of the dtypes of gradient and weight. The
    first link of a chain: later links may add, scale and clip
    tangent vectors freely, and `retract_updates` must come last.

    Args:
        spec: The spec of the parameters.
        coordinates: As for `fgsgd`; the same in all links of a chain.

    Returns:
        A transformation whose `update` needs `params`. Outside of jitted functions, where values
        are known, it projects twice where the tangent part may be the rounding of a large gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"w": jnp.array([[1.0], [0.0]]).reshape(2, 1, 1, 1)}
        >>> spec = fg.collection(params, ("w", fg.pom("layer", fg.Sphere())))
        >>> link = project_to_tangent(spec)
        >>> tangent, _ = link.update({"w": jnp.ones((2, 1, 1, 1))}, link.init(params), params)
        >>> tangent["w"].ravel()
        Array([0., 1.], dtype=float32)

    References:
        Ozay, 2019, Algorithm 1.
    """
    require_collection(spec)
    coordinates = checked_coordinates(coordinates)

    def init_fn(params):
        require_on_manifolds(params, spec)
        return SpecState.of(spec, params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "the tangent space depends on the present weights")
        require_state(state, SpecState, spec)
        require_unfinished(updates)
        require_still_on_manifolds(params, spec, state)

        def on_manifold(path, leaf_spec, gradient, weight):
            manifold_ids, s, _ = state.leaf(path, leaf_spec, weight)
            # Later links compute in the dtype of the vector, which float16 may be too short for.
            gradient = gradient.astype(jnp.promote_types(gradient.dtype, weight.dtype))
            tangent = leaf_spec.to_tangent(
                weight, gradient, manifold_ids, s, coordinates=coordinates
            )
            if not _may_be_rounding(leaf_spec, weight, gradient, tangent, s, coordinates):
                return tangent
            again: Coordinates = "unit" if s is None else "scaled"  # without the factor of above
            return leaf_spec.to_tangent(weight, tangent, manifold_ids, s, coordinates=again)

        projected = map_leaves(spec, on_manifold, lambda gradient, _: gradient, updates, params)
        return projected, state.after_update()

    return Link.of(init_fn, update_fn, spec=spec, coordinates=coordinates)


def _may_be_rounding(leaf_spec, weight, gradient, tangent, s, coordinates) -> bool:
    """Whether values are known, and a tangent part is so short that it may not be tangent.

    A gradient g that is nearly normal leaves about eps·‖g‖ of rounding in its tangent part, most
    of it normal. A second projection leaves eps² of it.
    """
    known = all(map(has_known_values, (gradient, tangent, s)))  # None is known as well
    if not known or leaf_spec.overrides("representer"):  # which is no part of the projection
        return False
    _, factor = step_radius(coordinates, s)
    with jax.ensure_compile_time_eval():
        longest = 1.0 if factor is None else float(jnp.max(factor))
    eps = max(float(jnp.finfo(dtype).eps) for dtype in (gradient.dtype, weight.dtype, jnp.float32))
    v, g = (np.linalg.norm(np.asarray(array, np.float64)) for array in (tangent, gradient))
    return bool(v <= SMALL_SHARE * eps * longest * g)
