"""Margins of a classifier, and margins normalized as Bartlett et al. do."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fgsgd_jax._arrays import checked_array
from fgsgd_jax._text import shown
from fgsgd_jax.bounds._table import Bounds
from fgsgd_jax.transforms import are_known


class NormalizedMargins(NamedTuple):
    """Margins, and the logarithm of the scale by which Bartlett et al. divide them.

    Attributes:
        margins: `(examples,)`.
        log_scale: log (R·‖X‖₂/n), a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> NormalizedMargins(jnp.array([1.0, -2.0]), jnp.log(4.0)).normalized
        Array([ 0.25, -0.5 ], dtype=float32)

    References:
        Bartlett, Foster & Telgarsky, *Spectrally-normalized margin bounds for neural networks*,
        2017, section 1 and Figure 1.
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
        TypeError: If the logits are no real numbers, or the labels no whole numbers.
        ValueError: If the shapes do not match, or a label is none of the classes.

    Example:
        >>> import jax.numpy as jnp
        >>> margins(jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]]), jnp.array([1, 0]))
        Array([ 1., -2.], dtype=float32)

    References:
        Bartlett, Foster & Telgarsky, *Spectrally-normalized margin bounds for neural networks*,
        2017, section 1 (the margin operator).
    """
    logits = checked_array("logits", logits)
    labels = checked_array("labels", labels, numbers="whole numbers")
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "Margins need logits (examples, classes) of two classes at least and one label for "
            f"each example, not logits {logits.shape} and labels {labels.shape}. Give integer "
            "labels, not one-hot vectors."
        )
    classes = logits.shape[1]
    if are_known(labels) and not bool(jnp.all((labels >= 0) & (labels < classes))):
        raise ValueError(
            f"Labels must be whole numbers from 0 to {classes - 1}, as the logits are of {classes} "
            f"classes; got labels from {int(labels.min())} to {int(labels.max())}."
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
        TypeError: If an argument is of another kind.
        ValueError: If the shapes do not match, or a label is none of the classes.

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
    if not isinstance(bounds, Bounds):
        raise TypeError(
            "bounds must be the bounds of a network, such as network_bounds(params, spec, "
            f"samples=…).layers, got {shown(bounds)}."
        )
    of_examples = margins(logits, labels)
    inputs = checked_array("inputs", inputs, "(examples, *shape)")
    if len(inputs) != len(of_examples):
        raise ValueError(
            f"Margins need as many inputs as labels, not {len(inputs)} and {len(of_examples)}. "
            "Give the inputs for which the logits were computed."
        )
    flat = inputs.reshape(len(inputs), -1).astype(bounds.spectral.dtype)
    size = jnp.linalg.norm(jnp.linalg.norm(flat, axis=1))
    log_scale = bounds.spectral_complexity + jnp.log(size) - jnp.log(len(inputs))
    return NormalizedMargins(of_examples, log_scale)
