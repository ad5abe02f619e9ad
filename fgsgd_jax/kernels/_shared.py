"""What the forms of a step share: its arguments, and the length of the step."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.kernels._kernel import Kernel
from fgsgd_jax.spec import (
    Coordinates,
    Groups,
    LeafSpec,
    group_norms,
    per_component,
    step_radius,
    times,
)

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
        pallas: Whether programs for GPUs and TPUs take the step by kernels of Pallas; None for
            those whose devices are here and can run them.
        writes_weight: Whether the result is the new weight, in the place of the update.
    """

    coordinates: Coordinates
    nesterov: bool
    normalization: Normalization
    normalizer: Callable | None = None
    pallas: bool | None = False
    writes_weight: bool = False


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
    """The update, the new momentum, and a token that stands for the computation of both.

    With `Settings.writes_weight`, the new weight is in the place of the update.
    """

    update: jax.Array
    trace: jax.Array | None
    token: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of one weight: the arguments of `fused_step`, and what follows from them at once."""

    leaf_spec: LeafSpec
    kernel: Kernel
    weight: jax.Array
    gradient: jax.Array
    trace: jax.Array | None
    groups: Groups | None
    scales: tuple[jax.Array | None, jax.Array | None]
    numbers: Numbers
    exact: jax.Array | None
    divisors: jax.Array | None
    settings: Settings

    def x(self, form: Callable = lambda points: points) -> Any:
        """The points at unit scale, as an array or in another form."""
        x, s = form(self.leaf_spec.points(self.weight)), self.scales[0]
        return x if s is None else x / s

    def g(self, form: Callable = lambda points: points) -> Any:
        """The gradient of the points, with the same rounding in all passes.

        Next to the tangent part of a nearly normal gradient, its rounding is large. If two passes
        rounded it differently, the length measured in one would not be that of the step taken in
        the other.
        """
        g, x = form(self.leaf_spec.points(self.gradient)), self.x(form)
        if not _xla_cpu.reads_stored_arrays():
            g = linalg.rounded(g, x)
        _, factor = step_radius(self.settings.coordinates, self.scales[0])
        return g if factor is None else linalg.rounded(times(g, factor), x)

    def g_with_momentum(self, form: Callable = lambda points: points) -> Any:
        """The gradient, added to the momentum if there is one.

        The old momentum is carried by projection, which is linear: P(g) + d·P(m) = P(g + d·m).
        """
        g, share = self.g(form), self.numbers.share
        if self.trace is None:
            return g
        m = form(self.leaf_spec.points(self.trace))
        if share is not None:
            g = linalg.rounded(times(g, share), m)
        return g + self.numbers.decay * m

    def length(self, squares: jax.Array, lengths: Callable[[], jax.Array]) -> jax.Array:
        """t of the step t·v: minus the rate, divided by τ and by the radius; t·v can be squared.

        Args:
            squares: ⟨v, v⟩ of every component.
            lengths: ‖v‖ of every component, as a function.
        """
        if self.settings.normalization is None:
            rate, length = self.by_radius(self.numbers.rate), lengths()
            return jnp.where(jnp.isnan(length), length, self.kernel.shortened(-rate, length))
        if self.settings.normalization == "group":
            g = group_norms(self.leaf_spec, squares, self.groups)
            return self.by_radius(per_component(self.by_normalizer(g), self.groups))
        g = lengths() if self.settings.normalization == "component" else None
        return self.by_radius(self.by_normalizer(g))

    def by_normalizer(self, g: jax.Array | None) -> jax.Array:
        """Minus the rate, divided by τ of norms g, or None where given numbers divide the step."""
        rate, _, rho, curvature, _ = self.numbers
        # Divided by τ, no step is longer than the rate.
        rate = jnp.minimum(rate, linalg.SQUARABLE_STEP[rate.dtype.itemsize])
        tau: Any = self.settings.normalizer
        return -rate if g is None else -rate / tau(g, rho, curvature)

    def by_radius(self, t: jax.Array) -> jax.Array:
        """t, divided by the radius on which the step is taken."""
        radius, _ = step_radius(self.settings.coordinates, self.scales[0])
        return t if radius is None else t / radius

    def at_rest(self, t: jax.Array, squares: jax.Array) -> jax.Array:
        """Which components do not move: those whose v is 0, or all if the rate is.

        Not where t·v is 0, or its square: far off the manifold v is so long, and τ so large, that t
        underflows, and such a component has to land. NaN in t is kept: a component of a group that
        has no direction does not rest. The squares of a v shorter than about 1e-19 (float32)
        underflow, and it counts as 0.
        """
        return ((squares == 0) | (self.numbers.rate == 0)) & (t == t)

    def result(self, moved: jax.Array, momentum: jax.Array | None, token) -> Result:
        """The result, from R(x, t·v) − x and the new momentum as points."""
        new_trace = None
        if self.trace is not None and momentum is not None:
            new_trace = self.leaf_spec.to_weight(momentum, self.trace.dtype)
        update = self.leaf_spec.update(self.x(), moved, *self.scales, self.weight.dtype)
        if self.settings.writes_weight:
            update = self.weight + update
        return Result(update, new_trace, token)
