"""Rules that messages print: they place a weight as the preset places it in other shapes."""

import re

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg

RULE = re.compile(r"\('[^']*', fg\.pom\(.*?\)\)(?= if |, or give|\.)")


def tree(**shapes):
    """Flat paths to leaves, with two underscores for each slash."""
    return {
        name.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in shapes.items()
    }


def printed(params, preset="transformer", **options):
    """What a spec says below its table, or its error."""
    try:
        return str(fg.collection(params, preset=preset, **options))
    except ValueError as error:
        return str(error)


def placed(params, path, text, **options):
    """The leaf spec that a printed rule gives for a weight."""
    return fg.collection(params, eval(text, {"fg": fg}), default=None, **options)[path]


UNSCANNED = {  # a weight of several layers, the same of one layer, and the preset
    "dense": ("mlp__wi__kernel", (64, 8, 256), (64, 256), "transformer"),
    "attention": ("attn__q__kernel", (8, 64, 32), (64, 32), "transformer"),
}


@pytest.mark.parametrize("name", UNSCANNED)
def test_a_printed_rule_has_the_manifold_and_the_scale_of_the_preset(name):
    key, scanned, one, preset = UNSCANNED[name]
    path = key.replace("__", "/")
    params = tree(**{key: scanned}, mlp__up__kernel=(64, 256))
    (text,) = RULE.findall(printed(params, preset))
    found = placed(params, path, text)
    of_one = fg.collection(tree(**{key: one}, mlp__up__kernel=(64, 256)), preset=preset)[path]
    assert found.points_shape[:2] == one
    assert found.manifolds == of_one.manifolds
    assert (found.scheme, found.gamma) == (of_one.scheme, of_one.gamma)


def test_a_scale_of_the_collection_holds_for_a_printed_rule():
    params = tree(mlp__wi__kernel=(64, 8, 256), mlp__up__kernel=(64, 256))
    (text,) = RULE.findall(printed(params, scale=0.5))
    assert placed(params, "mlp/wi/kernel", text, scale=0.5).gamma == 0.5


@pytest.mark.parametrize("normalized", [False, True])
def test_the_end_of_an_autoencoder_has_a_rule_with_the_scale_of_the_preset(normalized):
    params = tree(e__a__kernel=(64, 32), e__b__kernel=(32, 8), d__a__kernel=(8, 32))
    params |= tree(d__b__kernel=(32, 64))
    if normalized:
        params |= tree(e__n__scale=(32,), e__m__scale=(32,), d__n__scale=(32,), d__m__scale=(32,))
    (text,) = RULE.findall(printed(params, "mlp"))
    found = placed(params, "e/b/kernel", text)
    assert found.manifolds == (fg.Stiefel(),)
    spec = fg.collection(params, preset="mlp")
    assert (found.gamma is None) == (spec["e/a/kernel"].gamma is None) == normalized


def test_attention_scanned_on_its_second_axis_has_the_rule_that_cuts_it():
    params = tree(attn__query__kernel=(64, 12, 64), attn__out__kernel=(64, 12, 64))
    params |= tree(mlp__wi__kernel=(64, 12, 256), mlp__wo__kernel=(256, 12, 64))
    text = printed(params)
    assert "component='in:rows layers out:columns' if it is (in, layers, out)" in text
    (rule,) = RULE.findall(text)
    assert f"{rule} if (64, 12, 64) is (layers, in, out)" in text


@pytest.mark.parametrize("layout", [None, "HWIO", "SIO"])
def test_the_matrix_that_leads_back_tells_the_inputs_of_gates(layout):
    stack = (3,) if layout == "SIO" else ()
    for first, back in (((256, 64), (256, 64)), ((64, 256), (256, 64)), ((64, 24), (24, 64))):
        params = tree(mlp__gating_einsum__w=(*stack, 2, *first), mlp__linear__w=(*stack, *back))
        found = fg.collection(params, preset="transformer", layout=layout)
        assert found["mlp/gating_einsum/w"].points_shape[:2] == back[::-1]
        assert found["mlp/gating_einsum/w"].manifolds == (fg.Oblique(),)


@pytest.mark.parametrize("back", [{}, {"mlp__linear__w": (48, 64)}, {"mlp__linear__w": (64, 64)}])
def test_gates_without_a_matrix_that_leads_back_have_the_rules_of_both_readings(back):
    params = tree(mlp__gating_einsum__w=(2, 256, 64), **back)
    text = printed(params)
    cuts = re.findall(r"component='([^']*)'", text)
    assert cuts == ["gates:stack out:columns in:rows", "gates:stack in:rows out:columns"]
    assert "is (gates, out, in)" in text


def test_attention_scanned_on_its_second_axis_keeps_outputs_first_where_the_layout_has_them_so():
    params = tree(attn__query__weight=(64, 12, 64), attn__out__weight=(64, 12, 64))
    text = printed(params | tree(mlp__up__weight=(256, 64)), layout="OIHW")
    cuts = re.findall(r"component='([^']*)'", text)
    assert cuts
    assert all(cut.index("out:columns") < cut.index("in:rows") for cut in cuts)


def test_a_weight_in_attention_has_a_rule_of_attention():
    params = tree(attn__linear_pos__kernel=(64, 32), attn__q__kernel=(64, 64))
    (text,) = RULE.findall(printed(params))
    found = placed(params, "attn/linear_pos/kernel", text)
    of_preset = fg.collection(params, preset="transformer")["attn/q/kernel"]
    assert found.manifolds == of_preset.manifolds
    assert found.gamma == 1  # the squares of an orthonormal column sum to the gain
