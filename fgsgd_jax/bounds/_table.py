"""Generalization bounds of Table 1, in logarithms, with every term in sight, and margins.

With L layers, N training samples, width ϖ and δ the norms of the groups g of every layer l, the
rows of Table 1 are, up to constants and logarithmic factors,

    Neyshabur et al. 2015   2ᴸ ∏ₗ∏g δ_F / √N
    Bartlett et al. 2017    ∏ₗ∏g δ₂ / √N · (Σₗ ∏g (δ₂→₁/δ₂)^⅔)^(3/2)
    Neyshabur et al. 2018   ∏ₗ∏g δ₂ / √N · √(L²ϖ Σₗ ∏g δ_F²/δ₂²)

δ here is the norm itself, the least upper bound: δ_F Frobenius, δ₂ spectral, δ₂→₁ the sum of row
norms. On groups (`network.groups`) it is the norm of the components of a group side by side; its
rows are the rows of a component. On layers (`network.layers`) every layer is one group and δ the
norm of its matrix, outputs × inputs: its rows are output units, and the rows of the table become
those of the cited theorems with no reference matrix and 1-Lipschitz activations. What normalization
layers and biases do is in none of them.

Products over 10⁵ groups leave the range of floating-point numbers, so all is in logarithms. The
theorems also divide by a margin: see `normalized_margins`.

References:
    Ozay, *Fine-grained optimization of deep neural networks*, NeurIPS 2019, Table 1.
    Neyshabur, Tomioka and Srebro, *Norm-based capacity control in neural networks*, COLT 2015.
    Bartlett, Foster and Telgarsky, *Spectrally-normalized margin bounds for neural networks*,
    NeurIPS 2017.
    Neyshabur, Bhojanapalli and Srebro, *A PAC-Bayesian approach to spectrally-normalized margin
    bounds for neural networks*, ICLR 2018.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.scipy.special import logsumexp

from fgsgd_jax.norms import NetworkNorms, Norms, group_norms, layer_norms
from fgsgd_jax.norms._weights import weights_of
from fgsgd_jax.spec import Collection, LeafSpec


class LayerTerms(NamedTuple):
    """The part of one layer in the bounds, logarithms of products over its groups.

    Attributes:
        frobenius: log ∏g δ_F.
        spectral: log ∏g δ₂.
        two_to_one: log ∏g δ₂→₁.
        bartlett_ratio: log ∏g (δ₂→₁/δ₂)^⅔, the summand of the second row.
        neyshabur_ratio: log ∏g δ_F²/δ₂², the summand of the third row.
    """

    frobenius: jax.Array
    spectral: jax.Array
    two_to_one: jax.Array
    bartlett_ratio: jax.Array
    neyshabur_ratio: jax.Array


class Bounds(NamedTuple):
    """The three bounds of Table 1 and their terms, all logarithms, all scalars.

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
        """The logarithm of R, Bartlett et al.'s spectral complexity: row 2 without 1/√N."""
        return self.spectral + self.bartlett_sum


class NormalizedMargins(NamedTuple):
    """Margins, and the logarithm of what Bartlett et al. divide them by.

    Attributes:
        margins: `(examples,)`.
        log_scale: log (R·‖X‖₂/n), a scalar.
    """

    margins: jax.Array
    log_scale: jax.Array

    @property
    def normalized(self) -> jax.Array:
        """The margins divided by the scale, `(examples,)`; 0 where that is below the dtype."""
        return self.margins * jnp.exp(-self.log_scale)


# --- bounds --------------------------------------------------------------------------------------


def log_bounds(norms: Mapping[str, Norms], *, samples: jax.Array | int, width: int) -> Bounds:
    """The logarithms of the three bounds of Table 1, and of every term in them.

    Args:
        norms: By layer, the norms δ of its groups: `network.groups` or `network.layers` of
            `fgsgd_jax.norms.network_norms`, or upper bounds of them.
        samples: N, the number of training samples.
        width: ϖ, the largest number of units of a layer.

    Returns:
        The bounds. A layer with a group of norm 0 makes them −∞; its ratios count as 1.

    Raises:
        ValueError: If there are no layers, or the numbers are not positive.

    Example:
        One layer of one group, the unit matrix of size 4: ‖·‖_F = 2, ‖·‖₂ = 1, ‖·‖₂→₁ = 4.

        >>> import jax.numpy as jnp
        >>> from fgsgd_jax.norms import norms_of
        >>> bounds = log_bounds({"w": norms_of(jnp.eye(4)[..., None])}, samples=100, width=4)
        >>> [round(float(jnp.exp(bound)), 4) for bound in bounds[:3]]  # 2·2/10, 4/10, √(4·4)/10
        [0.4, 0.4, 0.4]

    References:
        Ozay, 2019, Table 1.
    """
    if not norms:
        raise ValueError("Bounds need the norms of at least one layer; the dictionary is empty.")
    for name, number in (("samples", samples), ("width", width)):
        if not isinstance(number, Tracer) and not number > 0:
            raise ValueError(f"A bound needs {name} of at least 1, not {number}.")
    bounds = _log_bounds(dict(norms), samples, width)
    # jit returns dictionaries in the order of the alphabet.
    return bounds._replace(layers={path: bounds.layers[path] for path in norms})


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


