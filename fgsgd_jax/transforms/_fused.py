"""`chain_links`: the links of a step on manifolds in a chain, fused where that is faster."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fgsgd_jax import _xla_cpu, kernels, linalg
from fgsgd_jax.kernels import Drawn, Normalization, Numbers, Settings, fused_step, has_kernels
from fgsgd_jax.spec import Groups, LeafSpec, map_leaves, require_gradients
from fgsgd_jax.transforms._finished import finished, require_unfinished
from fgsgd_jax.transforms._guards import require_on_manifolds, require_still_on_manifolds
from fgsgd_jax.transforms._link import Link, SpecState, require_params, require_state
from fgsgd_jax.transforms._new_weights import NewWeight, WritesWeights
from fgsgd_jax.transforms._per_group import group_of, is_travelled, value_at
from fgsgd_jax.transforms._step import normalizer

# Where removing the rounding of earlier steps costs another pass, it is done once in so many steps:
# until then rounding grows by no more than a few units in the last place.
EXACT_EVERY = 8


def chain_links(
    tangent: Link, momentum: Link | None, normalize: Link | None, rate: Link, retraction: Link
) -> optax.GradientTransformationExtraArgs:
    """The chain of the links of a step on manifolds, in this order, None for one that is left out.

    Where all manifolds have a kernel, and ρ is not the distance travelled, the links run as one:
    equal to their chain up to rounding, in fewer passes over weights and gradients. Use
    `optax.chain` to put something between the links.

    Args:
        tangent: `project_to_tangent`.
        momentum: `trace_on_manifold`.
        normalize: `scale_by_fgsgd`.
        rate: `scale_by_learning_rate`.
        retraction: `retract_updates`, with the coordinates of `project_to_tangent`.
    """
    travels = normalize is not None and is_travelled(normalize.settings["rho"])
    if has_kernels(tangent.settings["spec"]) and not travels:
        return fused(tangent, momentum, normalize, rate)
    links = (tangent, momentum, normalize, rate, retraction)
    return optax.with_extra_args_support(optax.chain(*(link for link in links if link)))


class FusedState(NamedTuple):
    """The state of fused links.

    Attributes:
        count: The number of steps taken, for schedules.
        trace: The momentum, a tree like the parameters; () without momentum.
        groups: The drawn groups, by path, for weights under PIO.
        spec: The drawn manifolds, and λ.
    """

    count: jax.Array
    trace: Any
    groups: dict[str, Groups]
    spec: SpecState


def fused(
    tangent: Link, momentum: Link | None, normalize: Link | None, rate: Link
) -> optax.GradientTransformationExtraArgs:
    """The links of `chain_links` as one, for manifolds that have kernels."""
    spec, coordinates = tangent.settings["spec"], tangent.settings["coordinates"]
    learning_rate, share = rate.settings["learning_rate"], rate.settings["euclidean_share"]
    decay, nesterov, accumulator_dtype = 0.0, False, None
    if momentum is not None:
        decay, nesterov = momentum.settings["decay"], momentum.settings["nesterov"]
        accumulator_dtype = momentum.settings["accumulator_dtype"]
    normalization: Normalization = None
    rho = curvature = 1.0
    if normalize is not None:
        normalization = "component" if normalize.settings["per_component"] else "group"
        rho, curvature = normalize.settings["rho"], normalize.settings["curvature"]
    settings = Settings(coordinates, nesterov, normalization, normalizer, kernels.PALLAS)

    def init_fn(params):
        require_on_manifolds(params, spec)
        return FusedState(
            count=jnp.zeros([], jnp.int32),
            trace=() if momentum is None else optax.tree.zeros_like(params, accumulator_dtype),
            groups=spec.drawn_groups() if normalization == "group" else {},
            spec=SpecState.of(spec, params),
        )

    def update_fn(updates, state, params=None, *, new_weights=False, **extra_args):
        del extra_args
        require_params(params, "a step on a manifold starts from the present weights")
        require_state(state, FusedState, spec)
        require_unfinished(updates)
        require_still_on_manifolds(params, spec, state.spec)
        if momentum is not None:
            require_gradients(spec, updates, params, of_all=True)
        if (isinstance(state.trace, tuple) and not state.trace) != (momentum is None):
            given, own = ("without", "has") if momentum is not None else ("with", "has no")
            raise ValueError(
                f"update was given the state of an optimizer {given} momentum, but this one {own} "
                "momentum; give it what its own init returned."
            )
        r = learning_rate(state.count) if callable(learning_rate) else learning_rate
        token = _xla_cpu.completion_token()

        def on_manifold(path, leaf_spec, gradient, weight, trace=None):
            nonlocal token
            group = group_of(path, leaf_spec, per_component=normalization == "component")
            numbers = (value_at(number, state.count, group) for number in (rho, curvature))
            manifold_ids, *scales = state.spec.leaf(path, leaf_spec, weight)
            update, new_trace, token = _step(
                leaf_spec,
                settings._replace(writes_weight=new_weights),
                (weight, gradient, trace),
                Drawn(manifold_ids, state.groups.get(path)),
                scales,
                (r, decay, *numbers),
                state.count,
                token,
            )
            return _Pair(NewWeight(update) if new_weights else update, new_trace)

        def on_euclidean(gradient, weight, trace=None):
            return _euclidean_step(gradient, weight, trace, (r, share), decay, nesterov)

        traces = () if momentum is None else (state.trace,)
        pairs = map_leaves(spec, on_manifold, on_euclidean, updates, params, *traces)
        new_updates, new_trace = (_side(pairs, side) for side in _Pair._fields)
        return finished(new_updates, spec), FusedState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            trace=() if momentum is None else new_trace,
            groups=state.groups,
            spec=state.spec.after_update(),
        )

    return WritesWeights(init_fn, update_fn)


class _Pair(NamedTuple):
    update: jax.Array | NewWeight
    trace: jax.Array | None


def _euclidean_step(gradient, weight, trace, rate, decay, nesterov: bool) -> _Pair:
    """SGD with momentum, at a share of a rate."""
    if not jnp.issubdtype(gradient.dtype, jnp.inexact):
        gradient = gradient.astype(weight.dtype)  # in a whole-number dtype the rate would be 0
    step, new_trace = gradient, None
    if trace is not None:
        step = new_trace = gradient + decay * trace
        if nesterov:
            step = gradient + decay * new_trace
        new_trace = new_trace.astype(trace.dtype)
    # First an array, so that an injected rate gives the same bits as a number.
    rate = jnp.asarray(rate[0], step.dtype) * rate[1]
    return _Pair((-rate * step).astype(weight.dtype), new_trace)


def _side(pairs: Any, name: str) -> Any:
    is_pair = lambda node: isinstance(node, _Pair)  # noqa: E731
    return jax.tree.map(lambda pair: getattr(pair, name), pairs, is_leaf=is_pair)


# Jitted, so that leaves that are treated alike are traced once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(
    leaf_spec: LeafSpec,
    settings: Settings,
    arrays,
    drawn: Drawn,
    scales,
    scalars,
    count: jax.Array,
    after: jax.Array | None,
):
    """`fused_step`, with scalars in the dtype of geometry."""
    weight, gradient, trace = arrays
    dtype = linalg.working_dtype(weight.dtype)
    # Injected hyper-parameters arrive in the dtype of the parameters; geometry has a longer one.
    numbers = Numbers(*(jnp.asarray(number, dtype) for number in scalars))
    # The round-off of bfloat16 and float16 is large, so it is removed at every step.
    exact = count % EXACT_EVERY == 0 if weight.dtype == dtype else None
    return fused_step(
        leaf_spec, weight, gradient, trace, drawn, scales, numbers, exact, after, settings=settings
    )
