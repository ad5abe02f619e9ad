"""Kinds: what a leaf is for, by its path alone.

The last key tells biases and normalization scales, which have few names in all frameworks; for
other leaves the key nearest to the leaf that names a kind of layer decides.
"""

import re
from typing import Literal

from fgsgd_jax.spec.networks._names import (
    BIASES,
    NORMALIZATIONS,
    WEIGHT_NAMES,
    WEIGHT_WORDS,
    is_leaf_name,
    keys_of,
    module_and_name,
    remembered,
    words_of,
)

Kind = Literal[
    "bias", "normalization", "embedding", "router", "expert", "convolution", "recurrent", "query",
    "head", "attention", "dense", "token", "quantizer", "spectral", "",
]  # fmt: skip
"""What a leaf is for; "" where its path does not say. "query" stands for keys and values as well,
"attention" for the output of an attention layer."""

# Words in the names of learned tokens, and words beside them that name a layer all the same.
_TOKENS = frozenset(
    "token tokens prompt prompts prefix cls register registers memory mem cache cached latent "
    "latents slots null pos position positions".split()
)
_NOT_OF_QUERIES = frozenset("head net network function fn critic pos position".split())
_OF_LAYERS = frozenset("w wi wo kernel kernels weight weights mix mixer mixing norm".split())

_SHORT_BIAS = re.compile(r"(^|_)b\d*(_|$)")  # `gating_b`, `b_0`; not `B_re`

# Biases and normalization scales have at most three axes: heads, their size, stacked layers, or
# those of an image. Axes of size 1 do not count: Equinox has biases of shape (channels, 1, 1, 1).
LARGEST_VECTOR = 3

_OF_EXPERTS = re.compile(r"(^|_)(moe|Moe|MoE|MOE)")
_ENDS_IN_NORM = re.compile(r"^[a-z_]+_[a-z]*norm(_?\d+)?$")

# In the order in which they are tried: parts of a key, and whole words of it.
_NAMES: tuple[tuple[Kind, str, str], ...] = (
    ("normalization", "norm", "bn ln"),
    (
        "embedding",
        "embed fourier posenc pos_enc patch_proj patchify to_patch",
        "emb wte wpe vocab vocabulary table lookup codebook positional rff frequencies freqs",
    ),
    ("convolution", "conv", ""),
    ("expert", "", "moe"),
    ("query", "", "q k v query key value qkv kv wq wk wv wqkv wkv"),
    ("recurrent", "lstm gru rnn recurrent", ""),
    ("attention", "attn attention", "mha att"),
    ("head", "classifier logit action_out", "head lmhead"),
    ("dense", "dense linear mlp gating feedforward feed_forward", "ffn ff fc proj up down"),
)


@remembered
def kind_of(path: str, axes: int | None = None) -> Kind:
    """What a leaf is for.

    A word in the name of a module is not believed against the weight in it: `ConvNormAct_0/kernel`
    is no normalization, and a matrix in `converter` is no convolution.

    Args:
        path: The path of the leaf.
        axes: Its number of axes without stacked layers; None if that is unknown.

    Example:
        >>> kind_of("encoder/Conv_0/kernel"), kind_of("attn/q_einsum/w"), kind_of("conv/bias")
        ('convolution', 'query', 'bias')
    """
    *_, last = keys = keys_of(path)
    words, small = words_of(last), axes is None or axes <= LARGEST_VECTOR
    matrix = last == "B" and axes != 1  # of random Fourier features, or of a low-rank update
    short = last in BIASES or (small and _SHORT_BIAS.search(last) is not None)
    if "bias" in words or (not matrix and short):
        return "bias"
    if last in NORMALIZATIONS:
        return "normalization"
    if is_token(next((key for key in reversed(keys) if not key.isdigit()), last)):
        return "token"
    around = "/".join(keys).lower()
    if "router" in around or "expert" in around:  # all layers inside of them
        return "router" if "router" in around else "expert"
    if any("quantizer" in words_of(key) for key in keys):  # its layers choose among its vectors
        return "quantizer"
    if _is_spectral(keys):
        return "spectral"
    around_leaf = words_of(keys[-2]) if len(keys) > 1 and is_leaf_name(last) else []
    if "bias" in around_leaf and {"rel", "relative", "pos", "position"} & set(around_leaf):
        return "embedding"  # whose entries are added
    convolves = "conv" in keys[-2].lower() if len(keys) > 1 else False  # a stem
    if len(keys) > 2 and "embed" in keys[-3].lower() and is_leaf_name(last) and not convolves:
        return "embedding"  # a layer inside of an embedding
    for key in reversed(keys[:-1] if last == "weight_v" else keys):  # v of weight normalization
        kinds: list[Kind] = _kinds_of_key(key)
        if kinds[:1] == ["normalization"] and kinds[1:] and last == "kernel":
            # LLaMA's scales are called so, but blocks such as `ConvNorm` hold weights as well.
            kinds = kinds if _ENDS_IN_NORM.search(key) else kinds[1:]
        kinds = [kind for kind in kinds if _may_be(kind, axes)]
        if kinds[:1] == ["dense"] and any(map(_OF_EXPERTS.search, keys)):
            return "expert"  # `Moe/Mlp/Dense_0`, but not the attention of a block `MoeBlock`
        if kinds:
            return "head" if kinds[0] == "dense" and _in_final_layer(keys) else kinds[0]
    output_heads = any("heads" in words_of(key) for key in keys)
    return "head" if output_heads else ""


