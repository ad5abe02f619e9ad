"""The generalization bounds of Table 1, in logarithms and term by term, and margins.

With L layers, N training samples, width ϖ, and the norms δ of the groups g of every layer l, the
rows of Table 1 are, up to constants and logarithmic factors,

    Neyshabur et al. 2015   2ᴸ ∏ₗ∏g δ_F / √N
    Bartlett et al. 2017    ∏ₗ∏g δ₂ / √N · (Σₗ ∏g (δ₂→₁/δ₂)^⅔)^(3/2)
    Neyshabur et al. 2018   ∏ₗ∏g δ₂ / √N · √(L²ϖ Σₗ ∏g δ_F²/δ₂²)

Here δ is the norm itself, which is its own least upper bound: δ_F Frobenius, δ₂ spectral, and δ₂→₁
the sum of the norms of the rows. There are two choices of groups:

    network.groups   δ is the norm of the components of a group side by side. Its rows are the rows
                     of a component.
    network.layers   Every layer is one group, δ the norm of its matrix, outputs × inputs. Its rows
                     are output units, and the rows of the table are the bounds of the cited
                     theorems with no reference matrix and 1-Lipschitz activations.

No row accounts for normalization layers or biases.

Products over 10⁵ groups exceed the range of floating-point numbers, so everything is in logarithms.
The theorems also divide by a margin: see `normalized_margins`.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, Table 1.
    Neyshabur, Tomioka and Srebro, *Norm-based capacity control in neural networks*, COLT 2015.
    Bartlett, Foster and Telgarsky, *Spectrally-normalized margin bounds for neural networks*,
    NeurIPS 2017.
    Neyshabur, Bhojanapalli and Srebro, *A PAC-Bayesian approach to spectrally-normalized margin
    bounds for neural networks*, ICLR 2018.
"""

from fgsgd_jax.bounds._margins import NormalizedMargins as NormalizedMargins
from fgsgd_jax.bounds._margins import margins as margins
from fgsgd_jax.bounds._margins import normalized_margins as normalized_margins
from fgsgd_jax.bounds._networks import NetworkBounds as NetworkBounds
from fgsgd_jax.bounds._networks import bounds_of as bounds_of
from fgsgd_jax.bounds._networks import network_bounds as network_bounds
from fgsgd_jax.bounds._table import Bounds as Bounds
from fgsgd_jax.bounds._table import LayerTerms as LayerTerms
from fgsgd_jax.bounds._table import log_bounds as log_bounds
