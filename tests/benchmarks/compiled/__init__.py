"""What an update costs on an H100 and on a TPU v5e, counted in the program that XLA compiles.

XLA compiles for a described device without having one. The counts are exact and the same on every
run, so that a change of a few per cent is a change of the code:

    python -m tests.benchmarks.compiled                    compare with the committed table
    python -m tests.benchmarks.compiled --only sphere      a part of it
    python -m tests.benchmarks.compiled --write            replace the committed table

The first run makes an environment with the compilers of both devices, a few hundred megabytes. No
device is used. Exit code 1 says that an update moves more bytes, launches more kernels or needs
more memory than in the committed table.

Updates named Pallas are `fgsgd` and `riemannian_adam` with steps by kernels of Pallas
(`fgsgd_jax/kernels/_blocks.py`), as a process that has such a device takes them: by
`apply_gradients`, so that the kernels write the new weights, or "added" by `optax.apply_updates`.
The others take none, as on several devices, on older GPUs and for large points. README.md tells
which other ways were tried.

- bytes: read and written by all kernels, per weight. On an H100 the operands and results of every
  kernel are counted; on a TPU it is the estimate of XLA, which includes the padding of tiles, so
  that ratios matter only. Kernels of Pallas there count the tiles of their operands and results.
- kernels: launched per leaf.
- temporary: temporary memory over that of the weights.
- collectives: operations that exchange data between devices.
- atomics: scatters that add floats in an order that is not fixed. On a GPU two runs may then differ
  in the last bit.
"""
