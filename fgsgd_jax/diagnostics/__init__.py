"""Diagnostics: what a step does to the weights on manifolds, and how they are.

Three ways to the same numbers: `diagnose` gives them by path, `report` prints and draws them, and
`of_gradients` and `of_updates` are measures for `optax.monitor`, which keeps them in its state at
every step.

    drift       the largest residual of a component: how far the weight is off its manifolds
    normal      the share of a vector that is not tangent, ‖v − Pv‖/‖v‖: of a gradient, what the
                projection takes away; of a tangent vector, 0
    g           the norm of the Riemannian gradient of a group (Theorem 1, eq. 6)
    τ           its step-size normalizer (eq. 5); above 1 the step no longer grows with the gradient
    angle       by how much an update turns a component, in radians: the relative step

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019.
"""

from fgsgd_jax.diagnostics._diagnosis import Diagnosis as Diagnosis
from fgsgd_jax.diagnostics._diagnosis import diagnose as diagnose
from fgsgd_jax.diagnostics._diagnosis import summary as summary
from fgsgd_jax.diagnostics._measures import of_gradients as of_gradients
from fgsgd_jax.diagnostics._measures import of_updates as of_updates
from fgsgd_jax.diagnostics._report import Report as Report
from fgsgd_jax.diagnostics._report import report as report