class NetworkBounds(NamedTuple):
    """The bounds of a network with δ of groups, and with δ of whole layers.

    Attributes:
        groups: With the norms of the groups of the spec, as in Table 1.
        layers: With the norms of the matrices of the layers, as in the cited theorems.
    """

    groups: Bounds
    layers: Bounds


def network_bounds(
    params: Any, spec: Collection, *, samples: int, width: int | None = None
) -> NetworkBounds:
    """The bounds of Table 1 for a network, on groups and on whole layers.

    Layers are the leaves on manifolds, a Euclidean floating-point leaf of two axes or more being a
    layer of one group; biases and normalization are left out. A leaf that stacks heads, experts or
    layers is one layer of more groups.

    Args:
        params: The tree the spec was built from.
        spec: The collection.
        samples: N, the number of training samples.
        width: ϖ; by default the largest number of outputs (channels of a convolution) of a layer.

    Raises:
        ValueError: If there are no layers, or the numbers are not positive.

    Example:
        >>> import jax
        >>> import fgsgd_jax as fg
        >>> params = {"conv": jax.random.normal(jax.random.key(0), (3, 3, 8, 4))}
        >>> spec = fg.collection(params, ("conv", fg.pom("PO", fg.Sphere())))
        >>> bounds = network_bounds(fg.project(params, spec), spec, samples=100).groups
        >>> round(float(bounds.neyshabur_2015), 3)  # log (2·(√8)⁴/10)
        2.549
    """
    weights = weights_of(params, spec)
    if width is None:
        width = max(_outputs(layer, weight.shape) for _, weight, layer in weights)
    groups, layers = (
        {path: norms(weight, layer) for path, weight, layer in weights}
        for norms in (group_norms, layer_norms)
    )
    return _bounds_on(groups, layers, samples, width)


def bounds_of(network: NetworkNorms, *, samples: jax.Array | int, width: int) -> NetworkBounds:
    """`network_bounds` from norms at hand.

    Args:
        network: The norms of the network.
        samples: N, the number of training samples.
        width: ϖ, the largest number of units of a layer.
    """
    return _bounds_on(network.groups, network.layers, samples, width)


def _bounds_on(groups, layers, samples, width) -> NetworkBounds:
    return NetworkBounds(
        groups=log_bounds(groups, samples=samples, width=width),
        layers=log_bounds(layers, samples=samples, width=width),
    )


def _outputs(layer: LeafSpec | None, shape: tuple[int, ...]) -> int:
    if layer is None:
        return shape[-1]
    count = 1
    for axis in layer.component.outputs or layer.component.columns:
        count *= shape[axis]
    return count


# --- margins -------------------------------------------------------------------------------------


def margins(logits: jax.Array, labels: jax.Array, /) -> jax.Array:
    """The margin of every example: the correct class less the best of the others.

    Args:
        logits: `(examples, classes)`, two classes at least.
        labels: The correct classes, integers `(examples,)`.

    Returns:
        `(examples,)`; negative where another class wins.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> margins(jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]]), jnp.array([1, 0]))
        Array([ 1., -2.], dtype=float32)
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "Margins need logits (examples, classes) of two classes at least and one label for "
            f"each example, not logits {logits.shape} and labels {labels.shape}."
        )
    own = jnp.arange(logits.shape[1]) == labels[:, None]
    correct = jnp.sum(jnp.where(own, logits, 0), axis=1)
    return correct - jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)


def normalized_margins(
    logits: jax.Array, labels: jax.Array, inputs: jax.Array, bounds: Bounds
) -> NormalizedMargins:
    """Bartlett et al.'s normalized margins: margin / (R·‖X‖₂/n), to compare networks by.

    Args:
        logits: `(examples, classes)`.
        labels: The correct classes, integers `(examples,)`.
        inputs: What the network was given, `(examples, …)`; X is its matrix of n rows and ‖X‖₂, as
            Bartlett et al. write it, the root of its sum of squares.
        bounds: The bounds of the network, whose `spectral_complexity` is log R; those on layers
            for the normalization of the theorem.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fgsgd_jax.norms import norms_of
        >>> bounds = log_bounds({"w": norms_of(jnp.eye(4)[..., None])}, samples=100, width=4)
        >>> x = jnp.array([[3.0, 4.0, 0.0, 0.0]])  # R = 4, ‖X‖₂/n = 5, margin 1
        >>> print(normalized_margins(x, jnp.array([1]), x, bounds).normalized.round(4))
        [0.05]

    References:
        Bartlett, Foster and Telgarsky, 2017, section 1 and Figure 1.
    """
    if len(inputs) != len(labels):
        raise ValueError(
            f"Margins need as many inputs as labels, not {len(inputs)} and {len(labels)}."
        )
    flat = jnp.asarray(inputs).reshape(len(inputs), -1).astype(bounds.spectral.dtype)
    size = jnp.linalg.norm(jnp.linalg.norm(flat, axis=1))
    log_scale = bounds.spectral_complexity + jnp.log(size) - jnp.log(len(inputs))
    return NormalizedMargins(margins(logits, labels), log_scale)
