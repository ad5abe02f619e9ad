"""Trees in which some layers are scanned and others are not: each is cut as what it is."""

import re

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg
from fgsgd_jax import Stiefel


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def kernels(**shapes):
    """A tree of kernels by path, with two underscores for each slash."""

    def full(path):
        return path if path.endswith(("/bias", "/scale", "/weight")) else f"{path}/kernel"

    return {full(name.replace("__", "/")): leaf(*shape) for name, shape in shapes.items()}


def points(spec):
    return {
        path.removesuffix("/kernel").removesuffix("/weight"): leaf_spec.points_shape
        for path, leaf_spec in spec.on_manifolds()
    }


STEMS = {  # layout, the tree, and the points: a filter has size² · inputs entries
    "Flax": (
        "SHWIO",
        kernels(stem_conv=(3, 3, 1, 8), ScanBlock_0__Conv_0=(5, 3, 3, 8, 8), head=(8, 10)),
        {"stem_conv": (9, 1, 8), "ScanBlock_0/Conv_0": (72, 1, 5, 8)},
    ),
    "outputs first": (
        "SOIHW",
        kernels(conv1__weight=(8, 2, 5, 5), blocks__conv__weight=(3, 8, 8, 3, 3)),
        {"conv1": (50, 1, 8), "blocks/conv": (72, 1, 3, 8)},
    ),
    "stacked last": (
        "HWIOS",
        kernels(conv_init=(3, 3, 1, 8), blocks__conv=(3, 3, 8, 8, 4)),
        {"conv_init": (9, 1, 8), "blocks/conv": (72, 1, 8, 4)},
    ),
    "as long as layers": (
        "SHWIO",
        kernels(conv=(3, 3, 2, 8), conv__bias=(8,), blocks__conv=(3, 3, 3, 8, 8)),
        {"conv": (18, 1, 8), "blocks/conv": (72, 1, 3, 8)},
    ),
    "1×1 and a shortcut": (
        "SHWIO",
        kernels(conv_proj=(1, 1, 4, 8), down=(3, 3, 4, 8), blocks__conv=(5, 3, 3, 8, 8)),
        {"conv_proj": (4, 1, 8), "down": (36, 1, 8), "blocks/conv": (72, 1, 5, 8)},
    ),
    "scanned shortcut": (
        "SHWIO",
        kernels(conv=(3, 3, 4, 8), blocks__down=(5, 3, 3, 8, 8)),
        {"conv": (36, 1, 8), "blocks/down": (72, 1, 5, 8)},
    ),
}


@pytest.mark.parametrize("name", STEMS)
def test_a_convolution_outside_the_scanned_blocks_is_one_layer(name):
    layout, params, expected = STEMS[name]
    assert points(fg.collection(params, preset="resnet", layout=layout)) == expected


def test_the_default_and_rules_read_a_stem_as_one_layer_and_a_layout_of_a_pom_holds_as_it_is():
    params = kernels(stem_conv=(3, 3, 8, 8), blocks__conv=(5, 3, 3, 8, 8))
    expected = {"stem_conv": (3, 3, 8, 8), "blocks/conv": (3, 3, 5, 8, 8)}
    rule = ("*", fg.pom("PO", fg.Sphere()))
    assert points(fg.collection(params, layout="SHWIO")) == expected
    assert points(fg.collection(params, rule, layout="SHWIO")) == expected
    strict = ("stem_conv/*", fg.pom("PO", fg.Sphere(), layout="SHWIO"))
    spec = fg.collection(params, strict, layout="SHWIO")
    assert points(spec)["stem_conv"] == (3, 1, 3, 8, 8)


@pytest.mark.parametrize("beside", ["bias", "norm"])
@pytest.mark.parametrize("layers", [4, 5])
def test_a_scanned_convolution_of_one_axis_is_stacked_if_its_bias_or_norm_is(beside, layers):
    scale = {"bias": "block__conv__bias", "norm": "block__norm__scale"}[beside]
    params = kernels(block__conv=(layers, 3, 8, 8), **{scale: (layers, 8)})
    params |= kernels(blocks__conv=(layers, 3, 3, 8, 8))
    spec = fg.collection(params, preset="resnet", layout="SHWIO")
    assert points(spec)["block/conv"] == (24, 1, layers, 8)