def _in_final_layer(keys: tuple[str, ...]) -> bool:
    """Whether a module around a leaf is called the final layer, as in diffusion transformers."""
    return any(key.lower().replace("_", "").startswith("finallayer") for key in keys)


def _is_spectral(keys: tuple[str, ...]) -> bool:
    """Whether a leaf has weights for Fourier modes, (in, out, modes) in every framework.

    Its layer is called a spectral convolution, or it is the real or imaginary part of a weight.
    Spectral normalization is something else.
    """
    part = set(words_of(keys[-1])) & {"real", "imag", "re", "im"}
    layer = any(
        {"spectral", "conv"} <= (words := set(words_of(key))) and "norm" not in words
        for key in keys
    )
    weighs = bool(set(words_of(keys[-1])) & WEIGHT_WORDS)
    return layer or bool(part and weighs)


def is_token(name: str) -> bool:
    """Whether a leaf is learned tokens by its own name: vectors that stand beside features.

    Keys and values that are learned, as `prefix_k`, are no weights that make keys. A layer has the
    name of its weight below its own, as `token_mixing/kernel`.

    Example:
        >>> is_token("prefix_k"), is_token("query_tokens"), is_token("token_proj"), is_token("w_k")
        (True, True, False, False)
    """
    words = set(words_of(name))
    of_layers = {"dense", "convolution", "head", "embedding"} & set(_kinds_of_key(name))
    return bool(words & _TOKENS) and not (of_layers or words & (_OF_LAYERS | {"rel"}))


def _kinds_of_key(key: str) -> list[Kind]:
    """The kinds of layers that a key names, in the order of `_NAMES`."""
    lower, words = key.lower(), set(words_of(key))
    # `value_head`, `q_network` and `query_pos` have nothing of a query.
    if words & _NOT_OF_QUERIES and "multi" not in words:
        words -= {"q", "k", "v", "query", "key", "value"}
    return [
        kind
        for kind, parts, whole in _NAMES
        if any(part in lower for part in parts.split()) or words & set(whole.split())
    ]


def _may_be(kind: Kind, axes: int | None) -> bool:
    """Whether a leaf with a number of axes may be of a kind."""
    if axes is None:
        return True
    return axes <= LARGEST_VECTOR if kind == "normalization" else axes != 2 or kind != "convolution"


def is_normalization(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a leaf may belong to a normalization layer: its scale, or anything else in it.

    Example:
        >>> is_normalization("block/norm/w", (8,)), is_normalization("layers/1/weight", (8,))
        (True, True)
        >>> is_normalization("prelu/weight", (8,)), is_normalization("ConvNorm/kernel", (8, 8))
        (False, False)
    """
    layer, axes, name = path.rpartition("/")[0], len(shape), keys_of(path)[-1]
    if name in WEIGHT_NAMES and axes > 1 and len(_kinds_of_key(module_and_name(path)[1])) > 1:
        return False
    named = axes <= LARGEST_VECTOR and kind_of(layer) == "normalization"
    if kind_of(path, axes) == "normalization" or named:
        return name != "kernel" or axes < 2
    of_equinox = name == "weight" and axes == 1  # a scale called as kernels are
    return of_equinox and not is_of_activation(path)


def is_of_activation(path: str) -> bool:
    """Whether a leaf belongs to an activation, as the slopes of PReLU do."""
    _, name = module_and_name(path)
    return "relu" in name.lower() or bool({"act", "activation", "slope"} & set(words_of(name)))


def may_be_layer(path: str) -> bool:
    """Whether a leaf may be the weight of a layer of any kind, by its own name.

    Other parameters, as `core` and `rel_pos`, are none; nor does an einsum convolve.

    Example:
        >>> [may_be_layer(path) for path in ("down/kernel", "w1", "layers/0", "tucker/core")]
        [True, True, True, False]
    """
    words = {word for key in keys_of(path)[-2:] for word in words_of(key)}
    named = may_name_weight(keys_of(path)[-1], WEIGHT_WORDS)
    return named and not words & {"einsum", "lora", "pos", "rel", "relpos"}


def may_name_weight(name: str, words: frozenset[str]) -> bool:
    """Whether a name has one of some words, or that of a layer, or is a place in a list."""
    return bool(words & set(words_of(name))) or kind_of(name) != "" or name.isdigit()
