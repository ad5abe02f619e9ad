"""Margins of a classifier, and margins normalized as Bartlett et al. do."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax.bounds._table import Bounds


class NormalizedMargins(NamedTuple):
    """Margins, and the logarithm of the scale by which Bartlett et al. divide them.

    Attributes:
        margins: `(examples,)`.
        log_scale: log (R·‖X‖₂/n), a scalar.
    """

    margins: jax.Array
    log_scale: jax.Array

    @property
    def normalized(self) -> jax.Array:
        """The margins divided by the scale, `(examples,)`; 0 where the quotient underflows."""
        return self.margins * jnp.exp(-self.log_scale)


def margins(logits: jax.Array, labels: jax.Array, /) -> jax.Array:
    """The margin of every example: the logit of its class minus the largest other logit.

    Args:
        logits: `(examples, classes)`, with at least two classes.
        labels: The correct classes, integers `(examples,)`.

    Returns:
        `(examples,)`; negative where another class has the largest logit.

    Raises:
        ValueError: If the shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> margins(jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]]), jnp.array([1, 0]))
        Array([ 1., -2.], dtype=float32)
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "Margins need logits (examples, classes) of two classes at least and one label for "
            f"each example, not logits {logits.shape} and labels {labels.shape}. Give integer "
            "labels, not one-hot vectors."
        )
    own = jnp.arange(logits.shape[1]) == labels[:, None]
    correct = jnp.sum(jnp.where(own, logits, 0), axis=1)
    return correct - jnp.max(jnp.where(own, -jnp.inf, logits), axis=1)


def normalized_margins(
    logits: jax.Array, labels: jax.Array, inputs: jax.Array, bounds: Bounds
) -> NormalizedMargins:
    """The normalized margins of Bartlett et al., margin / (R·‖X‖₂/n), to compare networks.

    Args:
        logits: `(examples, classes)`.
        labels: The correct classes, integers `(examples,)`.
        inputs: The inputs of the network, `(examples, …)`. X is the matrix with these n rows, and
            ‖X‖₂, in the notation of Bartlett et al., the square root of its sum of squares.
        bounds: The bounds of the network, whose `spectral_complexity` is log R. The bounds on
            layers give the normalization of the theorem.

    Returns:
        The margins and their scale.

    Raises:
        ValueError: If the shapes do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> from fgsgd_jax.bounds import log_bounds
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
            f"Margins need as many inputs as labels, not {len(inputs)} and {len(labels)}. Give "
            "the inputs for which the logits were computed."
        )
    flat = jnp.asarray(inputs).reshape(len(inputs), -1).astype(bounds.spectral.dtype)
    size = jnp.linalg.norm(jnp.linalg.norm(flat, axis=1))
    log_scale = bounds.spectral_complexity + jnp.log(size) - jnp.log(len(inputs))
    return NormalizedMargins(margins(logits, labels), log_scale)
