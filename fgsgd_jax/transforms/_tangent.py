"""`project_to_tangent`: the first link of a chain on manifolds."""

import functools
from typing import NamedTuple

import jax
import optax

from fgsgd_jax.poms import Collection, Layer, map_layers
from fgsgd_jax.transforms._params import require_params


class ProjectToTangentState(NamedTuple):
    """The drawn manifold of every component, by path, for weights of mixed types."""

    kinds: dict[str, jax.Array]


def project_to_tangent(spec: Collection) -> optax.GradientTransformationExtraArgs:
    """Projects gradients on the tangent space of the manifolds (Algorithm 1, line 5).

    Component by component, the part of the gradient that would leave the manifold is removed.
    Euclidean leaves pass unchanged. The first link of a chain: what follows may add, scale and clip
    tangent vectors as it pleases, and `retract_updates` must come last.

    Args:
        spec: The collection of the parameters.

    Returns:
        A transformation whose `update` needs `params`.

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

    def init_fn(params):
        del params
        return ProjectToTangentState(kinds=spec.kinds())

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params, "the tangent space is that of the present weights")

        def one(path, layer, gradient, weight):
            return _to_tangent(layer, weight, gradient, state.kinds.get(path))

        projected = map_layers(spec, one, lambda gradient, _: gradient, updates, params)
        return projected, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# An inner jit, so that leaves that are treated alike are traced once.
@functools.partial(jax.jit, static_argnums=0)
def _to_tangent(layer: Layer, weight, gradient, kinds):
    return layer.to_tangent(weight, gradient, kinds)
