"""Optimizers on manifolds, as chains of links, and a schedule with a convergence guarantee."""

from fgsgd_jax.optimizers._fgsgd import fgsgd as fgsgd
from fgsgd_jax.optimizers._fgsgd import rsgd as rsgd
from fgsgd_jax.optimizers._manifold_muon import manifold_muon as manifold_muon
from fgsgd_jax.optimizers._on_manifold import on_manifold as on_manifold
from fgsgd_jax.optimizers._rdog import rdog as rdog
from fgsgd_jax.optimizers._riemannian_adam import riemannian_adam as riemannian_adam
from fgsgd_jax.optimizers._schedules import robbins_monro as robbins_monro
