"""For Flax Linen models: feature statistics and Path-SGD."""

from fgsgd_jax.linen._features import feature_map_sizes as feature_map_sizes
from fgsgd_jax.linen._features import feature_std as feature_std
from fgsgd_jax.linen._paths import path_norm as path_norm
from fgsgd_jax.linen._paths import path_scales as path_scales
from fgsgd_jax.linen._paths import path_sgd as path_sgd
from fgsgd_jax.linen._paths import scale_by_path as scale_by_path
