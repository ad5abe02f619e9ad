"""Checks: the laws that manifolds and optimizers obey, as functions to run on your own.

    check_manifold      projections project, geodesics satisfy their equation, distances are
                        distances, …
    check_random        random points are uniform
    check_retraction    a retraction has its order
    check_gradient      a function and its Riemannian gradient agree
    check_optimizer     an optimizer stays on the manifolds, moves nothing for zero gradients, takes
                        finite steps for huge ones, …

Each returns a `Report`, a table of laws: name, measured value, tolerance, verdict. By default a
check measures every law that applies. `laws` selects some of them by the names in that table, and
`tolerances` replaces their default tolerances. The tests of this library call the same functions
for every manifold and optimizer in it.

References:
    Boumal, Mishra, Absil and Sepulchre, *Manopt, a Matlab toolbox for optimization on manifolds*,
    JMLR 2014 (`checkmanifold`, `checkretraction`, `checkgradient`).
    Axen, Baran, Bergmann and Rzecki, *Manifolds.jl*, ACM TOMS 2023 (the numerical checks of
    ManifoldsBase.jl).
"""

from fgsgd_jax.checks._gradient import check_gradient as check_gradient
from fgsgd_jax.checks._manifold import check_manifold as check_manifold
from fgsgd_jax.checks._optimizer import check_optimizer as check_optimizer
from fgsgd_jax.checks._random import check_random as check_random
from fgsgd_jax.checks._report import Law as Law
from fgsgd_jax.checks._report import Report as Report
from fgsgd_jax.checks._retraction import check_retraction as check_retraction
