"""Measure what the parts of this library cost, and how accurate they are, next to alternatives.

Contestants run in turn, in a new order each round; every run is waited for, and none includes
compilation. A ratio is the ratio of the medians over the rounds; the middle half shows the ratios
of single rounds, without the lowest and the highest quarter (on a busy machine the ratio of the
medians may lie outside). What is faster than 2 ms runs several times in a row. On an accelerator,
the time includes what the host needs to start an update. To measure on one core, start the program
under `taskset -c 0`.

- updates: whole updates of all weights of a network, compared with optax.sgd and optax.adamw:
  the table of `python -m fgsgd_jax bench`, whose --help explains its columns.
- compilation: time to trace and compile an update; of 480 leaves; of 4 and 4,096 groups.
- verbs: to_tangent, retract and residual, compared with one pass x − 0.1·g over the same array,
  by the size of a component and by the number of components.
- accuracy: every fast routine in float32, compared with NumPy and SciPy in float64.
- matrices: large Stiefel points: the retraction compared with a QR decomposition, the update with
  a landing step and optax.contrib.muon; orthonormality after many long steps.
- share: the share of the update in a training step of a ResNet-20 for CIFAR.
- growth: the time of an update from 10⁴ to 10⁷ components, with a figure.
- peers: the same step in other libraries, where they are installed.
- paths: training steps of Path-SGD, compared with those of SGD on the same network and batch.
"""
