"""`chain_adam_links`: the links of Riemannian Adam in a chain, fused where that is faster."""

import functools

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax import _xla_cpu, kernels, linalg
from fgsgd_jax._trees import leaves_with_paths
from fgsgd_jax.kernels import (
    Drawn,
    Numbers,
    Result,
    Settings,
    fused_step,
    has_kernels,
    tangent_norms,
)
from fgsgd_jax.spec import LeafSpec, map_leaves, per_component, require_gradients
from fgsgd_jax.transforms._adam import (
    ScaleByRiemannianAdamState,
    decayed_norm,
    require_moments,
)
from fgsgd_jax.transforms._component_norms import Moment, norms_of_groups
from fgsgd_jax.transforms._finished import finished, require_unfinished
from fgsgd_jax.transforms._fused import EXACT_EVERY
from fgsgd_jax.transforms._guards import require_on_manifolds, require_still_on_manifolds
from fgsgd_jax.transforms._link import Link, require_params
from fgsgd_jax.transforms._new_weights import NewWeight, WritesWeights


def chain_adam_links(
    tangent: Link, adam: Link, rate: Link, retraction: Link
) -> optax.GradientTransformationExtraArgs:
    """The chain of the links of Riemannian Adam, in this order.

    Where all manifolds have a kernel, and no entry has a second moment of its own, the links run as
    one, as those of `chain_links` do. The state is then that of `scale_by_riemannian_adam`.

    Args:
        tangent: `project_to_tangent`.
        adam: `scale_by_riemannian_adam`.
        rate: `scale_by_learning_rate`.
        retraction: `retract_updates`, with the coordinates of `project_to_tangent`.
    """
    if has_kernels(adam.settings["spec"]) and adam.settings["moment"] != "entry":
        return _fused(tangent, adam, rate)
    return optax.with_extra_args_support(optax.chain(tangent, adam, rate, retraction))


def _fused(tangent: Link, adam: Link, rate: Link) -> optax.GradientTransformationExtraArgs:
    spec, moment, amsgrad = (adam.settings[name] for name in ("spec", "moment", "amsgrad"))
    b1, b2, eps = (adam.settings[name] for name in ("b1", "b2", "eps"))
    on_euclidean, learning_rate = adam.settings["on_euclidean"], rate.settings["learning_rate"]
    settings = Settings(
        tangent.settings["coordinates"], nesterov=False, normalization="given",
        pallas=kernels.PALLAS,
    )  # fmt: skip

    def init_fn(params):
        require_on_manifolds(params, spec)
        return adam.init(params)

    def update_fn(updates, state, params=None, *, new_weights=False, **extra_args):
        del extra_args
        require_params(params, "a step on a manifold starts from the present weights")
        require_gradients(spec, updates, params, of_all=True)
        require_moments(state, spec, moment, amsgrad)
        require_unfinished(updates)
        require_still_on_manifolds(params, spec, state.spec)
        r = learning_rate(state.count) if callable(learning_rate) else learning_rate
        count = jnp.asarray(optax.safe_increment(state.count))
        scalars = (r, b1, b2, eps, 1 - b1**count, jnp.sqrt(1 - b2**count))
        old = dict(leaves_with_paths(state.mu))
        mu, nu, nu_max = {}, dict(state.nu), dict(state.nu_max)
        token = _xla_cpu.completion_token()

        def on_manifold(path, leaf_spec, gradient, weight):
            nonlocal token
            manifold_ids, *scales = state.spec.leaf(path, leaf_spec, weight)
            result, nu[path], largest = _step(
                leaf_spec,
                settings._replace(writes_weight=new_weights),
                moment,
                (weight, gradient, old[path]),
                (nu[path], nu_max.get(path)),
                Drawn(manifold_ids, state.groups.get(path)),
                scales,
                scalars,
                state.count,
                token,
            )
            update, mu[path], token = result
            if largest is not None:
                nu_max[path] = largest
            return NewWeight(update) if new_weights else update

        def euclidean_step(step, weight):
            return (-jnp.asarray(r, step.dtype) * step).astype(weight.dtype)

        updates, euclidean = on_euclidean.update(updates, state.euclidean, params)
        moves = finished(map_leaves(spec, on_manifold, euclidean_step, updates, params), spec)
        new_mu = map_leaves(spec, lambda path, *_: mu[path], lambda leaf: leaf, state.mu)
        return moves, ScaleByRiemannianAdamState(
            count, new_mu, nu, nu_max, state.groups, {}, euclidean, state.spec.after_update()
        )

    return WritesWeights(init_fn, update_fn)


# Jitted, so that leaves that are treated alike are traced once.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    leaf_spec: LeafSpec,
    settings: Settings,
    moment: Moment,
    arrays,
    roots,
    drawn: Drawn,
    scales,
    scalars,
    count: jax.Array,
    after: jax.Array | None,
) -> tuple[Result, jax.Array, jax.Array | None]:
    """A step of Adam, the new √v, and the largest so far."""
    (weight, gradient, mu), (nu, nu_max) = arrays, roots
    dtype = linalg.working_dtype(weight.dtype)
    rate, b1, b2, eps, first, second = (jnp.asarray(number, dtype) for number in scalars)
    sizes = tangent_norms(
        leaf_spec,
        weight,
        gradient,
        drawn.manifold_ids,
        scales[0],
        after,
        settings=settings,
    )
    if moment == "group":
        sizes = norms_of_groups(leaf_spec, sizes, drawn.groups)
    nu = decayed_norm(b2, nu, sizes)
    nu_max = None if nu_max is None else jnp.maximum(nu_max, nu)
    divisors = first * ((nu if nu_max is None else nu_max).astype(dtype) / second + eps)
    if moment == "group":
        divisors = per_component(divisors, drawn.groups)
    result = fused_step(
        leaf_spec,
        weight,
        gradient,
        mu,
        drawn,
        scales,
        Numbers(rate, b1, share=1 - b1),
        count % EXACT_EVERY == 0 if weight.dtype == dtype else None,
        after,
        divisors,
        settings=settings,
    )
    return result, nu, nu_max
