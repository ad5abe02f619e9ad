"""Which step Euclidean leaves should take beside `fgsgd`, if nothing is said about their rate.

`python -m tests.benchmarks.euclidean_rates` trains small networks on scikit-learn's digits at
several learning rates, with several rules for the Euclidean leaves (dense head, biases,
normalization), and prints the validation error in per cent. A good rule is good at every rate that
suits the kernels.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import fgsgd_jax as fg
from fgsgd_jax._text import aligned

RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
MOMENTUM, BATCH, EPOCHS = 0.9, 50, 15


def divide_by_normalizer() -> optax.GradientTransformation:
    """τ of eq. (7) for every leaf, as if it were a group."""

    def one(step):
        g = jnp.linalg.norm(step.ravel())
        return step / jnp.maximum(1, g * (2 + g))

    return optax.stateless(lambda updates, params: jax.tree.map(one, updates))


def normalized(rate, share: float) -> optax.GradientTransformation:
    return optax.chain(optax.trace(MOMENTUM), divide_by_normalizer(), optax.sgd(share * rate))


RULES = {
    "default": lambda rate: None,
    "SGD, rate": lambda rate: optax.sgd(rate, MOMENTUM),
    "SGD, rate/10": lambda rate: optax.sgd(0.1 * rate, MOMENTUM),
    "SGD, rate/20": lambda rate: optax.sgd(0.05 * rate, MOMENTUM),
    "SGD, rate/100": lambda rate: optax.sgd(0.01 * rate, MOMENTUM),
    "Adam, rate/100": lambda rate: optax.adam(0.01 * rate),
    "Adam, rate/1000": lambda rate: optax.adam(0.001 * rate),
    "SGD with tau, rate": lambda rate: normalized(rate, 1.0),
    "SGD with tau, rate/10": lambda rate: normalized(rate, 0.1),
}


def digits(seed: int):
    """Images and labels for training and for validation."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, np.float32).reshape(-1, 8, 8) / 16
    order = np.random.default_rng(seed).permutation(len(images))
    return images[order[:1400]], labels[order[:1400]], images[order[1400:]], labels[order[1400:]]


def normal(key, *shape):
    fan_in = np.prod(shape[:-1])
    return jax.random.normal(key, shape) * np.sqrt(2 / fan_in)


def normalization(channels):
    return {"scale": jnp.ones(channels), "bias": jnp.zeros(channels)}


def batch_norm(x, scale, bias):
    axes = tuple(range(x.ndim - 1))
    x = (x - x.mean(axes)) / jnp.sqrt(x.var(axes) + 1e-5)
    return x * scale + bias


def convolutional(key):
    """Two convolutions with normalization, and a dense head."""
    keys = jax.random.split(key, 3)
    params = {
        "conv1": {"kernel": normal(keys[0], 3, 3, 1, 16)} | normalization(16),
        "conv2": {"kernel": normal(keys[1], 3, 3, 16, 32)} | normalization(32),
        "head": {"kernel": normal(keys[2], 128, 10), "bias": jnp.zeros(10)},
    }

    def apply(params, x):
        x = x[..., None]
        for name in ("conv1", "conv2"):
            layer = params[name]
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(batch_norm(x, layer["scale"], layer["bias"]))
        return x.reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"]

    pom = fg.pom("PIO", (fg.Sphere(), fg.Oblique(), fg.Stiefel()))
    return params, apply, [("conv*/kernel", pom)]


def dense(key, normalize: bool):
    """Three hidden dense layers on Stiefel manifolds, and a dense head."""
    keys = jax.random.split(key, 4)
    others = normalization(64) if normalize else {"bias": jnp.zeros(64)}
    params = {f"dense{i}": {"kernel": normal(keys[i], 64, 64)} | others for i in range(3)}
    params["head"] = {"kernel": normal(keys[3], 64, 10), "bias": jnp.zeros(10)}

    def apply(params, x):
        x = x.reshape(len(x), -1)
        for i in range(3):
            layer = params[f"dense{i}"]
            x = x @ layer["kernel"]
            x = batch_norm(x, layer["scale"], layer["bias"]) if normalize else x + layer["bias"]
            x = jax.nn.relu(x)
        return x @ params["head"]["kernel"] + params["head"]["bias"]

    pom = fg.pom("layer", fg.Stiefel(), component="matrix", scale=None if normalize else 2**0.5)
    return params, apply, [("dense*/kernel", pom)]


NETWORKS = {
    "CNN": convolutional,
    "MLP": functools.partial(dense, normalize=True),
    "MLP without normalization": functools.partial(dense, normalize=False),
}


def trained(network: str, rule: str, optimizer=fg.fgsgd):
    """A compiled function from a seed's data and a rate to the validation error in per cent."""
    params, apply, rules = NETWORKS[network](jax.random.key(0))
    spec = fg.collection(params, *rules, default=None)

    @jax.jit
    def run(params, rate, data, order):
        images, labels, held_out, held_out_labels = data
        tx = optimizer(rate, spec, momentum=MOMENTUM, euclidean=RULES[rule](rate))

        def loss(params, batch):
            logits = apply(params, images[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), order)
        wrong = jnp.argmax(apply(params, held_out), -1) != held_out_labels
        return 100 * wrong.mean()

    def error(rate, seed):
        params, _, _ = NETWORKS[network](jax.random.key(seed))
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(1400).reshape(-1, BATCH) for _ in range(EPOCHS)])
        return float(run(fg.project(params, spec), rate, digits(seed), order))

    return error


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    for network in NETWORKS:
        rows = [(network, *(f"rate {rate}" for rate in RATES))]
        for rule in RULES:
            error = trained(network, rule)
            means = [statistics.mean(error(rate, seed) for seed in seeds) for rate in RATES]
            rows.append((rule, *(f"{mean:.1f}" for mean in means)))
            print(rows[-1], flush=True)
        print("\n".join(aligned(rows, range(1, len(rows[0])))), flush=True)


if __name__ == "__main__":
    main()
