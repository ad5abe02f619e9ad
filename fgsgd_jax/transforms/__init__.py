"""The links of a chain on manifolds, as Optax transformations."""

from fgsgd_jax.transforms._descent import DescendOnManifoldsState as DescendOnManifoldsState
from fgsgd_jax.transforms._descent import Normalization as Normalization
from fgsgd_jax.transforms._descent import descend_on_manifolds as descend_on_manifolds
from fgsgd_jax.transforms._feature_std import arrived as arrived
from fgsgd_jax.transforms._feature_std import get_feature_std as get_feature_std
from fgsgd_jax.transforms._feature_std import set_feature_std as set_feature_std
from fgsgd_jax.transforms._momentum import TraceOnManifoldState as TraceOnManifoldState
from fgsgd_jax.transforms._momentum import trace_on_manifold as trace_on_manifold
from fgsgd_jax.transforms._params import require_params as require_params
from fgsgd_jax.transforms._retraction import RetractUpdatesState as RetractUpdatesState
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
from fgsgd_jax.transforms._tangent import ProjectToTangentState as ProjectToTangentState
from fgsgd_jax.transforms._tangent import project_to_tangent as project_to_tangent
