"""For Flax NNX models: feature statistics, folding of batch normalization, and Path-SGD."""

from fgsgd_jax.nnx._batch_norm import fold_batch_norm as fold_batch_norm
from fgsgd_jax.nnx._features import feature_map_sizes as feature_map_sizes
from fgsgd_jax.nnx._features import feature_std as feature_std
from fgsgd_jax.nnx._paths import path_norm as path_norm
from fgsgd_jax.nnx._paths import path_scales as path_scales
from fgsgd_jax.nnx._paths import path_sgd as path_sgd
from fgsgd_jax.nnx._paths import scale_by_path as scale_by_path
