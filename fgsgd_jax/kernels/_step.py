"""`fused_step`: a whole step of one weight, Algorithm 1, in as few passes over memory as possible.

It equals the chain of the links up to rounding; `tests/kernels` hold it to that. `_passes.py` has
the form that every platform can run, `_gpu.py` has one for GPUs, and `_blocks.py` one by kernels of
Pallas.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.kernels import _pallas
from fgsgd_jax.kernels._blocks import blocks, fits_blocks, fits_norms, norms_by_blocks
from fgsgd_jax.kernels._choice import kernel_for
from fgsgd_jax.kernels._gpu import two_passes
from fgsgd_jax.kernels._passes import passes
from fgsgd_jax.kernels._shared import Drawn, Numbers, Result, Settings, Step
from fgsgd_jax.kernels._sphere import RescalingKernel
from fgsgd_jax.spec import (
    LeafSpec,
    keeps_sharding,
    on_automatic_axes,
    split_by_rows,
    step_radius,
    times,
)

# The largest points that GPUs and TPUs hold entry by entry in registers.
LARGEST_IN_REGISTERS = 25


def tangent_norms(
    leaf_spec: LeafSpec,
    weight: jax.Array,
    gradient: jax.Array,
    manifold_ids: jax.Array | None,
    s: jax.Array | None,
    after: jax.Array | None,
    *,
    settings: Settings,
) -> jax.Array:
    """The norms of the Riemannian gradients of all components, `(*lanes)`."""

    def computed(*arrays):
        return _tangent_norms(leaf_spec, *arrays, settings=settings)

    return on_automatic_axes(computed, weight, gradient, manifold_ids, s, after, replicated=True)


def _tangent_norms(leaf_spec, weight, gradient, manifold_ids, s, after, *, settings):
    _, factor = step_radius(settings.coordinates, s)
    kernel = kernel_for(leaf_spec, manifold_ids, bounded=True)

    def norms(form: Callable = lambda points: points) -> jax.Array:
        x, g = form(leaf_spec.unit_points(weight, s)), form(leaf_spec.points(gradient))
        g = times(g, factor)
        normal = kernel.normal(x, g)
        return kernel.length(kernel.tangent(x, g, normal), normal)

    in_registers: dict[str, Callable] = {}
    by_pallas = _pallas_platforms(settings)
    if by_pallas and _is_small(leaf_spec):
        numbers = Numbers(*(jnp.zeros([], weight.dtype),) * 2)  # of a step, which is not taken here
        step = Step(
            leaf_spec, kernel, weight, gradient, None, None, (s, None), numbers, None, None,
            settings,
        )  # fmt: skip
        if fits_norms(step):
            in_registers = _of_platform(by_pallas, lambda name: norms_by_blocks(step, name))
    if isinstance(kernel, RescalingKernel):  # for which XLA makes one kernel, with what follows
        in_registers |= dict.fromkeys(_pallas.GPUS, lambda: norms(linalg.Entries.of))
    return _on_platform(
        leaf_spec, in_registers, lambda: _xla_cpu.materialize(norms, weight, after=after)
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
    bounded = settings.normalization is not None
    kernel = kernel_for(leaf_spec, drawn.manifold_ids, bounded=bounded)
    step = Step(
        leaf_spec, kernel, weight, gradient, trace, drawn.groups, scales, numbers, exact, divisors,
        settings,
    )  # fmt: skip
    if not bounded:  # squares may overflow, and the length of a step is measured on the way
        return passes(step, after)
    in_registers: dict[str, Callable] = {}
    by_pallas = _pallas_platforms(settings)
    if by_pallas and _is_small(leaf_spec) and fits_blocks(step):
        in_registers = _of_platform(by_pallas, lambda name: blocks(step, after, name))
    elif isinstance(kernel, RescalingKernel):
        in_registers = dict.fromkeys(_pallas.GPUS, lambda: two_passes(step, after))
    return _on_platform(leaf_spec, in_registers, lambda: passes(step, after))


def _is_small(leaf_spec: LeafSpec) -> bool:
    rows, columns = leaf_spec.points_shape[:2]
    return rows * columns <= LARGEST_IN_REGISTERS


def _pallas_platforms(settings: Settings) -> tuple[str, ...]:
    """The platforms whose programs take this step by kernels of Pallas, if it fits them."""
    platforms = _pallas.platforms(settings.pallas)
    # Under `jax_enable_x64` some numbers on the way have 64 bits, which kernels for TPUs refuse.
    if jnp.result_type(float) == jnp.float64:
        return tuple(name for name in platforms if name not in _pallas.TPUS)
    return platforms


def _of_platform(platforms: tuple[str, ...], function: Callable[[str], Any]) -> dict[str, Callable]:
    return {name: functools.partial(function, name) for name in platforms}


def _on_platform(
    leaf_spec: LeafSpec, in_registers: Mapping[str, Callable], elsewhere: Callable
) -> Any:
    """What a program does on its platform if points are small, or what all other programs do."""
    if not in_registers or not _is_small(leaf_spec) or _xla_cpu.in_shard_map():
        return elsewhere()
    return lax.platform_dependent(default=elsewhere, **in_registers)
