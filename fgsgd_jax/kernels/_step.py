"""`fused_step`: a whole step of one weight, Algorithm 1, in as few passes over memory as possible.

It equals the chain of the links up to rounding; `tests/kernels` hold it to that. `_passes.py` has
the form that every platform can run, `_gpu.py` and `_blocks.py` have those for GPUs.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from fgsgd_jax import _xla_cpu, linalg
from fgsgd_jax.kernels._blocks import blocks, fits_blocks
from fgsgd_jax.kernels._choice import kernel_for
from fgsgd_jax.kernels._gpu import two_passes
from fgsgd_jax.kernels._passes import passes
from fgsgd_jax.kernels._shared import Drawn, Numbers, Result, Settings, Step
from fgsgd_jax.kernels._sphere import RescalingKernel
from fgsgd_jax.spec import (
    Coordinates,
    LeafSpec,
    keeps_sharding,
    split_by_rows,
    step_radius,
    times,
)

# Platforms where points are held entry by entry in registers, and the largest such points. With
# `GPUS = ()` every platform computes by passes over arrays.
GPUS = ("cuda", "rocm")
LARGEST_IN_REGISTERS = 25


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
        x, g = form(leaf_spec.unit_points(weight, s)), form(leaf_spec.points(gradient))
        g = times(g, factor)
        normal = kernel.normal(x, g)
        return kernel.length(kernel.tangent(x, g, normal), normal)

    return _on_platform(
        leaf_spec,
        (lambda: norms(linalg.Entries.of)) if isinstance(kernel, RescalingKernel) else None,
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
    bounded = settings.normalization is not None
    kernel = kernel_for(leaf_spec, drawn.manifold_ids, bounded=bounded)
    step = Step(
        leaf_spec, kernel, weight, gradient, trace, drawn.groups, scales, numbers, exact, divisors,
        settings,
    )  # fmt: skip
    if not bounded:  # squares may overflow, and the length of a step is measured on the way
        return passes(step, after)
    on_gpu = two_passes if isinstance(kernel, RescalingKernel) else None
    if settings.pallas and _is_small(leaf_spec) and fits_blocks(step):
        on_gpu = blocks
    return _on_platform(
        leaf_spec, on_gpu and (lambda: on_gpu(step, after)), lambda: passes(step, after)
    )


def _is_small(leaf_spec: LeafSpec) -> bool:
    rows, columns = leaf_spec.points_shape[:2]
    return rows * columns <= LARGEST_IN_REGISTERS


def _on_platform(leaf_spec: LeafSpec, on_gpu: Callable | None, elsewhere: Callable) -> Any:
    """What a program lowered for a GPU does with small points, or what every other one does."""
    if on_gpu is None or not _is_small(leaf_spec) or _xla_cpu.in_shard_map():
        return elsewhere()
    return lax.platform_dependent(default=elsewhere, **dict.fromkeys(GPUS, on_gpu))
