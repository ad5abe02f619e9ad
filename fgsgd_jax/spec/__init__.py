"""The spec: how every weight of a network is cut, grouped and placed on manifolds."""

# Public: `fgsgd_jax` exports these.
from fgsgd_jax.spec._collection import Collection as Collection
from fgsgd_jax.spec._components import Component as Component
from fgsgd_jax.spec._leaf import LeafSpec as LeafSpec
from fgsgd_jax.spec._placing import initialize as initialize
from fgsgd_jax.spec._placing import project as project
from fgsgd_jax.spec._placing import residual as residual
from fgsgd_jax.spec._request import Pom as Pom
from fgsgd_jax.spec._request import pom as pom
from fgsgd_jax.spec._rules import collection as collection

# isort: split
# Seams: for the other rooms of the library, not for users.
from fgsgd_jax.spec._collection import require_collection as require_collection
from fgsgd_jax.spec._feature_std import checked_feature_stds as checked_feature_stds
from fgsgd_jax.spec._groups import Groups as Groups
from fgsgd_jax.spec._groups import drawn_groups as drawn_groups
from fgsgd_jax.spec._groups import group_members as group_members
from fgsgd_jax.spec._groups import group_norms as group_norms
from fgsgd_jax.spec._groups import group_sums as group_sums
from fgsgd_jax.spec._groups import per_component as per_component
from fgsgd_jax.spec._kept_scales import squared_norm as squared_norm
from fgsgd_jax.spec._leaf import times as times
from fgsgd_jax.spec._mixture import select as select
from fgsgd_jax.spec._reasons import AS_ASKED as AS_ASKED
from fgsgd_jax.spec._reasons import Reason as Reason
from fgsgd_jax.spec._scales import Coordinates as Coordinates
from fgsgd_jax.spec._scales import checked_coordinates as checked_coordinates
from fgsgd_jax.spec._scales import step_radius as step_radius
from fgsgd_jax.spec._schemes import SCHEMES as SCHEMES
from fgsgd_jax.spec._schemes import Scheme as Scheme
from fgsgd_jax.spec._schemes import summed_axes as summed_axes
from fgsgd_jax.spec._sharding import keeps_sharding as keeps_sharding
from fgsgd_jax.spec._sharding import on_automatic_axes as on_automatic_axes
from fgsgd_jax.spec._sharding import split_by_rows as split_by_rows
from fgsgd_jax.spec._walk import map_leaves as map_leaves
from fgsgd_jax.spec._walk import require_gradients as require_gradients
from fgsgd_jax.spec._walk import require_known_leaves as require_known_leaves
from fgsgd_jax.spec._walk import require_weights as require_weights
from fgsgd_jax.spec._walk import spec_of_leaf as spec_of_leaf
