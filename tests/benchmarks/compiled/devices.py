"""The devices that XLA compiles for, and the packages that hold their compilers."""

import dataclasses
import os
from collections.abc import Callable

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 cuda_compute_capability { major: 9 }
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Device:
    """A device to compile for.

    Attributes:
        title: Its name.
        packages: What its compiler is installed from; `{jax}` stands for the version of JAX.
        without_dependencies: Packages of which only the compiler is needed, not the libraries that
            they depend on.
        variables: Environment variables of the process that compiles.
        topology: Called in that process: the device, as JAX describes it.
        counts_kernels: Whether the operands and results of kernels are all that is read and
            written; on a TPU loops and asynchronous copies hide the rest.
    """

    title: str
    packages: tuple[str, ...]
    without_dependencies: tuple[str, ...]
    variables: dict[str, str]
    topology: Callable
    counts_kernels: bool


def _h100():
    from jax.experimental import topologies

    return topologies.get_topology_desc("", "cuda", target_config=H100, topology="1x1x1")


def _v5e():
    from jax.experimental import topologies

    return topologies.get_topology_desc("v5e:2x2", platform="tpu")


# What the modules of the benchmark import.
PROGRAM = ("cyclopts", "rich", "tqdm")

DEVICES = {
    "h100": Device(
        title="H100",
        packages=("jax=={jax}", "optax=={optax}", *PROGRAM),
        without_dependencies=(
            "jax-cuda12-plugin=={jax}", "jax-cuda12-pjrt=={jax}", "nvidia-cuda-nvcc-cu12"
        ),
        # Autotuning would time kernels on a device.
        variables={
            "CUDA_VISIBLE_DEVICES": "",
            "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_shard_autotuning=false",
        },
        topology=_h100,
        counts_kernels=True,
    ),
    "v5e": Device(
        title="TPU v5e",
        packages=("jax[tpu]=={jax}", "optax=={optax}", *PROGRAM),
        without_dependencies=(),
        variables={"TPU_SKIP_MDS_QUERY": "1"},
        topology=_v5e,
        counts_kernels=False,
    ),
}  # fmt: skip


def environment(device: Device) -> dict[str, str]:
    """The environment variables of a process that compiles for a device."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", **device.variables}
