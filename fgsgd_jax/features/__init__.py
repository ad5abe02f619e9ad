"""Statistics of the features that enter the kernels of a network, for any framework.

`trace` evaluates a network and finds the features that enter each kernel; `standard_deviations` and
`map_sizes` turn traces into what `feature_std` and `feature_map_sizes` of the framework packages
(`fgsgd_jax.nnx`, `fgsgd_jax.linen`) return.
"""

from fgsgd_jax.features._statistics import map_sizes as map_sizes
from fgsgd_jax.features._statistics import moments as moments
from fgsgd_jax.features._statistics import no_statistic as no_statistic
from fgsgd_jax.features._statistics import standard_deviations as standard_deviations
from fgsgd_jax.features._tracing import Trace as Trace
from fgsgd_jax.features._tracing import trace as trace
