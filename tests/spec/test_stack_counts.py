"""A layout with S that does not hold: weights of one module with different numbers of layers."""

import re

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg
from fgsgd_jax import Stiefel


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def kernels(**shapes):
    """Flat paths to kernels, with two underscores for each slash."""
    return {f"{name.replace('__', '/')}/kernel": leaf(*shape) for name, shape in shapes.items()}


ON_AXIS_1 = {  # six layers, and the points of one weight that the message names
    "MaxText": kernels(
        decoder__layers__attn__query=(64, 6, 8, 4),
        decoder__layers__attn__out=(8, 6, 4, 64),
        decoder__layers__mlp__wi_0=(64, 6, 256),
        decoder__layers__mlp__wo=(256, 6, 64),
        decoder__logits_dense=(64, 99),
    ),
    "feed-forward": kernels(layers__mlp__up=(64, 6, 256), layers__mlp__down=(256, 6, 64)),
    "without kernels": {"layers/mlp_up": leaf(64, 6, 256), "layers/mlp_down": leaf(256, 6, 64)},
    "of one width": kernels(
        h__attn__q_proj=(64, 6, 64), h__attn__o_proj=(64, 6, 64), h__mlp__up=(64, 6, 256)
    )
    | kernels(h__mlp__down=(256, 6, 64)),
}


@pytest.mark.parametrize("name", ON_AXIS_1)
@pytest.mark.parametrize("layout", ["SIO", "IOS", "SHWIO"])
def test_a_preset_and_rules_refuse_weights_that_hold_different_numbers_of_layers(name, layout):
    params = ON_AXIS_1[name]
    axis = 2 if layout == "IOS" else 0
    with pytest.raises(ValueError, match="If axis 1 stacks layers") as raised:
        fg.collection(params, preset="transformer", layout=layout)
    path, other = re.findall(r"'([^']*/[^']*)'", str(raised.value))[:2]
    size, its = params[path].shape[-1 if axis else 0], params[other].shape[-1 if axis else 0]
    assert size != its
    assert f"with layout='{layout}' it holds {size} layers, but {other!r}" in str(raised.value)
    cut = re.search("component='([^']*)'", str(raised.value))[1]
    spec = fg.collection(params, (path, fg.pom("layer", Stiefel(), component=cut)), default=None)
    rows, _, *between, columns = params[path].shape
    assert spec[path].points_shape == (rows, columns, 6, *between)
    with pytest.raises(ValueError, match="If axis 1 stacks layers"):
        fg.collection(params, (path, fg.pom("layer", Stiefel())), layout=layout, default=None)
    strict = (path, fg.pom("layer", Stiefel(), layout="SIO"))  # of a pom, it holds as it is
    if len(params[path].shape) == 3:
        assert fg.collection(params, strict, layout=layout, default=None)[path] is not None


def test_the_message_has_a_cut_for_heads():
    params = kernels(layers__attn__query=(64, 6, 8, 4), layers__attn__out=(8, 6, 4, 64))
    for path, points in (("query", (64, 4, 6, 8)), ("out", (32, 64, 6))):
        rule = (f"*{path}*", fg.pom("layer", Stiefel(), component="matrix"))
        with pytest.raises(ValueError, match="If axis 1 stacks layers") as raised:
            fg.collection(params, rule, layout="SIO", default=None)
        cut = re.search("component='([^']*)'", str(raised.value))[1]
        rule = (f"*{path}*", fg.pom("layer", Stiefel(), component=cut))
        spec = fg.collection(params, rule, default=None)
        assert spec[f"layers/attn/{path}/kernel"].points_shape == points


@pytest.mark.parametrize(
    ("layout", "up", "down", "cut"),
    [
        ("IOS", (6, 16, 64), (6, 64, 16), "layers in:rows out:columns"),
        ("SOI", (64, 6, 16), (16, 6, 64), "out:columns layers in:rows"),
        ("OIS", (6, 64, 16), (6, 16, 64), "layers out:columns in:rows"),
        ("SIO", (16, 64, 6), (64, 16, 6), "in:rows out:columns layers"),
    ],
)
def test_the_message_names_the_axis_that_is_of_one_size(layout, up, down, cut):
    params = kernels(layers__mlp__up=up, layers__mlp__down=down)
    with pytest.raises(ValueError, match=f"component='{cut}'"):
        fg.collection(params, preset="transformer", layout=layout)
    rule = ("*/up/*", fg.pom("layer", Stiefel(), component=cut))
    spec = fg.collection(params, rule, default=None)
    assert spec["layers/mlp/up/kernel"].points_shape == (16, 64, 6)


AGREEING = {  # different numbers of layers in different modules, of experts, of heads
    "encoder and decoder": kernels(enc__up=(6, 8, 16), enc__down=(6, 16, 8))
    | kernels(dec__up=(3, 8, 16), dec__down=(3, 16, 8)),
    "experts": kernels(layers__experts_up=(4, 8, 16), layers__up=(6, 8, 16))
    | kernels(layers__down=(6, 16, 8)),
    "Gemma": {
        "attn/q_einsum/w": leaf(4, 8, 2),
        "attn/kv_einsum/w": leaf(2, 1, 8, 2),
        "attn/attn_vec_einsum/w": leaf(4, 2, 8),
        "mlp/gating_einsum/w": leaf(2, 8, 16),
        "mlp/linear/w": leaf(1, 16, 8),
    },
    "stages": kernels(stage_0__conv=(3, 3, 3, 8, 8), stage_1__conv=(5, 3, 3, 8, 8)),
}


@pytest.mark.parametrize("name", AGREEING)
def test_modules_experts_and_heads_may_have_numbers_of_their_own(name):
    preset = "resnet" if name == "stages" else "transformer"
    layout = "SHWIO" if name == "stages" else "SIO"
    assert list(fg.collection(AGREEING[name], preset=preset, layout=layout).on_manifolds())
