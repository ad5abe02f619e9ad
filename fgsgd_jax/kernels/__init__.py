"""Fast steps: the chain of links on manifolds, fused into as few passes over memory as possible.

Everything here equals textbook code elsewhere up to rounding, and exists for speed alone. To follow
the algorithm, read `transforms` and `geometry` instead.

A step has three forms, and a program takes one of them when it is lowered: passes over arrays
(`_passes.py`), for spheres and oblique manifolds on GPUs two passes over entries (`_gpu.py`), and
for small points on GPUs and TPUs kernels of Pallas (`_blocks.py`). To have passes over arrays
everywhere, set `fgsgd_jax.kernels.PALLAS = False` and `fgsgd_jax.kernels._pallas.GPUS = ()` before
an optimizer is made.

Kernels of Pallas are taken where the process computes on one TPU, or on one NVIDIA GPU of compute
capability 8.0 (Ampere) or later. `fgsgd_jax.kernels.PALLAS = False`, set before an optimizer is
made, leaves them out; `True` takes them for every GPU and TPU that a program is lowered for, also
where there is none. Take steps by `fgsgd_jax.apply_gradients`, so that they write the new weights.
They were compiled for an H100 and a TPU v5e, and the Triton and Mosaic programs that JAX makes of
them were interpreted and compared with the chain of links, but they have not been timed on a device
yet.

`jax.export` of a program that holds them needs `DisabledSafetyCheck.custom_call(…)` for
"__gpu$xla.gpu.triton" or "tpu_custom_call", exports for one platform at a time, and since JAX 0.11
for GPUs only where it finds one.
"""

from fgsgd_jax.kernels._choice import has_kernels as has_kernels
from fgsgd_jax.kernels._shared import Drawn as Drawn
from fgsgd_jax.kernels._shared import Normalization as Normalization
from fgsgd_jax.kernels._shared import Numbers as Numbers
from fgsgd_jax.kernels._shared import Result as Result
from fgsgd_jax.kernels._shared import Settings as Settings
from fgsgd_jax.kernels._step import fused_step as fused_step
from fgsgd_jax.kernels._step import tangent_norms as tangent_norms

# Whether optimizers that are made from now on step by kernels of Pallas on GPUs and TPUs; None for
# those that this process computes on, if they can run such kernels.
PALLAS: bool | None = None
