"""A step in passes over arrays, each of which XLA fuses.

Points, gradients and tangent vectors are functions here: each pass computes them again from the
weight and the gradient, and nothing of their size is stored but the momentum and the update.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.kernels._shared import Result, Step


def passes(step: Step, after: jax.Array | None) -> Result:
    """The step, computed after what the token `after` stands for."""
    kernel, decay = step.kernel, step.numbers.decay
    v = _to_tangent(step, step.g_with_momentum, after)  # line 5, and momentum
    momentum = None
    if step.trace is not None:
        momentum = _stored(step, v, after)
        after = None if after is None else _xla_cpu.completion_token(momentum)
        v = v.stored_as(kernel.parts(momentum))
        if step.settings.nesterov:
            v = _to_tangent(step, lambda: step.g() + decay * momentum, after)
    divisors = step.divisors
    if divisors is not None:
        v = v.times(_materialize(step, lambda: 1 / divisors, after))
    squares = _materialize(step, lambda: kernel.squares(step.x(), v.vector(), v.normal), after)

    def lengths():
        return _materialize(step, lambda: kernel.length(v.vector(), v.normal), after)

    t = step.length(squares, lengths)  # line 6
    moved, last_read = _retract(step, v, t, squares, after)  # line 7
    token = None if after is None else _xla_cpu.completion_token(*last_read)
    return step.result(moved, momentum, token)


class _Tangent(NamedTuple):
    """A tangent vector, as a function, and its normal numbers."""

    vector: Callable[[], Any]
    normal: Any

    def stored_as(self, parts: Any) -> "_Tangent":
        return self._replace(vector=lambda: parts)

    def times(self, factors: jax.Array) -> "_Tangent":
        def scaled(numbers):
            return jax.tree.map(lambda array: array * factors, numbers)

        return _Tangent(lambda: scaled(self.vector()), scaled(self.normal))


def _materialize(step: Step, function: Callable, after) -> Any:
    return _xla_cpu.materialize(function, step.weight, after=after)


def _to_tangent(step: Step, g: Callable, after) -> _Tangent:
    """The tangent part of g()."""
    kernel = step.kernel
    if kernel.recomputes_tangent:
        normal = _materialize(step, lambda: kernel.normal(step.x(), g()), after)
        return _Tangent(lambda: kernel.tangent(step.x(), g(), normal), normal)
    normal = kernel.normal(step.x(), g())
    v = kernel.parts(kernel.vector(kernel.tangent(step.x(), g(), normal)))
    return _Tangent(lambda: v, normal)


def _stored(step: Step, v: _Tangent, after) -> jax.Array:
    """The tangent vector as an array."""
    single = len(step.leaf_spec.manifolds) == 1
    if step.kernel.mixes_entries and single:
        return _materialize(step, lambda: step.kernel.vector(v.vector()), after)
    return step.kernel.vector(v.vector())


def _retract(step: Step, v: _Tangent, t, squares, after) -> tuple[jax.Array, list[jax.Array]]:
    """R(x, t·v) − x, and the arrays whose computation is the last to read the weight."""
    kernel = step.kernel

    def aim(exact: bool):
        x, vector, at_rest = step.x(), v.vector(), step.at_rest(t, squares)
        return kernel.aim(x, vector, t, v.normal, squares, at_rest, exact=exact)

    def move(exact: bool):
        return kernel.move(step.x(), v.vector(), t, aimed, exact=exact)

    exact = None
    if step.exact is not None and kernel.approximates_aim and _aims_twice(step):
        exact = step.exact | kernel.amplifies_rounding(t, v.normal)
    least = 0 if kernel.has_costly_aim else _xla_cpu.MATERIALIZED_SIZE
    aimed = _either(step, aim, exact, after, least=least)
    if not kernel.mixes_entries:
        return move(exact=True), jax.tree.leaves(aimed)
    moved = _either(step, move, step.exact, after)
    return moved, [moved]


def _either(
    step: Step,
    function: Callable,
    exact: jax.Array | None,
    after,
    *,
    least: int = _xla_cpu.MATERIALIZED_SIZE,
) -> Any:
    """`function(exact)` in whichever of its two forms; in the exact one where `exact` is None."""
    condition, approximate = (True, None) if exact is None else (exact, lambda: function(False))
    return _xla_cpu.materialize_either(
        condition, lambda: function(True), approximate, step.weight, after=after, least=least
    )


def _aims_twice(step: Step) -> bool:
    """Whether a second way to aim is correct, and worth its compile time.

    Squares that no τ divides may overflow; of large points there are few.
    """
    rows, columns = step.leaf_spec.points_shape[:2]
    return step.settings.normalization is not None and rows * columns <= linalg.UNROLLED_SIZE
