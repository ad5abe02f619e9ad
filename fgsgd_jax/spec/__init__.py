"""Products of manifolds: how the weights of a network are cut, grouped and placed."""

from fgsgd_jax.spec._collection import Collection as Collection
from fgsgd_jax.spec._collection import Pom as Pom
from fgsgd_jax.spec._collection import checked_feature_stds as checked_feature_stds
from fgsgd_jax.spec._collection import collection as collection
from fgsgd_jax.spec._collection import initialize as initialize
from fgsgd_jax.spec._collection import map_leaves as map_leaves
from fgsgd_jax.spec._collection import pom as pom
from fgsgd_jax.spec._collection import project as project
from fgsgd_jax.spec._collection import require_collection as require_collection
from fgsgd_jax.spec._collection import residual as residual
from fgsgd_jax.spec._components import Component as Component
from fgsgd_jax.spec._leaf import LeafSpec as LeafSpec
from fgsgd_jax.spec._scales import Coordinates as Coordinates
from fgsgd_jax.spec._scales import checked_coordinates as checked_coordinates
from fgsgd_jax.spec._scales import step_radius as step_radius
from fgsgd_jax.spec._schemes import SCHEMES as SCHEMES
from fgsgd_jax.spec._schemes import Scheme as Scheme
from fgsgd_jax.spec._schemes import summed_axes as summed_axes
