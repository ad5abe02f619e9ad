"""Laws that manifolds and optimizers keep, as functions that users run on their own."""

from fgsgd_jax.checks._checks import Law as Law
from fgsgd_jax.checks._checks import Report as Report
from fgsgd_jax.checks._checks import check_gradient as check_gradient
from fgsgd_jax.checks._checks import check_manifold as check_manifold
from fgsgd_jax.checks._checks import check_optimizer as check_optimizer
from fgsgd_jax.checks._checks import check_random as check_random
from fgsgd_jax.checks._checks import check_retraction as check_retraction
