"""Path-SGD: the path norm, its scales, the optimizer, and rescalings of hidden units."""

from fgsgd_jax.pathsgd._balance import balance as balance
from fgsgd_jax.pathsgd._balance import unbalance as unbalance
from fgsgd_jax.pathsgd._network import require_input_shape as require_input_shape
from fgsgd_jax.pathsgd._norm import path_norm as path_norm
from fgsgd_jax.pathsgd._norm import path_scales as path_scales
from fgsgd_jax.pathsgd._optimizer import path_sgd as path_sgd
from fgsgd_jax.pathsgd._optimizer import scale_by_path as scale_by_path
