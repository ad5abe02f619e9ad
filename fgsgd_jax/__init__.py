"""Optimization on weight manifolds, as Optax transformations.

In the order of use: `collection` decides from paths and shapes how each weight is cut into
components and on which manifolds they lie, `project` moves the weights there, `fgsgd` trains them
there, and `residual` measures how far they are from their manifolds.

The public names are those below and those of the modules `norms`, `bounds`, `diagnostics`,
`checks`, `nnx` and `linen`. All other modules are the implementation.
"""

import sys as _sys

if _sys.argv[:1] == ["-m"] and "fgsgd_jax" in _sys.orig_argv:  # the program, which starts here
    from fgsgd_jax.experiments.cli import leave_at_ctrl_c as _leave_at_ctrl_c

    _leave_at_ctrl_c()

from fgsgd_jax import bounds as bounds
from fgsgd_jax import checks as checks
from fgsgd_jax import diagnostics as diagnostics
from fgsgd_jax import norms as norms
from fgsgd_jax.diagnostics import report as report
from fgsgd_jax.geometry import Euclidean as Euclidean
from fgsgd_jax.geometry import Manifold as Manifold
from fgsgd_jax.geometry import Oblique as Oblique
from fgsgd_jax.geometry import Product as Product
from fgsgd_jax.geometry import Sphere as Sphere
from fgsgd_jax.geometry import Stiefel as Stiefel
from fgsgd_jax.optimizers import fgsgd as fgsgd
from fgsgd_jax.optimizers import manifold_muon as manifold_muon
from fgsgd_jax.optimizers import on_manifold as on_manifold
from fgsgd_jax.optimizers import rdog as rdog
from fgsgd_jax.optimizers import riemannian_adam as riemannian_adam
from fgsgd_jax.optimizers import robbins_monro as robbins_monro
from fgsgd_jax.optimizers import rsgd as rsgd
from fgsgd_jax.pathsgd import balance as balance
from fgsgd_jax.pathsgd import path_norm as path_norm
from fgsgd_jax.pathsgd import path_scales as path_scales
from fgsgd_jax.pathsgd import path_sgd as path_sgd
from fgsgd_jax.pathsgd import scale_by_path as scale_by_path
from fgsgd_jax.pathsgd import unbalance as unbalance
from fgsgd_jax.spec import Collection as Collection
from fgsgd_jax.spec import Component as Component
from fgsgd_jax.spec import LeafSpec as Layer  # noqa: F401 (its former name, kept)
from fgsgd_jax.spec import LeafSpec as LeafSpec
from fgsgd_jax.spec import Pom as Pom
from fgsgd_jax.spec import collection as collection
from fgsgd_jax.spec import initialize as initialize
from fgsgd_jax.spec import pom as pom
from fgsgd_jax.spec import project as project
from fgsgd_jax.spec import residual as residual
from fgsgd_jax.transforms import Group as Group
from fgsgd_jax.transforms import apply_gradients as apply_gradients
from fgsgd_jax.transforms import average_on_manifolds as average_on_manifolds
from fgsgd_jax.transforms import checked as checked
from fgsgd_jax.transforms import get_average as get_average
from fgsgd_jax.transforms import get_feature_std as get_feature_std
from fgsgd_jax.transforms import keep_on_manifolds as keep_on_manifolds
from fgsgd_jax.transforms import land_updates as land_updates
from fgsgd_jax.transforms import per_group as per_group
from fgsgd_jax.transforms import project_to_tangent as project_to_tangent
from fgsgd_jax.transforms import retract_updates as retract_updates
from fgsgd_jax.transforms import scale_by_fgsgd as scale_by_fgsgd
from fgsgd_jax.transforms import scale_by_manifold_muon as scale_by_manifold_muon
from fgsgd_jax.transforms import scale_by_rdog as scale_by_rdog
from fgsgd_jax.transforms import scale_by_riemannian_adam as scale_by_riemannian_adam
from fgsgd_jax.transforms import set_feature_std as set_feature_std
from fgsgd_jax.transforms import trace_on_manifold as trace_on_manifold
from fgsgd_jax.transforms import with_master_weights as with_master_weights

__version__ = "0.1.0"
