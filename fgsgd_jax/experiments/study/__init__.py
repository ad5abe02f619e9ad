"""Run a study: many methods on one problem, each with its hyperparameters tuned alike.

Every method is trained with all of its settings (learning rates, decays, …) from a few seeds; the
setting with the best mean validation score is then trained from the remaining seeds, and its test
results are reported: mean and deviation, and a paired test against the first method. The run folder
gets trials.jsonl (one line a trial), table.md and a figure. A study that was interrupted continues
when the same command is given the same folder; nothing is computed twice.
"""
