"""Products of manifolds: how the weights of a network are cut, grouped and placed."""

from fgsgd_jax.poms._collection import Collection as Collection
from fgsgd_jax.poms._collection import Pom as Pom
from fgsgd_jax.poms._collection import checked_feature_stds as checked_feature_stds
from fgsgd_jax.poms._collection import collection as collection
from fgsgd_jax.poms._collection import initialize as initialize
from fgsgd_jax.poms._collection import leaves_with_paths as leaves_with_paths
from fgsgd_jax.poms._collection import map_layers as map_layers
from fgsgd_jax.poms._collection import pom as pom
from fgsgd_jax.poms._collection import project as project
from fgsgd_jax.poms._collection import require_collection as require_collection
from fgsgd_jax.poms._collection import residual as residual
from fgsgd_jax.poms._components import Component as Component
from fgsgd_jax.poms._layers import Layer as Layer
from fgsgd_jax.poms._scales import Coordinates as Coordinates
from fgsgd_jax.poms._scales import checked_coordinates as checked_coordinates
from fgsgd_jax.poms._schemes import SCHEMES as SCHEMES
from fgsgd_jax.poms._schemes import Scheme as Scheme
