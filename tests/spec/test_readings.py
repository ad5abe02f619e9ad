"""Rules that messages print: along the right axes, or one for every reading of the shape."""

import re

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg

RULE = re.compile(r"\('([^']*)', fg\.pom\('layer', fg\.\w+\(\), component='([^']*)'[^:]*?\)\)")


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def tree(**shapes):
    """Flat paths to leaves, with two underscores for each slash."""
    return {name.replace("__", "/"): leaf(*shape) for name, shape in shapes.items()}


def printed(params, layout):
    """What a spec says below its table, or its error, if it has a rule to copy."""
    try:
        text = str(fg.collection(params, preset="transformer", layout=layout))
    except ValueError as error:
        text = str(error)
    return text


QUERIES = {name: (8, 64, 16) for name in ("wq", "wk", "wv")}  # 8 heads or layers of 64 × 16
BIASES = {name: (8, 16) for name in ("b_Q", "b_K", "b_V")}
FIRST_AXIS_COUNTS = {  # of 64 features to 16: what stands beside queries, keys and values
    "flat": tree(**{f"layers__{name}": its for name, its in QUERIES.items()}),
    "with outputs": tree(
        **{f"layers__{name}": its for name, its in QUERIES.items()}, layers__wo=(8, 16, 64)
    ),
    "with dense layers": tree(
        **{f"layers__{name}": its for name, its in QUERIES.items()},
        layers__w1=(8, 64, 128),
        layers__w2=(8, 128, 64),
    ),
    "TransformerLens": tree(
        **{f"attn__W_{name}": (8, 64, 16) for name in "QKV"},
        **{f"attn__{name}": its for name, its in BIASES.items()},
        attn__W_O=(8, 16, 64),
        attn__b_O=(64,),
    ),
    "kernels": {f"h/attn/{name}_proj/kernel": leaf(8, 64, 16) for name in "qkv"},
    "heads by hand": {f"attn/{name}/kernel": leaf(8, 64, 16) for name in ("query", "key")},
}


@pytest.mark.parametrize("name", FIRST_AXIS_COUNTS)
@pytest.mark.parametrize("layout", [None, "HWIO", "SIO", "SHWIO"])
def test_a_printed_rule_of_heads_before_inputs_cuts_a_matrix_for_each_head(name, layout):
    params = FIRST_AXIS_COUNTS[name]
    text = printed(params, layout)
    for path, cut in RULE.findall(text):
        rule = (path, fg.pom("layer", fg.Stiefel(), component=cut))
        heads, rows, columns = params[path].shape
        spec = fg.collection(params, rule, default=None)
        assert spec[path].points_shape == (rows, columns, heads)
    placed = [path for path in params if params[path].shape == (8, 64, 16)]
    if not RULE.search(text):  # then they are placed, and rightly
        spec = fg.collection(params, preset="transformer", layout=layout)
        assert {spec[path].points_shape for path in placed} == {(64, 16, 8)}


def test_a_square_query_has_the_cuts_of_both_readings():
    text = printed(tree(h__wk=(8, 8, 8), h__wq=(8, 8, 8)), "SIO")
    first = "component='in:rows heads:stack out:columns', scale=('variance', 1.0)))"
    assert f"{first} if (8, 8, 8) is (in, heads, size)" in text
    assert "component='heads:stack in:rows out:columns' if it is (heads or layers, in, out)" in text


READINGS = {  # a weight, what stands beside it, and the points of the cuts that are printed
    "scanned heads": (
        tree(blocks__attn__query__kernel=(6, 64, 8, 4), blocks__attn__out__kernel=(6, 8, 4, 64)),
        "blocks/attn/out/kernel",
        {(32, 64, 6)},
    ),
    "an output alone": (
        tree(blocks__attn__out__kernel=(6, 8, 4, 64)),
        "blocks/attn/out/kernel",
        {(32, 64, 6), (24, 64, 8)},
    ),
    "the output of MaxText": (
        tree(a__attn__query__kernel=(64, 6, 8, 4), a__attn__out__kernel=(8, 6, 4, 64)),
        "a/attn/out/kernel",
        {(32, 64, 6)},
    ),
    "MaxText": (
        tree(layers__attn__query__kernel=(64, 6, 8, 4), layers__attn__key__kernel=(64, 6, 8, 4)),
        "layers/attn/key/kernel",
        {(64, 4, 6, 8), (8, 4, 64, 6)},
    ),
}


@pytest.mark.parametrize("name", READINGS)
def test_four_axes_without_a_layout_have_the_cut_of_every_reading(name):
    params, path, expected = READINGS[name]
    text = printed(params, None)
    assert f"{path!r} has shape" in text
    assert "layout='SIO'" in text
    found = set()
    for cut in re.findall(r"component='([^']*)'", text):
        rule = (path, fg.pom("layer", fg.Stiefel(), component=cut))
        found.add(fg.collection(params, rule, default=None)[path].points_shape)
    assert found == expected


@pytest.mark.parametrize("layout", ["SIO", "SHWIO", "IOS"])
def test_a_rule_for_a_matrix_in_stacked_layers_names_their_axis(layout):
    shape = (16, 3, 5) if layout == "IOS" else (5, 16, 3)
    params = {"critic/value/kernel": leaf(*shape)}
    params["mlp/up/kernel"] = leaf(*((16, 64, 5) if layout == "IOS" else (5, 16, 64)))
    ((path, cut),) = RULE.findall(printed(params, layout))
    rule = (path, fg.pom("layer", fg.Stiefel(), component=cut))
    assert fg.collection(params, rule, default=None)[path].points_shape == (16, 3, 5)


@pytest.mark.parametrize("layout", ["OIHW", "SOI"])
def test_gates_of_layers_whose_outputs_come_first_are_cut_along_their_inputs(layout):
    stack = (5,) if layout.startswith("S") else ()
    params = {"mlp/up/weight": leaf(*stack, 2, 16, 64), "mlp/down/weight": leaf(*stack, 64, 16)}
    spec = fg.collection(params, preset="transformer", layout=layout)
    assert spec["mlp/up/weight"].points_shape == (64, 16, *stack, 2)
