"""A rate to start from, for every preset.

`python -m tests.benchmarks.preset_rates` trains one small network for each preset, at a constant
rate, with `fgsgd(rate, spec)` and no further argument, and beside it with SGD and AdamW at as many
rates. It prints the error on held-out data in per cent, means over the seeds: a preset's rate in
`fgsgd_jax/spec/networks/_placements.py` is the best one, or the smaller of two whose errors hardly
differ.

The networks: a residual network with batch normalization on 8×8 digits, a transformer that sorts
sequences, dense networks with and without normalization on digits, and a recurrent network that
reads digits row by row.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fgsgd_jax as fg
from fgsgd_jax._text import aligned
from tests.benchmarks.euclidean_rates import BATCH, batch_norm, dense, digits, normal, normalization

EPOCHS = 15
OPTIMIZERS: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "fgsgd(rate, spec)": (fg.fgsgd, (0.03, 0.1, 0.3, 1.0, 3.0)),
    "SGD, momentum 0.9": (lambda rate, spec: optax.sgd(rate, 0.9), (0.003, 0.01, 0.03, 0.1, 0.3)),
    "AdamW": (lambda rate, spec: optax.adamw(rate), (3e-4, 1e-3, 3e-3, 0.01, 0.03)),
}


class Task(NamedTuple):
    """A network, and data to train it on.

    Attributes:
        preset: The preset for its parameters.
        init: From a key to the parameters.
        apply: From parameters and inputs to logits.
        data: From a seed to inputs and labels for training and for validation.
    """

    preset: str
    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]
    data: Callable[[int], tuple[np.ndarray, ...]]


# --- networks ------------------------------------------------------------------------------------


def convolve(x, kernel, stride=1):
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=axes)


def residual_init(key):
    keys = iter(jax.random.split(key, 7))

    def conv(size, inputs, outputs):
        kernel = {"kernel": normal(next(keys), size, size, inputs, outputs)}
        return {"conv": kernel, "norm": normalization(outputs)}

    return {
        "stem": conv(3, 1, 16),
        "block_0": {"first": conv(3, 16, 16), "second": conv(3, 16, 16)},
        "block_1": {"first": conv(3, 16, 32), "second": conv(3, 32, 32), "skip": conv(1, 16, 32)},
        "head": {"kernel": normal(next(keys), 32, 10), "bias": jnp.zeros(10)},
    }


def residual_apply(params, x):
    def layer(unit, x, stride=1):
        return batch_norm(convolve(x, unit["conv"]["kernel"], stride), **unit["norm"])

    x = jax.nn.relu(layer(params["stem"], x[..., None]))
    for stride, block in enumerate((params["block_0"], params["block_1"]), 1):
        inside = layer(block["second"], jax.nn.relu(layer(block["first"], x, stride)))
        x = jax.nn.relu(inside + (layer(block["skip"], x, stride) if "skip" in block else x))
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


WIDTH, HEADS, LENGTH, TOKENS = 32, 4, 8, 10


def transformer_init(key):
    keys = iter(jax.random.split(key, 20))
    size = WIDTH // HEADS

    def uniform(*shape, inputs):
        return {"kernel": jax.random.normal(next(keys), shape) / np.sqrt(inputs)}

    def block():
        into = (WIDTH, HEADS, size)
        heads = {name: uniform(*into, inputs=WIDTH) for name in ("query", "key", "value")}
        return {
            "norm_0": normalization(WIDTH),
            "attention": heads | {"out": uniform(HEADS, size, WIDTH, inputs=WIDTH)},
            "norm_1": normalization(WIDTH),
            "mlp": {
                "dense_0": uniform(WIDTH, 2 * WIDTH, inputs=WIDTH),
                "dense_1": uniform(2 * WIDTH, WIDTH, inputs=2 * WIDTH),
            },
        }

    return {
        "embed": {"embedding": 0.5 * jax.random.normal(next(keys), (TOKENS, WIDTH))},
        "position_embed": {"embedding": 0.5 * jax.random.normal(next(keys), (LENGTH, WIDTH))},
        "block_0": block(),
        "block_1": block(),
        "norm": normalization(WIDTH),
        "head": {"kernel": normal(next(keys), WIDTH, TOKENS)},
    }


def transformer_apply(params, tokens):
    def norm(x, scale, bias):
        centered = x - x.mean(-1, keepdims=True)
        return centered * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias

    def attend(unit, x):
        q, k, v = (
            jnp.einsum("bld,dhk->blhk", x, unit[name]["kernel"])
            for name in ("query", "key", "value")
        )
        shares = jax.nn.softmax(jnp.einsum("blhk,bmhk->bhlm", q, k) / (WIDTH // HEADS) ** 0.5)
        return jnp.einsum("bhlm,bmhk,hkd->bld", shares, v, unit["out"]["kernel"])

    x = params["embed"]["embedding"][tokens] + params["position_embed"]["embedding"]
    for block in (params["block_0"], params["block_1"]):
        x = x + attend(block["attention"], norm(x, **block["norm_0"]))
        hidden = jax.nn.gelu(norm(x, **block["norm_1"]) @ block["mlp"]["dense_0"]["kernel"])
        x = x + hidden @ block["mlp"]["dense_1"]["kernel"]
    return norm(x, **params["norm"]) @ params["head"]["kernel"]


def sequences(seed: int):
    """Sequences of tokens, and the same in increasing order."""
    tokens = np.random.default_rng(seed).integers(TOKENS, size=(4000, LENGTH))
    ordered = np.sort(tokens, axis=1)
    return tokens[:3000], ordered[:3000], tokens[3000:], ordered[3000:]


def recurrent_init(key):
    keys = jax.random.split(key, 3)
    return {
        "cell": {
            "i": {"kernel": jax.random.normal(keys[0], (8, 64)) / 8**0.5, "bias": jnp.zeros(64)},
            "h": {"kernel": jax.random.normal(keys[1], (64, 64)) / 8},
        },
        "head": {"kernel": normal(keys[2], 64, 10), "bias": jnp.zeros(10)},
    }


def recurrent_apply(params, x):
    cell = params["cell"]
    inputs = x.swapaxes(0, 1) @ cell["i"]["kernel"] + cell["i"]["bias"]

    def step(hidden, entry):
        return jnp.tanh(entry + hidden @ cell["h"]["kernel"]), None

    hidden, _ = jax.lax.scan(step, jnp.zeros_like(inputs[0]), inputs)
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def dense_task(normalize: bool) -> Task:
    apply = dense(jax.random.key(0), normalize)[1]
    return Task("mlp", lambda key: dense(key, normalize)[0], apply, digits)


TASKS = {
    "resnet, on digits": Task("resnet", residual_init, residual_apply, digits),
    "transformer, that sorts": Task("transformer", transformer_init, transformer_apply, sequences),
    "mlp, with normalization, on digits": dense_task(normalize=True),
    "mlp, without, on digits": dense_task(normalize=False),
    "rnn, on digits row by row": Task("rnn", recurrent_init, recurrent_apply, digits),
}


# --- training ------------------------------------------------------------------------------------


def trained(task: Task, optimizer: Callable) -> Callable[[float, int], float]:
    """A compiled function from a rate and a seed to the error on held-out data in per cent."""
    spec = fg.collection(jax.eval_shape(task.init, jax.random.key(0)), preset=task.preset)

    def loss(params, inputs, labels):
        logits = task.apply(params, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    # A Python loop over steps: inside `lax.scan`, XLA's convolutions are slow on a CPU.
    @jax.jit
    def step(params, state, rate, inputs, labels):
        gradients = jax.grad(loss)(params, inputs, labels)
        updates, state = optimizer(rate, spec).update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def error_of(params, inputs, labels):
        logits = task.apply(params, inputs)
        wrong = (jnp.argmax(logits, -1) != labels) | ~jnp.isfinite(logits).all(-1)
        return 100 * wrong.mean()

    @functools.cache
    def start(seed: int):
        data, rng = task.data(seed), np.random.default_rng(seed)
        orders = [rng.permutation(len(data[0])) for _ in range(EPOCHS)]
        params = task.init(jax.random.key(seed))
        return params, data, np.concatenate([order.reshape(-1, BATCH) for order in orders])

    def error(rate: float, seed: int) -> float:
        params, (inputs, labels, *held_out), order = start(seed)
        # Plain optimizers start from the initialization, ours from the nearest point to it.
        params = fg.project(params, spec) if optimizer is fg.fgsgd else params
        state = optimizer(rate, spec).init(params)
        for batch in order:
            params, state = step(params, state, rate, inputs[batch], labels[batch])
        return float(error_of(params, *held_out))

    return error


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--preset", help="only the tasks of this preset")
    arguments = parser.parse_args()
    for name, task in TASKS.items():
        if arguments.preset not in (None, task.preset):
            continue
        print(f"{name}: error in %, means of {arguments.seeds} seeds")
        rows = []
        for label, (optimizer, rates) in OPTIMIZERS.items():
            error = trained(task, optimizer)
            means = [
                statistics.mean(error(rate, seed) for seed in range(arguments.seeds))
                for rate in rates
            ]
            cells = (f"{rate:g}: {mean:.1f}" for rate, mean in zip(rates, means, strict=True))
            rows.append((label, *cells))
        print("\n".join(aligned(rows, range(1, len(rows[0])))), flush=True)


if __name__ == "__main__":
    main()
