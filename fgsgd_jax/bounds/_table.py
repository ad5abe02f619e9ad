"""Table 1: the three bounds and their terms, from the norms of groups."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from fgsgd_jax._arrays import checked_array
from fgsgd_jax._numbers import known_number, require_number
from fgsgd_jax._text import shown
from fgsgd_jax.norms import Norms


class LayerTerms(NamedTuple):
    """The terms of one layer in the bounds: logarithms of products over its groups, scalars.

    Attributes:
        frobenius: log ∏g δ_F.
        spectral: log ∏g δ₂.
        two_to_one: log ∏g δ₂→₁.
        bartlett_ratio: log ∏g (δ₂→₁/δ₂)^⅔, the summand of the second row.
        neyshabur_ratio: log ∏g δ_F²/δ₂², the summand of the third row.

    Example:
        >>> import jax.numpy as jnp
        >>> from fgsgd_jax.norms import norms_of
        >>> bounds = log_bounds({"w": norms_of(jnp.eye(4)[..., None])}, samples=100, width=4)
        >>> round(
        ...     float(bounds.layers["w"].neyshabur_ratio), 4
        ... )  # log 4: one group, δ_F² = 4, δ₂ = 1
        1.3863

    References:
        Ozay, 2019, Table 1.
    """

    frobenius: jax.Array
    spectral: jax.Array
    two_to_one: jax.Array
    bartlett_ratio: jax.Array
    neyshabur_ratio: jax.Array


class Bounds(NamedTuple):
    """The three bounds of Table 1 and their terms, all logarithms and all scalars.

    Attributes:
        neyshabur_2015: `depth + frobenius + samples`.
        bartlett_2017: `spectral + bartlett_sum + samples`.
        neyshabur_2018: `spectral + neyshabur_sum + samples`.
        depth: log 2ᴸ.
        frobenius: log ∏ₗ∏g δ_F.
        spectral: log ∏ₗ∏g δ₂.
        bartlett_sum: log (Σₗ ∏g (δ₂→₁/δ₂)^⅔)^(3/2).
        neyshabur_sum: log √(L²ϖ Σₗ ∏g δ_F²/δ₂²).
        samples: log 1/√N.
        layers: The terms of every layer, by path.
    """

    neyshabur_2015: jax.Array
    bartlett_2017: jax.Array
    neyshabur_2018: jax.Array
    depth: jax.Array
    frobenius: jax.Array
    spectral: jax.Array
    bartlett_sum: jax.Array
    neyshabur_sum: jax.Array
    samples: jax.Array
    layers: dict[str, LayerTerms]

    @property
    def spectral_complexity(self) -> jax.Array:
        """The logarithm of R, the spectral complexity of Bartlett et al.: row 2 without 1/√N."""
        return self.spectral + self.bartlett_sum


def log_bounds(norms: Mapping[str, Norms], *, samples: jax.Array | int, width: int) -> Bounds:
    """The logarithms of the three bounds of Table 1, and of every term in them.

    Args:
        norms: By layer, the norms δ of its groups, `(groups,)` each: `network.groups` or
            `network.layers` of `fgsgd_jax.norms.network_norms`, or upper bounds of them.
        samples: N, the number of training samples.
        width: ϖ, the largest number of units in a layer.

    Returns:
        The bounds. A group of norm 0 makes them −∞; the ratios of such a group count as 1.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If there are no layers, or a number is below 1.

    Example:
        One layer of one group, the identity matrix of size 4: ‖·‖_F = 2, ‖·‖₂ = 1, ‖·‖₂→₁ = 4.

        >>> import jax.numpy as jnp
        >>> from fgsgd_jax.norms import norms_of
        >>> bounds = log_bounds({"w": norms_of(jnp.eye(4)[..., None])}, samples=100, width=4)
        >>> [round(float(jnp.exp(bound)), 4) for bound in bounds[:3]]  # 2·2/10, 4/10, √(4·4)/10
        [0.4, 0.4, 0.4]

    References:
        Ozay, 2019, Table 1.
    """
    _require_norms(norms)
    for name, number in (("samples", samples), ("width", width)):
        require_number(name, number)
        value = known_number(number)
        if value is not None and not 1 <= value < math.inf:
            raise ValueError(
                f"A bound needs {name} of at least 1, not {number}. Give `samples` as the number "
                "of training samples and `width` as the largest number of units in a layer."
            )
    bounds = _log_bounds(dict(norms), samples, width)
    # jit returns dictionaries with sorted keys.
    return bounds._replace(layers={path: bounds.layers[path] for path in norms})


def _require_norms(norms: Any) -> None:
    """Raises unless it has the norms of one layer at least."""
    source = "Give `groups` or `layers` of fgsgd_jax.norms.network_norms(params, spec)."
    if not isinstance(norms, Mapping):
        raise TypeError(
            "`norms` must be a dictionary with the Norms of every layer, got "
            f"{type(norms).__name__}. {source}"
        )
    if not norms:
        raise ValueError(
            f"Bounds need the norms of at least one layer, but the dictionary is empty. {source}"
        )
    for path, of_groups in norms.items():
        if not isinstance(of_groups, Norms):
            raise TypeError(
                f"The norms of {path!r} must be fgsgd_jax.norms.Norms, got "
                f"{shown(of_groups)}. {source}"
            )
        for name, norm in of_groups._asdict().items():
            checked_array(f"The norm {name!r} of {path!r}", norm)


@jax.jit
def _log_bounds(norms: dict[str, Norms], samples, width) -> Bounds:
    layers = {path: _layer_terms(of_groups) for path, of_groups in norms.items()}
    terms = LayerTerms(*(jnp.stack(column) for column in zip(*layers.values(), strict=True)))
    dtype = terms.spectral.dtype
    depth = jnp.asarray(len(layers), dtype)
    log_samples = -0.5 * jnp.log(jnp.asarray(samples, dtype))
    frobenius, spectral = jnp.sum(terms.frobenius), jnp.sum(terms.spectral)
    bartlett_sum = 1.5 * logsumexp(terms.bartlett_ratio)
    neyshabur_sum = (
        jnp.log(depth)
        + 0.5 * jnp.log(jnp.asarray(width, dtype))
        + 0.5 * logsumexp(terms.neyshabur_ratio)
    )
    log_two_to_depth = depth * jnp.log(jnp.asarray(2, dtype))
    return Bounds(
        neyshabur_2015=log_two_to_depth + frobenius + log_samples,
        bartlett_2017=spectral + bartlett_sum + log_samples,
        neyshabur_2018=spectral + neyshabur_sum + log_samples,
        depth=log_two_to_depth,
        frobenius=frobenius,
        spectral=spectral,
        bartlett_sum=bartlett_sum,
        neyshabur_sum=neyshabur_sum,
        samples=log_samples,
        layers=layers,
    )


def _layer_terms(norms: Norms) -> LayerTerms:
    frobenius, spectral, two_to_one = (jnp.log(norm) for norm in norms)

    def log_ratio(above):
        return jnp.sum(jnp.where(norms.spectral == 0, 0, above - spectral))

    return LayerTerms(
        frobenius=jnp.sum(frobenius),
        spectral=jnp.sum(spectral),
        two_to_one=jnp.sum(two_to_one),
        bartlett_ratio=2 / 3 * log_ratio(two_to_one),
        neyshabur_ratio=2 * log_ratio(frobenius),
    )