SCANNED = kernels(layers__query=(5, 8, 2, 4), layers__up=(5, 8, 16), layers__norm__scale=(5, 8))
ONE_LAYER = {  # what stands beside a query kernel (in, heads, size) that is not scanned
    "output": kernels(attn__query=(8, 2, 4), attn__out=(2, 4, 8)),
    "bias": kernels(attn__query=(8, 2, 4), attn__query__bias=(2, 4)),
    "norm": kernels(first__attn__query=(8, 2, 4), first__norm__scale=(8,)),
    "dense": kernels(first__attn__query=(6, 2, 4), first__mlp__up=(6, 16)),
    "grouped": kernels(attn__query=(8, 4, 2), attn__key=(8, 1, 2), attn__out=(4, 2, 8)),
}


@pytest.mark.parametrize("beside", ONE_LAYER)
@pytest.mark.parametrize("layout", ["SIO", "SHWIO"])
def test_attention_outside_the_scanned_blocks_is_cut_by_its_heads(beside, layout):
    params = SCANNED | ONE_LAYER[beside]
    found = points(fg.collection(params, preset="transformer", layout=layout))
    for path, kernel in ONE_LAYER[beside].items():
        name, shape = path.removesuffix("/kernel"), kernel.shape
        if name.endswith(("query", "key")):
            assert found[name] == (shape[0], shape[2], shape[1])
        if name.endswith("out"):
            assert found[name] == (shape[0] * shape[1], shape[2])
    assert found["layers/query"] == (8, 4, 5, 2)
    assert found["layers/up"] == (8, 16, 5)


@pytest.mark.parametrize("shape", [(8, 16), (16, 8)])
@pytest.mark.parametrize("name", ["Dense_0", "mlp__up", "attn__q_proj"])
def test_a_dense_layer_outside_the_scanned_blocks_is_one_matrix(name, shape):
    params = SCANNED | kernels(**{name: shape})
    spec = fg.collection(params, preset="transformer", layout="SIO")
    assert points(spec)[name.replace("__", "/")] == shape


@pytest.mark.parametrize("shape", [(32, 10), (16, 1000)])
def test_a_head_that_nothing_reads_is_found_beside_scanned_blocks(shape):
    params = kernels(layers__q_proj=(5, shape[0], 8), layers__up=(5, shape[0], 8))
    params |= kernels(layers__down=(5, 8, shape[0]), Dense_0=shape)
    spec = fg.collection(params, preset="transformer", layout="SIO")
    assert set(points(spec)) == {"layers/q_proj", "layers/up", "layers/down"}
    assert "the last dense layer" in spec.reasons


STACKED = {  # scanned dense kernels (layers, in, out) of attention
    "sibling": kernels(layers__q_proj=(12, 8, 8), layers__up=(12, 8, 32), head=(8, 5)),
    "output": kernels(layers__attn__q_proj=(6, 8, 8), layers__attn__o_proj=(6, 8, 8)),
    "bias": kernels(attn__query=(3, 8, 16), attn__query__bias=(3, 16)),
    "norm": kernels(blocks__attn__k_proj=(12, 8, 6), blocks__norm__scale=(12, 8), out=(8, 5)),
    "block": kernels(h__attn__c_proj=(12, 8, 6), h__mlp__fc=(12, 8, 32), h__ln__scale=(12, 8)),
}


@pytest.mark.parametrize("beside", STACKED)
def test_scanned_dense_attention_is_stacked_and_never_read_as_heads(beside):
    params = STACKED[beside]
    with pytest.raises(ValueError, match=r"look like stacked layers.*layout='SIO'"):
        fg.collection(params, preset="transformer")
    path, kernel = next(iter(params.items()))
    layers, *matrix = kernel.shape
    spec = fg.collection(params, preset="transformer", layout="SIO")
    assert spec[path].points_shape == (*matrix, layers)


