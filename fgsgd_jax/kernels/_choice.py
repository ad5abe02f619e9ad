"""Which manifolds have a kernel, and which kernel a weight gets."""

from collections.abc import Callable

import jax

from fgsgd_jax.geometry import Euclidean, Manifold, Oblique, Sphere, Stiefel
from fgsgd_jax.kernels._euclidean import EuclideanKernel
from fgsgd_jax.kernels._kernel import Kernel, VerbsKernel
from fgsgd_jax.kernels._mixture import MixtureKernel
from fgsgd_jax.kernels._sphere import ObliqueKernel, SphereKernel
from fgsgd_jax.kernels._stiefel import RotationKernel
from fgsgd_jax.spec import Collection, LeafSpec


def _stiefel(manifold: Stiefel, size: tuple[int, int], bounded: bool) -> Kernel:
    rotates = manifold.retraction == "polar" and size == (3, 3)
    return RotationKernel() if rotates else VerbsKernel(manifold)


# A kernel carries momentum by projection and measures with the Frobenius inner product, which is
# known of these manifolds, but not of a user's.
KERNELS: dict[type[Manifold], Callable[..., Kernel]] = {
    Euclidean: lambda manifold, size, bounded: EuclideanKernel(),
    Sphere: lambda manifold, size, bounded: SphereKernel(),
    Oblique: lambda manifold, size, bounded: ObliqueKernel(bounded=bounded),
    Stiefel: _stiefel,
}


def has_kernels(spec: Collection) -> bool:
    """Whether every manifold of a spec has a kernel."""
    return all(
        type(manifold) in KERNELS
        for _, leaf_spec in spec.on_manifolds()
        for manifold in leaf_spec.manifolds
    )


def kernel_for(leaf_spec: LeafSpec, manifold_ids: jax.Array | None, *, bounded: bool) -> Kernel:
    """The kernel of a weight.

    Args:
        leaf_spec: The leaf spec of the weight.
        manifold_ids: The drawn manifold of every component.
        bounded: Whether steps are divided by τ, so that their squares are finite.
    """
    size = leaf_spec.points_shape[:2]
    kernels = [KERNELS[type(manifold)](manifold, size, bounded) for manifold in leaf_spec.manifolds]
    if manifold_ids is None:
        return kernels[0]
    return MixtureKernel(manifold_ids, kernels)
