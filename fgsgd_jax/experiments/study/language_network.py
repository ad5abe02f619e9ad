"""The text and the network of the study `language`."""

import math
import platform
import re
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

RARE = 20  # a character that occurs less often is replaced by the last token
HIDDEN = ("query", "key", "value", "out", "up", "down")


class Text(NamedTuple):
    """A text as tokens, `(length,)` each."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    tokens: int
    source: str


def load_text() -> Text:
    """The reference of the Python language that comes with Python; the last tenth is held out.

    Some topics contain others, so every paragraph is kept only once, where it comes first. No
    paragraph is then in two parts, except the one that a part ends in.
    """
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics)).strip("\n")
    text = "\n\n".join(dict.fromkeys(re.split("\n{2,}", whole)))
    common = [character for character, n in sorted(Counter(text).items()) if n >= RARE]
    token_of = {character: token for token, character in enumerate(common)}
    tokens = np.array([token_of.get(character, len(common)) for character in text], np.int32)
    end, middle = int(0.9 * len(text)), int(0.95 * len(text))
    source = (
        f"The language reference of Python {platform.python_version()} (`pydoc_data.topics`, other "
        f"in other versions), {len(text):,} characters, {len(common) + 1} tokens"
    )
    return Text(tokens[:end], tokens[end:middle], tokens[middle:], len(common) + 1, source)


def loss_of_counts(text: Text, length: int) -> float:
    """The test loss if characters are predicted by how often they follow those before them.

    With counts n of the training text, the probability of c after the characters b is
    (n(bc) + p)/(n(b) + 1), where p is its probability after one character less.

    Args:
        text: The text.
        length: How many characters are counted together: 2 for pairs, 3 for triples.
    """

    def codes(tokens: np.ndarray, count: int) -> np.ndarray:
        """A number for each run of tokens, for those that end where `length` tokens have passed."""
        runs = np.lib.stride_tricks.sliding_window_view(tokens, length)[:, length - count :]
        return runs @ (text.tokens ** np.arange(count)[::-1])

    probability: Any = 1 / text.tokens
    for count in range(1, length + 1):
        joint = np.bincount(codes(text.train, count), minlength=text.tokens**count)
        before = joint.reshape(-1, text.tokens).sum(1)
        run = codes(text.test, count)
        probability = (joint[run] + probability) / (before[run // text.tokens] + 1)
    return float(-np.log(probability).mean())


class Size(NamedTuple):
    """The size of the network."""

    width: int = 128
    layers: int = 5
    heads: int = 4
    context: int = 64


def initial(key: jax.Array, tokens: int, size: Size, gain: Any = 1.0) -> dict[str, Any]:
    """Orthogonal hidden matrices that keep the mean square of their inputs, times the gain."""
    keys = iter(jax.random.split(key, len(HIDDEN) + 3))
    width, wide = size.width, 4 * size.width
    shapes = {name: (width, width) for name in HIDDEN} | {
        "up": (width, wide),
        "down": (wide, width),
    }
    orthogonal, normal = jax.nn.initializers.orthogonal(), jax.random.normal

    def stacked(shape: tuple[int, int]) -> jax.Array:
        scale = gain * math.sqrt(max(1, shape[1] / shape[0]))
        # One after another: batched factorizations are slow to compile.
        return (
            jnp.stack([orthogonal(k, shape) for k in jax.random.split(next(keys), size.layers)])
            * scale
        )

    return {
        "hidden": {name: stacked(shape) for name, shape in shapes.items()},
        "others": {
            "embedding": 0.5 * normal(next(keys), (tokens, width)),
            "positions": 0.5 * normal(next(keys), (size.context, width)),
            "norms": jnp.ones((size.layers, 2, width)),
            "last_norm": jnp.ones(width),
            "head": normal(next(keys), (width, tokens)) / width,
        },
    }


def network(params: dict[str, Any], inputs: jax.Array, heads: int) -> jax.Array:
    """The logits `(batch, context, tokens)` of the next token, for tokens `(batch, context)`.

    A decoder with RMS normalization before attention and before the dense layers, and learned
    positions; no biases.
    """
    others = params["others"]
    x = others["embedding"][inputs] + others["positions"]
    blocks = params["hidden"], others["norms"]
    x, _ = jax.lax.scan(lambda x, block: (_block(x, *block, heads), None), x, blocks)
    return _normalized(x, others["last_norm"]) @ others["head"]


def _block(x: jax.Array, w: dict[str, jax.Array], norms: jax.Array, heads: int) -> jax.Array:
    h = _normalized(x, norms[0])
    q, k, v = ((h @ w[name]).reshape(*x.shape[:2], heads, -1) for name in ("query", "key", "value"))
    x += jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ w["out"]
    return x + jax.nn.relu(_normalized(x, norms[1]) @ w["up"]) @ w["down"]


def _normalized(x: jax.Array, factors: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * factors


def loss_of(params: dict[str, Any], windows: jax.Array, heads: int) -> jax.Array:
    """The mean cross-entropy, in nats, of windows of text `(batch, context + 1)`."""
    logits = network(params, windows[:, :-1], heads)
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:]).mean()
