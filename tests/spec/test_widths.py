"""Weights whose outputs come first although no layout says so: the width of the network tells."""

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg


def tree(**shapes):
    """Flat paths to leaves, with two underscores for each slash."""
    return {
        name.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in shapes.items()
    }


def swapped(params, *kept):
    """The same tree with the axes of all matrices swapped, but those of some leaves."""
    return {
        path: its if path in kept else jax.ShapeDtypeStruct(its.shape[::-1], its.dtype)
        for path, its in params.items()
    }


PAIR = tree(ffn__w1=(64, 256), ffn__w2=(256, 64))
GROUPED = tree(attn__wq=(64, 64), attn__wk__kernel=(64, 16), attn__wv=(64, 16), attn__wo=(64, 64))
VOCABULARY = tree(embedding=(1000, 64))
HEAD = tree(head=(64, 1000))
INPUTS_FIRST = {
    "all": PAIR | GROUPED | VOCABULARY | HEAD,
    "no head": PAIR | GROUPED | VOCABULARY,
    "no embedding": PAIR | tree(attn__q=(64, 48), attn__o=(48, 64)) | HEAD,
    "neither": PAIR | GROUPED,
    "Keras": tree(mlp__fc1__kernel=(64, 256), mlp__fc2__kernel=(256, 64)) | VOCABULARY,
    "numbers": tree(mlp__Dense_0__kernel=(64, 256), mlp__Dense_1__kernel=(256, 64)) | VOCABULARY,
    "adapters": tree(a__down__kernel=(64, 16), a__up__kernel=(16, 64)) | GROUPED | VOCABULARY,
}


@pytest.mark.parametrize("name", INPUTS_FIRST)
def test_weights_that_contradict_the_width_stay_euclidean_without_a_layout(name):
    params = swapped(INPUTS_FIRST[name], "embedding") | tree(attn__out=(64, 64))
    weights = {path for path in params if path not in ("embedding", "head")}
    square = {path for path in weights if params[path].shape == (64, 64)}
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == square  # the same either way
    reasons = dict(zip(spec, spec.reasons, strict=True))
    assert all("layout='OIHW'" in reasons[path] for path in weights - square)
    spec = fg.collection(params, preset="transformer", layout="OIHW")
    assert {path for path, _ in spec.on_manifolds()} == weights


@pytest.mark.parametrize("name", INPUTS_FIRST)
@pytest.mark.parametrize("layout", [None, "HWIO"])
def test_weights_that_agree_with_the_width_are_placed(name, layout):
    params = INPUTS_FIRST[name]
    spec = fg.collection(params, preset="transformer", layout=layout)
    assert {path for path, _ in spec.on_manifolds()} == set(params) - {"embedding", "head"}


def test_keys_that_read_a_wider_network_prove_nothing():
    params = tree(attn__q=(64, 64), attn__k=(96, 64), attn__v=(96, 64), attn__o=(64, 64))
    params |= tree(mlp__in__kernel=(64, 256), mlp__act__kernel=(256, 64)) | VOCABULARY
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == set(params) - {"embedding"}


def test_a_tied_head_alone_proves_nothing_against_other_weights():
    params = PAIR | GROUPED | VOCABULARY | tree(head=(1000, 64))
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == set(PAIR | GROUPED)
