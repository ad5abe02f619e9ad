"""Norms of weights: of components, groups, layers and networks, and of convolutions.

Three norms enter the generalization bounds of Table 1: Frobenius, spectral (the largest singular
value) and 2→1, the sum of the Euclidean norms of the rows. They are norms of the weights as given,
at whatever scale:

    component   of each of the matrices into which the spec cuts a weight
    group       of the matrix of the components of a group side by side, [ω¹, ω², …]: the paper's
                concatenation (Definition 1 and footnote 2). It is never below the norm of a
                component, so never below their geometric mean (Remark 1)
    layer       of the whole weight as one matrix, outputs × (receptive field · inputs), the matrix
                for which the bounds were first stated: its rows are output units
    network     products over the groups or the layers, in logarithms

A weight on no manifold is one component, one group and one layer: the matrix of the whole layer,
with its last axis as outputs. The norm of the matrix of a kernel is not the norm of the convolution
as a linear map, which depends on map size, stride and padding: that is `convolution_norm`.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, Tables 1 and 2 and
    Remark 1. The 2→1 row of its Table 2 does not follow from the definition; compute the norm.
"""

from fgsgd_jax.norms._convolutions import convolution_norm as convolution_norm
from fgsgd_jax.norms._matrices import Norms as Norms
from fgsgd_jax.norms._matrices import frobenius as frobenius
from fgsgd_jax.norms._matrices import norms_of as norms_of
from fgsgd_jax.norms._matrices import spectral as spectral
from fgsgd_jax.norms._matrices import two_to_one as two_to_one
from fgsgd_jax.norms._weights import NetworkNorms as NetworkNorms
from fgsgd_jax.norms._weights import component_norms as component_norms
from fgsgd_jax.norms._weights import group_matrices as group_matrices
from fgsgd_jax.norms._weights import group_norms as group_norms
from fgsgd_jax.norms._weights import layer_norms as layer_norms
from fgsgd_jax.norms._weights import network_norms as network_norms
from fgsgd_jax.norms._weights import weights_of as weights_of
