"""Diagnostics of weights on manifolds, their gradients and their updates.

There are three ways to the same numbers: `diagnose` returns them by path, `report` prints and draws
them (its address is `fgsgd_jax.report`), and `of_gradients` and `of_updates` are measures for
`optax.monitor`, which stores them in the state of the optimizer at every step.

    drift       the largest residual of a component: how far the weight is from its manifolds
    normal      the share of the gradient that is not tangent, ‖v − Pv‖/‖v‖, which the projection
                removes
    g           the norm of the Riemannian gradient of a group (Theorem 1, eq. 6)
    τ           its step-size normalizer (eq. 5); above 1, the step no longer grows with the
                gradient
    angle       the angle by which an update turns a component, in radians: the relative step

`relative_step`, ‖update‖/‖weight‖ of every leaf, needs no spec and is for any optimizer.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019.
"""

from fgsgd_jax.diagnostics._diagnosis import Diagnosis as Diagnosis
from fgsgd_jax.diagnostics._diagnosis import diagnose as diagnose
from fgsgd_jax.diagnostics._diagnosis import summary as summary
from fgsgd_jax.diagnostics._measures import of_gradients as of_gradients
from fgsgd_jax.diagnostics._measures import of_updates as of_updates
from fgsgd_jax.diagnostics._relative_step import relative_step as relative_step
from fgsgd_jax.diagnostics._report import Report as Report
from fgsgd_jax.diagnostics._report import report as report
