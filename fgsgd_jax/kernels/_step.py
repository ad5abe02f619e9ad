"""`fused_step`: a whole step of one weight, Algorithm 1, in as few passes over memory as possible.

It equals the chain of the links up to rounding; `tests/kernels` hold it to that. Points, gradients
and tangent vectors are functions here: each pass computes them again from the weight and the
gradient, and nothing of their size is stored but the momentum and the update.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.kernels._choice import kernel_for
from fgsgd_jax.kernels._gpu import two_passes
from fgsgd_jax.kernels._kernel import Kernel
from fgsgd_jax.kernels._sphere import RescalingKernel
from fgsgd_jax.spec import (
    Coordinates,
    Groups,
    LeafSpec,
    group_norms,
    keeps_sharding,
    per_component,
    split_by_rows,
    step_radius,
    times,
)

# Platforms where points are held entry by entry in registers, and the largest such points. With
# `GPUS = ()` every platform computes by passes over arrays.
GPUS = ("cuda", "rocm")
LARGEST_IN_REGISTERS = 25

Normalization = Literal["group", "component", "given"] | None


class Settings(NamedTuple):
    """What is static in a step.

    Attributes:
        coordinates: The radius of the manifolds on which the step is taken.
        nesterov: Whether the momentum looks ahead.
        normalization: Whether a step is divided by one normalizer per group, one per component, by
            given numbers, or by none.
        normalizer: τ, called as `normalizer(g, rho, curvature)` with norms g; None where it is not
            needed.
    """

    coordinates: Coordinates
    nesterov: bool
    normalization: Normalization
    normalizer: Callable | None = None


class Numbers(NamedTuple):
    """The scalars of a step.

    Attributes:
        rate: The learning rate.
        decay: The decay of the momentum.
        rho: ρ of the normalizer.
        curvature: c of the normalizer.
        share: What the gradient is multiplied by before it is added to the momentum; None for 1.
    """

    rate: jax.Array
    decay: jax.Array
    rho: Any = None
    curvature: Any = None
    share: Any = None


class Drawn(NamedTuple):
    """The drawn manifold and group of every component; None where nothing is drawn."""

    manifold_ids: jax.Array | None
    groups: Groups | None


class Result(NamedTuple):
    """The update, the new momentum, and a token that stands for the computation of both."""

    update: jax.Array
    trace: jax.Array | None
    token: jax.Array | None


def tangent_norms(
    leaf_spec: LeafSpec,
    weight: jax.Array,
    gradient: jax.Array,
    manifold_ids: jax.Array | None,
    s: jax.Array | None,
    after: jax.Array | None,
    *,
    coordinates: Coordinates,
) -> jax.Array:
    """The norms of the Riemannian gradients of all components, `(*lanes)`."""
    _, factor = step_radius(coordinates, s)
    kernel = kernel_for(leaf_spec, manifold_ids, bounded=True)

    def norms(form: Callable = lambda points: points) -> jax.Array:
        x = form(leaf_spec.unit_points(weight, s))
        g = times(form(leaf_spec.points(gradient)), factor)
        normal = kernel.normal(x, g)
        return kernel.length(kernel.tangent(x, g, normal), normal)

    return on_platform(
        leaf_spec,
        kernel,
        lambda: norms(linalg.Entries.of),
        lambda: _xla_cpu.materialize(norms, weight, after=after),
    )


@keeps_sharding
@split_by_rows
def fused_step(
    leaf_spec: LeafSpec,
    weight: jax.Array,
    gradient: jax.Array,
    trace: jax.Array | None,
    drawn: Drawn,
    scales: tuple[jax.Array | None, jax.Array | None],
    numbers: Numbers,
    exact: jax.Array | None,
    after: jax.Array | None,
    divisors: jax.Array | None = None,
    *,
    settings: Settings,
) -> Result:
    """A step along the Riemannian gradient, with momentum, normalized and retracted.

    Args:
        leaf_spec: The leaf spec of the weight.
        weight: The weight.
        gradient: Its Euclidean gradient.
        trace: The momentum, or None for none.
        drawn: What is drawn for the weight.
        scales: s of the weight, and of the weight after the step.
        numbers: The scalars.
        exact: Whether this step must remove the rounding of earlier ones; None for every step.
        after: A `completion_token`: this step is computed after what it stands for.
        divisors: The given numbers that divide the step of every component, `(*lanes)`.
        settings: What is static.
    """
    s, s_next = scales
    radius, factor = step_radius(settings.coordinates, s)
    bounded = settings.normalization is not None
    kernel = kernel_for(leaf_spec, drawn.manifold_ids, bounded=bounded)
    step = _Step(leaf_spec, kernel, weight, s, radius, numbers, drawn.groups, exact, settings)

    def on_gpu() -> Result:
        x, moved, momentum = two_passes(step, gradient, trace, factor, divisors)
        new_trace = momentum
        if momentum is not None and trace is not None:
            new_trace = leaf_spec.to_weight(momentum, trace.dtype)
        update = leaf_spec.update(x, moved, s, s_next, weight.dtype)
        return Result(update, new_trace, after)

    def elsewhere() -> Result:
        return _passes(step, gradient, trace, factor, divisors, after, s_next)

    # Without τ squares may overflow, and the length of a step has to be measured on the way.
    if settings.normalization is None:
        return elsewhere()
    return on_platform(leaf_spec, kernel, on_gpu, elsewhere)


def on_platform(leaf_spec: LeafSpec, kernel: Kernel, on_gpu: Callable, elsewhere: Callable) -> Any:
    """What a program lowered for a GPU does, and what others do.

    For spheres and oblique manifolds of small points; see `_gpu.py`.
    """
    rows, columns = leaf_spec.points_shape[:2]
    large = rows * columns > LARGEST_IN_REGISTERS
    if large or not isinstance(kernel, RescalingKernel) or _xla_cpu.in_shard_map():
        return elsewhere()
    return lax.platform_dependent(default=elsewhere, **dict.fromkeys(GPUS, on_gpu))


def _passes(step: "_Step", gradient, trace, factor, divisors, after, s_next) -> Result:
    """The passes over arrays, of which XLA fuses each."""
    leaf_spec, kernel, numbers, settings = step.leaf_spec, step.kernel, step.numbers, step.settings

    def g():
        return times(leaf_spec.points(gradient), factor)

    def g_with_momentum():
        # The old momentum is carried by projection, which is linear: P(g) + d·P(m) = P(g + d·m).
        if trace is None:
            return g()
        return times(g(), numbers.share) + numbers.decay * leaf_spec.points(trace)

    v = step.to_tangent(g_with_momentum, after)  # line 5, and momentum
    new_trace = None
    if trace is not None:
        momentum = step.stored(v, after)
        new_trace = leaf_spec.to_weight(momentum, trace.dtype)
        after = None if after is None else _xla_cpu.completion_token(momentum)
        v = v.stored_as(kernel.parts(momentum))
        if settings.nesterov:
            v = step.to_tangent(lambda: g() + numbers.decay * momentum, after)
    if divisors is not None:
        v = v.times(step.materialize(lambda: 1 / divisors, after))
    squares = step.materialize(lambda: kernel.squares(step.x(), v.vector(), v.normal), after)
    lengths = lambda: step.materialize(lambda: kernel.length(v.vector(), v.normal), after)  # noqa: E731
    t = step.length(squares, lengths)  # line 6
    moved, last_read = step.retract(v, t, squares, after)  # line 7
    token = None if after is None else _xla_cpu.completion_token(*last_read)
    update = leaf_spec.update(step.x(), moved, step.s, s_next, step.weight.dtype)
    return Result(update, new_trace, token)


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


@dataclasses.dataclass(frozen=True)
class _Step:
    """The passes of one step, and what they share."""

    leaf_spec: LeafSpec
    kernel: Kernel
    weight: jax.Array
    s: jax.Array | None
    radius: jax.Array | None
    numbers: Numbers
    groups: Groups | None
    exact: jax.Array | None
    settings: Settings

    def x(self) -> jax.Array:
        return self.leaf_spec.unit_points(self.weight, self.s)

    def materialize(self, function: Callable, after) -> Any:
        return _xla_cpu.materialize(function, self.weight, after=after)

    def to_tangent(self, g: Callable, after) -> _Tangent:
        """The tangent part of g()."""
        kernel = self.kernel
        if kernel.recomputes_tangent:
            normal = self.materialize(lambda: kernel.normal(self.x(), g()), after)
            return _Tangent(lambda: kernel.tangent(self.x(), g(), normal), normal)
        normal = kernel.normal(self.x(), g())
        v = kernel.parts(kernel.vector(kernel.tangent(self.x(), g(), normal)))
        return _Tangent(lambda: v, normal)

    def stored(self, v: _Tangent, after) -> jax.Array:
        """The tangent vector as an array."""
        single = len(self.leaf_spec.manifolds) == 1
        if self.kernel.mixes_entries and single:
            return self.materialize(lambda: self.kernel.vector(v.vector()), after)
        return self.kernel.vector(v.vector())

    def length(self, squares: jax.Array, lengths: Callable[[], jax.Array]) -> jax.Array:
        """t of the step t·v: minus the rate, divided by τ and by the radius; t·v can be squared.

        Args:
            squares: ⟨v, v⟩ of every component.
            lengths: ‖v‖ of every component, as a function.
        """
        rate, _, rho, curvature, _ = self.numbers
        if self.settings.normalization is None:
            rate = rate if self.radius is None else rate / self.radius
            length = lengths()
            return jnp.where(jnp.isnan(length), length, self.kernel.shortened(-rate, length))
        # Divided by τ, no step is longer than the rate.
        rate = jnp.minimum(rate, linalg.SQUARABLE_STEP[squares.dtype.itemsize])
        tau: Any = self.settings.normalizer
        if self.settings.normalization == "given":
            t = -rate
        elif self.settings.normalization == "component":
            t = -rate / tau(lengths(), rho, curvature)
        else:
            g = group_norms(self.leaf_spec, squares, self.groups)
            t = per_component(-rate / tau(g, rho, curvature), self.groups)
        return t if self.radius is None else t / self.radius

    def retract(self, v: _Tangent, t, squares, after) -> tuple[jax.Array, list[jax.Array]]:
        """R(x, t·v) − x, and the arrays whose computation is the last to read the weight."""
        kernel = self.kernel

        def aim(exact: bool):
            # False for NaN, which must not be taken for a point at rest.
            at_rest = (t * t * squares == 0) | (t == 0)
            x, vector = self.x(), v.vector()
            return kernel.aim(x, vector, t, v.normal, squares, at_rest, exact=exact)

        def move(exact: bool):
            return kernel.move(self.x(), v.vector(), t, aimed, exact=exact)

        exact = None
        if self.exact is not None and kernel.approximates_aim and self._aims_twice():
            exact = self.exact | kernel.amplifies_rounding(t, v.normal)
        aimed = self._materialize(aim, exact, after)
        if not kernel.mixes_entries:
            return move(exact=True), jax.tree.leaves(aimed)
        moved = self._materialize(move, self.exact, after)
        return moved, [moved]

    def _materialize(self, function: Callable, exact: jax.Array | None, after) -> Any:
        """`function(exact)` in whichever of its two forms."""
        if exact is None:
            return self.materialize(lambda: function(True), after)
        return _xla_cpu.materialize_either(
            exact, lambda: function(True), lambda: function(False), self.weight, after=after
        )

    def _aims_twice(self) -> bool:
        """Whether a second way to aim is correct, and worth its compile time.

        Squares that no τ divides may overflow; of large points there are few.
        """
        rows, columns = self.leaf_spec.points_shape[:2]
        return self.settings.normalization is not None and rows * columns <= linalg.UNROLLED_SIZE
