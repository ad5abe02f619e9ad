"""Compiles cases for a device and prints one JSON object a line; runs where its compiler is.

`python -m tests.benchmarks.compiled.worker DEVICE [PATTERN …]`, with the environment variables of
`devices.environment`.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from . import programs
from .cases import Case, cases
from .devices import DEVICES


def main(device: str, *patterns: str) -> None:
    """Compiles the cases whose name contains all patterns."""
    topology = DEVICES[device].topology()
    sharding = NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())
    for case in chosen(patterns, device):
        print(json.dumps(counted(case, device, sharding)), flush=True)


def chosen(patterns: Sequence[str], device: str) -> list[Case]:
    """The cases of a device whose name contains all patterns."""
    return [
        case
        for case in cases()
        if device in case.devices and all(pattern in case.name for pattern in patterns)
    ]


def counted(case: Case, device: str, sharding: NamedSharding) -> dict[str, Any]:
    """The counts of one case."""
    update, arguments = case.traced()
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arguments
    )
    compiled: Any = jax.jit(update, donate_argnums=(0, 1)).lower(*placed).compile()
    text = compiled.as_text()
    moved = programs.kernels(text)
    if DEVICES[device].counts_kernels:
        total = sum(moved)
    else:
        total = compiled.cost_analysis()["bytes accessed"]
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return {
        "device": device,
        "block": case.block,
        "label": case.label,
        "bytes": total / case.weights,
        "limit": case.limit,
        "kernels": len(moved) / case.leaves,
        "temporary": temporary / case.weight_bytes,
        "collectives": programs.collectives(text),
        "atomics": programs.float_atomics(text),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
