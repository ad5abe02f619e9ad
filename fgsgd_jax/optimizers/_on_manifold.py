"""`on_manifold`: any Optax optimizer, with its weights on manifolds."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax import linalg
from fgsgd_jax._numbers import checked_schedule
from fgsgd_jax.optimizers._euclidean import with_euclidean
from fgsgd_jax.optimizers._wrapped import (
    check_arguments,
    checked_names,
    map_fields,
    require_no_decay,
    require_supported,
)
from fgsgd_jax.spec import (
    Collection,
    LeafSpec,
    keeps_sharding,
    map_leaves,
    require_collection,
    require_gradients,
    select,
    split_by_rows,
    squared_norm,
    times,
)
from fgsgd_jax.transforms import (
    SpecState,
    finished,
    initial_state,
    nearest_points,
    previous_weights,
    require_on_manifolds,
    require_params,
    require_state,
    require_still_on_manifolds,
    require_unfinished,
)

Tangent = Literal["none", "direction", "gradient"]


class OnManifoldState(NamedTuple):
    """The state of `on_manifold`.

    Attributes:
        count: The number of steps taken, for a schedule of the relative step.
        inner: The state of the wrapped optimizer.
        previous: As in `TraceOnManifoldState`, where momentum is transported.
        spec: The drawn manifolds, and λ.
    """

    count: jax.Array
    inner: Any
    previous: dict[str, jax.Array]
    spec: SpecState


def on_manifold(
    tx: optax.GradientTransformation,
    spec: Collection,
    *,
    tangent: Tangent = "none",
    relative_step: optax.ScalarOrSchedule | None = None,
    transport: Sequence[str] = (),
    euclidean: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Any Optax optimizer, with its weights on manifolds.

    The optimizer gets the gradients and weights at unit scale (the weight is W = s·θ, θ on its
    manifold), and returns a step u for θ. Let P be the projection on a tangent space:

    ==============  ======================================  =====================================
    `tangent`       step                                    known as
    ==============  ======================================  =====================================
    "none"          nearest point to θ + u, u from g        hyperball, with a `relative_step`
    "direction"     retraction of P(u), u from g            relative gradient
    "gradient"      retraction of P(u), u from P(g)         Riemannian
    ==============  ======================================  =====================================

    "none" is the default: the optimizer sees the gradients it was designed for, and the only
    published comparison of the first and the last form, of Adam on language models, found it
    better.

    With a `relative_step` η, u is rescaled for every component to the length η·R, where R is the
    norm of all points of its manifold (1 on a sphere, √columns on an oblique or Stiefel manifold
    with at least as many rows as columns). The rate of the optimizer then has no effect, and R is
    never measured from the weights. AdamH and MuonH in two lines::

        adam_h = fg.on_manifold(optax.adam(1.0), spec, relative_step=0.01)
        muon_h = fg.on_manifold(optax.contrib.muon(1.0), spec, relative_step=0.02)

    In published runs, AdamH needs fewer steps than AdamW; MuonH as many as a well tuned Muon.

    Args:
        tx: The optimizer, with its learning rate. Its own constraints apply: Muon, for example,
            treats leaves with two axes and takes Adam for others unless it is given dimension
            numbers. Optimizers that evaluate the loss themselves, such as line searches, see steps
            before the projection; chain those with `keep_on_manifolds`.
        spec: The spec of the parameters.
        tangent: What is projected on tangent spaces, as in the table.
        relative_step: η, a number or a schedule: the length of a step relative to its component.
            None for the step as it is. It needs manifolds whose points have one norm.
        transport: Names of fields of the optimizer's states that are momentum, such as
            `("mu",)` of Adam and Muon or `("trace",)` of SGD. They are projected on the tangent
            space of the present weights before each step. By default none are.
        euclidean: A transformation for Euclidean leaves, such as `optax.adamw(1e-3)`; by default
            `tx`, whose step they take as it is. With a `relative_step` this is usually needed.

    Returns:
        A transformation whose `update` needs `params` and returns differences, for
        `optax.apply_updates`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: At `init`, if `tx` is `optax.contrib.schedule_free`, whose averages leave the
            manifolds, or no state has a field that `transport` names. Outside of jitted functions,
            where values are known, also if weights are not on their manifolds, or two updates with
            a zero gradient show that `tx` decays weights whose norm is fixed.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import fgsgd_jax as fg
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 8))}
        >>> spec = fg.collection(params, ("kernel", fg.pom("PO", fg.Sphere())))
        >>> params = fg.project(params, spec)
        >>> tx = on_manifold(optax.adam(1.0), spec, relative_step=0.1)
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> moved = optax.apply_updates(params, updates)
        >>> bool(fg.residual(moved, spec)["kernel"] < 1e-6)
        True

        MuonH of a dense kernel, which keeps the norm that it has, 3:

        >>> params = {"dense": 3 * jnp.eye(16, 8) / 8**0.5}
        >>> sphere = fg.pom("layer", fg.Sphere(), component="matrix")
        >>> spec = fg.collection(params, ("dense", sphere), scale="initial")
        >>> muon_h = on_manifold(optax.contrib.muon(1.0), spec, relative_step=0.02)
        >>> gradient = {"dense": jnp.ones((16, 8))}
        >>> updates, state = muon_h.update(gradient, muon_h.init(params), params)
        >>> float(jnp.linalg.norm(params["dense"] + updates["dense"]).round(4))
        3.0

    References:
        Bécigneul & Ganea, *Riemannian adaptive optimization methods*, 2019 ("gradient");
        arXiv 2606.16899, 2026 (hyperball); Karras et al., *Analyzing and improving the training
        dynamics of diffusion models*, 2024 ("none").
    """
    require_collection(spec)
    check_arguments(tx, spec, relative_step)
    if tangent not in get_args(Tangent):
        raise ValueError(
            f"`tangent` is one of {', '.join(map(repr, get_args(Tangent)))}; got {tangent!r}."
        )
    tx = optax.with_extra_args_support(tx)
    relative_step = checked_schedule("relative_step", relative_step)
    momentum = checked_names(transport)

    def init_fn(params):
        require_on_manifolds(params, spec)
        state = SpecState.of(spec, params)
        weights = _at_unit_scale(spec, state, params)
        inner = initial_state(tx, weights)
        require_supported(inner, momentum)
        require_no_decay(tx, inner, weights, spec)
        previous = previous_weights(spec, state, params) if momentum else {}
        return OnManifoldState(jnp.zeros([], jnp.int32), inner, previous, state)

    def update_fn(updates, state, params=None, **extra_args):
        require_params(params, "a step on a manifold starts from the present weights")
        require_state(state, OnManifoldState, spec)
        require_unfinished(updates)
        require_still_on_manifolds(params, spec, state.spec)
        require_gradients(spec, updates, params)
        eta = relative_step(state.count) if callable(relative_step) else relative_step

        def gradient_of(path, leaf_spec, gradient, weight):
            manifold_ids, s, _ = state.spec.leaf(path, leaf_spec, weight)
            gradient = gradient.astype(jnp.promote_types(gradient.dtype, weight.dtype))
            if tangent == "gradient":
                return leaf_spec.to_tangent(weight, gradient, manifold_ids, s, coordinates="unit")
            return leaf_spec.to_weight(times(leaf_spec.points(gradient), s), gradient.dtype)

        def carried(path, leaf_spec, vector, weight):
            manifold_ids, s, _ = state.spec.leaf(path, leaf_spec, weight)
            return leaf_spec.transport(weight, vector, state.previous.get(path), manifold_ids, s)

        def move(path, leaf_spec, step, weight):
            leaf_state = state.spec.leaf(path, leaf_spec, weight)
            return _move(leaf_spec, weight, step, eta, *leaf_state, tangent=tangent)

        def same(leaf, _):
            return leaf

        def cast(step, weight):
            return step.astype(weight.dtype)

        gradients = map_leaves(spec, gradient_of, same, updates, params)
        carry = lambda field: map_leaves(spec, carried, same, field, params)  # noqa: E731
        inner = map_fields(state.inner, momentum, carry)
        weights = _at_unit_scale(spec, state.spec, params)
        steps, inner = tx.update(gradients, inner, weights, **extra_args)
        moves = finished(map_leaves(spec, move, cast, steps, params), spec)
        count = jnp.asarray(optax.safe_increment(state.count))
        previous = previous_weights(spec, state.spec, params) if momentum else {}
        return moves, OnManifoldState(count, inner, previous, state.spec.after_update())

    links = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return with_euclidean(links, spec, euclidean, 0.0, None)


