"""Measure updates on an accelerator, compared with those of Optax and of other libraries.

Every program takes twenty updates, each from the weights and the state that the one before it
left, with the same gradient; weights and state are donated. A program and the baseline of its
weights run in turn, and a ratio is the ratio of their medians over the rounds. The bytes and
kernels are counted in the compiled program, as by `python -m tests.benchmarks.compiled`. A line
below the table says whether two runs from the same weights gave the same bits.

The first table compares updates of small weights with those of the plain links in float64 on the
CPU: the error is ‖update − reference‖ / ‖reference‖.

With --no-pallas programs take no steps by kernels of Pallas (`fgsgd_jax/kernels/_blocks.py`). To
see which form is faster, measure both on the same device:

    python -m tests.benchmarks.device --out results --only checks "3×3 kernels, float32"
    python -m tests.benchmarks.device --out results --only checks "3×3 kernels, float32" \
        --no-pallas --name passes

Programs are compiled in parallel while others are traced and measured, the most important ones
first. After --seconds no program is begun, and what is left is listed. Each result is written at
once; after Ctrl-C, table and figure show what there is until then.

H100.md shows what was measured on an H100.
"""
