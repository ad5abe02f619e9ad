"""Steps on 3×3 orthogonal matrices: a rotation, whose axis decides everything."""

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.kernels._kernel import Kernel


class RotationKernel(Kernel):
    """A polar step of `Stiefel` on 3×3 points.

    The tangent vector is x·hat(w) with the axis w of the skew part of xᵀg, three numbers, and the
    polar factor of x + t·v is x·r, with r the rotation by arctan ‖tw‖ about w, four numbers.
    """

    approximates_aim = True
    has_costly_aim = True
    mixes_entries = True

    def normal(self, x, g):
        return linalg.axis_3x3(x, g)

    def tangent(self, x, g, normal):
        return linalg.times_hat(x, normal)

    def squares(self, x, v, normal):
        return 2 * linalg.square_norm(normal[None])

    def length(self, v, normal):
        return linalg.finite_or_nan(2**0.5 * linalg.norm(normal[None]))

    def aim(self, x, v, t, normal, squares, at_rest, *, exact):
        *p, sigma = linalg.rotation_3x3(normal, t)
        # σ is positive in a rotation: −σ marks a point at rest. NaN in σ makes the whole move NaN;
        # in all four numbers, XLA would compile the check four times.
        sigma = jnp.where(at_rest, -sigma, sigma)
        if exact:
            sigma = jnp.where(at_rest | _may_start(x, on_cpu=True), sigma, jnp.nan)
        return jnp.stack([*p, sigma])

    def amplifies_rounding(self, t, normal):
        return jnp.array(False)

    def move(self, x, v, t, aimed, *, exact):
        *p, sigma = aimed
        at_rest = sigma < 0
        moved = linalg.turned_3x3(x, [*p, jnp.abs(sigma)], polished=exact, at_rest=at_rest)
        if not exact:
            return moved
        return jnp.where(at_rest | _may_start(x, on_cpu=False), moved, jnp.nan)


def _may_start(x: jax.Array, *, on_cpu: bool) -> jax.Array:
    """Whether an exact step may start at x: points that are too far off give NaN, unless they rest.

    On accelerators the move finds them, since it needs xᵀx as well. XLA's CPU compiler would store
    the whole move for that (seen with jaxlib 0.10.2), so there it is the aim.

    Args:
        x: The points.
        on_cpu: Whether to ask on the CPU, or everywhere else; where it is not asked, they may.
    """
    if _xla_cpu.in_shard_map():  # where both branches have to vary between devices
        return linalg.is_polishable_3x3(x) if on_cpu else jnp.array(True)

    def every(x):
        return jnp.ones(x.shape[2:], bool)

    on_this, on_others = linalg.is_polishable_3x3, every
    if not on_cpu:
        on_this, on_others = on_others, on_this
    return lax.platform_dependent(x, cpu=on_this, default=on_others)
