"""A function of one component, computed for all of them by a single kernel of Pallas."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fgsgd_jax.kernels import _pallas_gpu, _pallas_tpu
from fgsgd_jax.kernels._scalars import Scalars

# Whether JAX interprets the kernels, as tests of them on a CPU need.
INTERPRET = False

# Platforms whose programs take steps in a form of their own, with kernels of Pallas or without.
GPUS = ("cuda", "rocm")
TPUS = ("tpu",)
LEAST_CAPABILITY = 8.0  # the compute capability that kernels of Pallas need (Ampere)


def platforms(wanted: bool | None) -> tuple[str, ...]:
    """The platforms whose programs take steps by kernels.

    Args:
        wanted: Whether all do for which kernels are written; None for those that have a device in
            this process on which the kernels can run.
    """
    if wanted is None:
        return _platforms_here()
    return GPUS + TPUS if wanted else ()


def _platforms_here() -> tuple[str, ...]:
    """The platform of the devices that this process computes on, if kernels can run there.

    A program knows its platform when it is lowered, but not which GPU will run it.
    """
    device = jax.devices()[0]
    if importlib.util.find_spec("jax.experimental.pallas") is None:
        return ()
    if device.platform == "tpu":
        return TPUS
    try:
        capability = float(getattr(device, "compute_capability", "0"))
    except ValueError:  # AMD's GPUs have names in its place, such as gfx90a
        return ()
    return ("cuda",) if capability >= LEAST_CAPABILITY else ()


class OneKernel:
    """A function of arrays `(rows, columns)` and of numbers, for every component at once.

    Args:
        function: Called as `function(points, numbers)`; returns a tuple of arrays or None. Whole
            numbers arrive as int32.
        points: A tuple of arrays `(rows, columns, *lanes)` or None.
        numbers: A tree of arrays that broadcast against `(*lanes)`.

    Raises:
        NotScalar: If the function is not made of scalar operations.
    """

    def __init__(self, function: Callable, points: tuple, numbers: Any):
        self.name, self.points = function.__name__.strip("_"), jax.tree.leaves(points)
        self.numbers = [jnp.asarray(number) for number in jax.tree.leaves(numbers)]
        self.lanes = self.points[0].shape[2:]

        def one(array):
            return jax.ShapeDtypeStruct(array.shape[:2], array.dtype)

        def number(array):
            dtype = jnp.result_type(array)
            whole = jnp.issubdtype(dtype, jnp.integer)
            return jax.ShapeDtypeStruct((), jnp.int32 if whole else dtype)

        of_one = jax.tree.map(one, points), jax.tree.map(number, numbers)
        self.scalars = Scalars(function, *of_one)

    def __call__(self, platform: str, overwritten: Mapping[int, int]) -> Any:
        """The results, `(*shape, *lanes)` for every array `shape` that the function returns.

        Args:
            platform: The platform whose kernel it is, "tpu" or a GPU.
            overwritten: By position among the points, the position of the result that takes their
                place in memory.
        """
        launch = _pallas_tpu.launch if platform == "tpu" else _pallas_gpu.launch
        computed = launch(
            self.scalars, self.points, self.numbers, name=self.name, interpret=INTERPRET,
            input_output_aliases=dict(overwritten),
        )  # fmt: skip
        shaped = zip(computed, self.scalars.outputs, strict=True)
        return self.scalars.tree.unflatten([a.reshape(r.shape + self.lanes) for a, r in shaped])