@functools.partial(jax.jit, static_argnums=0, static_argnames="tangent")
@keeps_sharding
@split_by_rows
def _move(leaf_spec: LeafSpec, weight, step, eta, manifold_ids, s, s_next, *, tangent: Tangent):
    """The update that carries the weight along a step at unit scale."""
    x, u = leaf_spec.unit_points(weight, s), leaf_spec.points(step)
    manifold = leaf_spec.manifold(manifold_ids)
    if tangent != "none":
        u = manifold.to_tangent(x, u)
    if eta is not None:
        squares = [jnp.asarray(squared_norm(m, *x.shape[:2])) for m in leaf_spec.manifolds]
        length = jnp.asarray(eta, x.dtype) * jnp.sqrt(select(manifold_ids, squares).astype(x.dtype))
        u = length * linalg.unit(u)
    y = nearest_points(leaf_spec, x + u, manifold_ids) if tangent == "none" else None
    y = manifold.retract(x, u) if y is None else y
    return leaf_spec.update(x, jnp.where(linalg.norm(u) == 0, 0, y - x), s, s_next, weight.dtype)


def _at_unit_scale(spec: Collection, state: SpecState, params: Any) -> Any:
    """The parameters with the points θ = W/s in place of the weights."""

    def unit(path, leaf_spec, weight):
        _, s, _ = state.leaf(path, leaf_spec, weight)
        if s is None or isinstance(weight, jax.ShapeDtypeStruct):
            return weight
        return leaf_spec.to_weight(leaf_spec.unit_points(weight, s), weight.dtype)

    return map_leaves(spec, unit, lambda leaf: leaf, params)
