"""The links of a chain on manifolds, as Optax transformations."""

from fgsgd_jax.transforms._feature_std import get_feature_std as get_feature_std
from fgsgd_jax.transforms._feature_std import set_feature_std as set_feature_std
from fgsgd_jax.transforms._fused import FusedState as FusedState
from fgsgd_jax.transforms._fused import chain_links as chain_links
from fgsgd_jax.transforms._link import Link as Link
from fgsgd_jax.transforms._link import SpecState as SpecState
from fgsgd_jax.transforms._link import require_params as require_params
from fgsgd_jax.transforms._link import require_state as require_state
from fgsgd_jax.transforms._master import MasterState as MasterState
from fgsgd_jax.transforms._master import with_master_weights as with_master_weights
from fgsgd_jax.transforms._momentum import TraceOnManifoldState as TraceOnManifoldState
from fgsgd_jax.transforms._momentum import trace_on_manifold as trace_on_manifold
from fgsgd_jax.transforms._rate import scale_by_learning_rate as scale_by_learning_rate
from fgsgd_jax.transforms._retraction import retract_updates as retract_updates
from fgsgd_jax.transforms._step import Group as Group
from fgsgd_jax.transforms._step import PerGroup as PerGroup
from fgsgd_jax.transforms._step import ScalarOrScheduleOrGroup as ScalarOrScheduleOrGroup
from fgsgd_jax.transforms._step import ScaleByFgsgdState as ScaleByFgsgdState
from fgsgd_jax.transforms._step import group_of as group_of
from fgsgd_jax.transforms._step import normalizer as normalizer
from fgsgd_jax.transforms._step import per_group as per_group
from fgsgd_jax.transforms._step import scale_by_fgsgd as scale_by_fgsgd
from fgsgd_jax.transforms._step import value_at as value_at
from fgsgd_jax.transforms._tangent import project_to_tangent as project_to_tangent