UNCLEAR = {
    "alone": kernels(attn__query=(8, 2, 4)),
    "others alike": kernels(attn__query=(8, 2, 4), attn__key=(8, 2, 4), attn__value=(8, 2, 4)),
    "all sizes equal": kernels(a__attn__q_proj=(8, 8, 8), a__attn__out=(8, 8, 8)),
    "disagreement": kernels(
        a__attn__query=(8, 2, 4), a__norm__scale=(8,), a__mlp__up=(8, 4, 16), a__ln__scale=(8, 4)
    ),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_attention_that_may_be_stacked_or_not_is_refused_with_what_to_write(case):
    params = SCANNED | UNCLEAR[case]
    attention = {path for path in UNCLEAR[case] if "attn" in path}
    one_of_them = "|".join(attention)
    message = f"'({one_of_them})' .* stacked layers or one layer.*rule"
    rules = []
    for _ in attention:  # what each message says to write is written
        with pytest.raises(ValueError, match=message) as refused:
            fg.collection(params, *rules, preset="transformer", layout="SIO")
        path, *_, cut = re.findall(r"'([^']*)'", str(refused.value))
        rules.append((path, fg.pom("layer", Stiefel(), component=cut)))
    spec = fg.collection(params, *rules, preset="transformer", layout="SIO")
    assert all(spec[path] for path in attention)


@pytest.mark.parametrize("beside", ONE_LAYER)
def test_attention_of_one_layer_needs_no_layout(beside):
    gated = kernels(mlp__gating=(2, 8, 16), experts__up=(8, 8, 16))
    found = points(fg.collection(ONE_LAYER[beside] | gated, preset="transformer"))
    (name,) = (name for name in found if name.endswith("query"))
    inputs, heads, size = ONE_LAYER[beside][f"{name}/kernel"].shape
    assert found[name] == (inputs, size, heads)


@pytest.mark.parametrize("name", ["sa", "att", "mixer", "blocks/0/mixer"])
@pytest.mark.parametrize("layout", [None, "SIO"])
def test_queries_beside_an_output_say_that_it_is_of_attention(name, layout):
    shapes = {"query": (8, 2, 4), "key": (8, 2, 4), "value": (8, 2, 4), "out": (2, 4, 8)}
    params = {f"{name}/{key}/kernel": leaf(*shape) for key, shape in shapes.items()}
    params["conv/out/kernel"] = leaf(2, 4, 8)
    spec = fg.collection(params, preset="transformer", layout=layout)
    assert points(spec) == {f"{name}/{key}": (8, 4, 2) for key in ("query", "key", "value")} | {
        f"{name}/out": (8, 8)
    }


@pytest.mark.parametrize("last", ["Dense_1", "a", "out__linear"])
def test_the_last_dense_layer_of_an_mlp_is_not_among_its_scanned_layers(last):
    params = kernels(Dense_0=(8, 16), scanned__Dense_0=(4, 16, 16), **{last: (16, 5)})
    if last == "a":
        del params["Dense_0/kernel"]
    spec = fg.collection(params, preset="mlp", layout="SIO")
    expected = {"Dense_0": (8, 16), "scanned/Dense_0": (16, 16, 4)}
    assert points(spec) == {k: v for k, v in expected.items() if f"{k}/kernel" in params}


@pytest.mark.parametrize("name", ["gain", "alpha", "b1", "mlp/b1", "mlp/Dense_0/gain"])
@pytest.mark.parametrize("request_", ["default", "mlp", "transformer"])
def test_a_vector_for_each_stacked_layer_stays_euclidean(name, request_):
    params = kernels(layers__mlp__Dense_0=(5, 64, 48), layers__mlp__Dense_1=(5, 48, 64))
    params |= {f"layers/{name}": leaf(5, 64)}
    if request_ == "default":
        spec = fg.collection(params, default=fg.pom("layer", fg.Sphere()), layout="SIO")
    else:
        spec = fg.collection(params, preset=request_, layout="SIO")
    assert spec[f"layers/{name}"] is None
    assert spec["layers/mlp/Dense_0/kernel"].points_shape[2] == 5
    # The same shape as the kernel of one layer is a matrix.
    spec = fg.collection(params | kernels(proj=(5, 64)), preset="transformer", layout="SIO")
    assert spec["proj/kernel"].points_shape == (5, 64)


@pytest.mark.parametrize("beside", [{"ln/scale": (6, 32)}, {"wo": (6, 16, 32)}, {"bq": (6, 16)}])
def test_weights_that_share_a_module_without_layers_of_their_own_are_read_by_each_other(beside):
    """Query and output (6, in, out) of six scanned layers, whose module holds the weights."""
    shapes = {"wq": (6, 32, 16), "w1": (6, 32, 64), "w2": (6, 64, 32), **beside}
    params = {f"layers/{name}": leaf(*its) for name, its in shapes.items()}
    spec = fg.collection(params, preset="transformer", layout="SIO")
    for path, leaf_spec in spec.on_manifolds():
        assert leaf_spec.points_shape == (*params[path].shape[1:], 6)
    assert spec["layers/wq"] is not None
