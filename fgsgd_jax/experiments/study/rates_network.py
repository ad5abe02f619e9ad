"""Convolutions, with or without batch normalization, with ReLU and maxima, and a dense layer."""

from typing import Any

import jax
import jax.numpy as jnp

CHANNELS = (8, 16)


def initial(
    key: jax.Array,
    images: jax.Array,
    classes: int,
    *,
    normalized: bool,
    channels: tuple[int, ...] = CHANNELS,
) -> dict[str, Any]:
    """He-normal kernels and zero biases; with normalization, factors of 1."""
    keys = jax.random.split(key, len(channels) + 1)
    params: dict[str, Any] = {}
    (_, rows, columns, inputs), he = images.shape, jax.nn.initializers.he_normal()
    for stage, outputs in enumerate(channels):
        params[f"conv{stage}"] = {
            "kernel": he(keys[stage], (3, 3, inputs, outputs)),
            "bias": jnp.zeros(outputs),
        } | ({"factor": jnp.ones(outputs)} if normalized else {})
        rows, columns, inputs = rows // 2, columns // 2, outputs
    features = rows * columns * inputs
    params["head"] = {"kernel": he(keys[-1], (features, classes)), "bias": jnp.zeros(classes)}
    return params


def network(params: dict[str, Any], x: jax.Array, moments: Any = None) -> tuple[jax.Array, Any]:
    """The outputs, and the means and variances of the features, `(channels,)`, of these images.

    Features are normalized by `moments`; if they are not given, by those of these images.
    """
    own = []
    for stage in range(len(params) - 1):
        layer = params[f"conv{stage}"]
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if "factor" in layer:
            own.append((x.mean((0, 1, 2)), x.var((0, 1, 2))))
            mean, variance = own[-1] if moments is None else moments[stage]
            x = (x - mean) * jax.lax.rsqrt(variance + 1e-5) * layer["factor"]
        x = jax.nn.relu(x + layer["bias"])
        number, rows, columns, channels = x.shape  # to halve by maxima; an odd last row is dropped
        x = x[:, : rows // 2 * 2, : columns // 2 * 2]
        x = x.reshape(number, rows // 2, 2, columns // 2, 2, channels).max((2, 4))
    x = x.reshape(len(x), -1)
    return x @ params["head"]["kernel"] + params["head"]["bias"], own


def errors_of(
    params: dict[str, Any],
    images: jax.Array,
    validation: tuple[jax.Array, jax.Array],
    test: tuple[jax.Array, jax.Array],
) -> dict[str, jax.Array]:
    """The shares of wrong labels, by features that are normalized by the moments of `images`."""
    _, moments = network(params, images)

    def error(x, labels):
        return jnp.mean(network(params, x, moments)[0].argmax(-1) != labels)

    return {"validation_error": error(*validation), "test_error": error(*test)}
