"""The machine and the versions with which something was measured."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Device, processor, cores, versions of JAX and Python, and the load of the machine."""
    return {
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "cores": cores(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "load": load(),
    }


def headline(content: Mapping[str, Any], rounds: int) -> str:
    """What `environment` returned, in one line.

    Args:
        content: What `environment` returned.
        rounds: The number of rounds.
    """
    return (
        f"{content['device']} ({content['processor']}), {content['cores']} CPU cores, "
        f"load {shown_load(content['load'])}, JAX {content['jax']}, Python {content['python']}, "
        f"{rounds} rounds"
    )


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """The average number of running processes over the last minute; None if unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def shown_load(load: float | None) -> str:
    """The load for people to read."""
    return "unknown" if load is None else f"{load:.1f}"


def _processor() -> str:
    try:  # on Linux, where `platform` does not know the model
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
