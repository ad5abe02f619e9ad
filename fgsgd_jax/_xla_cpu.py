"""What this library knows about XLA's CPU compiler, and nobody else has to.

On GPU and TPU the textbook expressions compile well as they are. XLA's CPU compiler needs help in
two places, seen with jaxlib 0.9.2 to 0.12.0. `tests/kernels/test_xla_cpu.py` holds a small program
for each, which fails once the help is no longer needed:

    recomputation   It fuses a number per point, such as ⟨x, g⟩, into the loop over the entries that
                    it multiplies, and so computes it nine times for 3×3 points. The branch of a
                    conditional is not fused: `materialize`. (Before jaxlib 0.12 it ignored
                    `lax.optimization_barrier` there; since then a barrier would do.)
    order           It runs the updates of all weights side by side, each with buffers of its own,
                    and copies a donated weight if it cannot prove that all reads of it come before
                    the write: `completion_token` makes one weight wait for another.

The choice is made when a program is lowered (`lax.platform_dependent`), not when it is traced, so
that a function exported for another platform gets the plain expressions.
"""

import functools
import operator
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType

# Smaller arrays stay in the cache, where computing a number again is cheaper than a separate loop.
MATERIALIZED_SIZE = 1 << 16


class _State(threading.local):
    """Whether the function of a `materialize` is being traced in this thread."""

    inside = False


_state = _State()


def materialize(function: Callable, like: jax.Array, *, after: jax.Array | None = None) -> Any:
    """`function()`, computed once and stored, rather than fused into all that reads it.

    The result should be small, a few numbers per point. Arrays that the function closes over are
    stored as well, so it is best to compute intermediate points inside the function.

    Args:
        function: A function without arguments.
        like: An array of the size that the function reads.
        after: A `completion_token`; the function runs after what the token depends on.
    """
    return materialize_either(True, function, None, like, after=after)


def materialize_either(
    condition: Any,
    function: Callable,
    otherwise: Callable | None,
    like: jax.Array,
    *,
    after: jax.Array | None = None,
    least: int = MATERIALIZED_SIZE,
) -> Any:
    """`function()` if the condition holds, else `otherwise()`, either of them materialized.

    `otherwise` is a cheaper approximation of `function`, used on the CPU only; None stands for
    zeros, where the condition always holds. From the size `least` of `like`, results are stored.
    """
    # Outside a compiled function nothing is fused, and what is inside one materialized function
    # needs no second one. Inside `jax.shard_map` branches of a conditional would have to vary over
    # the same axes of the mesh, which zeros do not.
    compiled = isinstance(like, Tracer) and not in_shard_map()
    if _state.inside or not compiled or like.size < least:
        return function()
    function, shapes = _traced(function)
    if otherwise is None:
        otherwise = lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)  # noqa: E731
    else:
        otherwise, _ = _traced(otherwise)

    def on_cpu():
        return lax.cond(jnp.asarray(condition) & _opaque_true(after), function, otherwise)

    return lax.platform_dependent(cpu=on_cpu, default=function)


def _traced(function: Callable) -> tuple[Callable, Any]:
    """The function, traced once for all its uses, and the shapes of its result.

    While it is traced, `materialize` does nothing.
    """

    @jax.jit
    def traced():
        outside, _state.inside = _state.inside, True
        try:
            return function()
        finally:
            _state.inside = outside

    return traced, jax.eval_shape(traced)


def reads_stored_arrays() -> bool:
    """Whether the function of a `materialize` is being traced, which reads arrays from memory.

    Elsewhere what computed an array may be fused into all that reads it.
    """
    return _state.inside


def _opaque_true(after: jax.Array | None) -> jax.Array:
    """A `True` that XLA cannot constant-fold, and that depends on the token `after`."""
    return lax.optimization_barrier(jnp.array(True)) if after is None else (after | 1) != 0


def on_single_device() -> bool:
    """Whether arrays cannot be split over devices."""
    explicit = AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    return jax.device_count() == 1 and not explicit and not in_shard_map()


def in_shard_map() -> bool:
    """Whether a function is traced for the part of an array that one device holds."""
    return AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types


def completion_token(*arrays: jax.Array) -> jax.Array | None:
    """A scalar that depends on arrays; as `after=` it orders a computation behind theirs.

    None on several devices, where reading one entry of an array would be a transfer.
    """
    if not on_single_device():
        return None

    def on_cpu():
        if not arrays:
            return lax.optimization_barrier(jnp.zeros((), jnp.int32))
        first = (a[(0,) * a.ndim].astype(jnp.float32) for a in arrays)
        bits = (lax.bitcast_convert_type(entry, jnp.int32) for entry in first)
        return functools.reduce(operator.or_, bits)

    return lax.platform_dependent(cpu=on_cpu, default=lambda: jnp.zeros((), jnp.int32))


def wait(array: jax.Array, token: jax.Array | None) -> jax.Array:
    """The array, which on the CPU XLA cannot compute before the token."""
    if token is None:
        return array
    return lax.platform_dependent(
        array,
        token,
        cpu=lambda a, t: jnp.where(_opaque_true(t), a, jnp.zeros_like(a)),
        default=lambda a, t: a,
    )
