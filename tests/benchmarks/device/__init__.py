"""Measure updates on an accelerator, compared with those of Optax and of other libraries.

Every program takes twenty updates, each from the weights and the state that the one before it
left, with the same gradient; weights and state are donated. A program and the baseline of its
weights run in turn, and a ratio is the ratio of their medians over the rounds. The bytes and
kernels are counted in the compiled program, as by `python -m tests.benchmarks.compiled`. "Equal"
says whether two runs from the same weights gave the same bits.

The first table compares updates of small weights with those of the plain links in float64 on the
CPU: the error is ‖update − reference‖ / ‖reference‖, the largest of any weight.

Programs are compiled in parallel while others are measured. After --seconds no program is begun;
what is left is listed. Each result is written at once, so nothing is lost if the program is ended.
"""
