"""A bias has one entry for each output, so it says where a layout takes outputs for inputs."""

import re

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg

FILTERS = fg.pom("PO", fg.Sphere(), component="filter")


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def reason(spec, path):
    return dict(zip(spec, spec.reasons, strict=True))[path]


SWAPPED = {  # the layout given, the weight, its bias, the layout that is right, rows and outputs
    "transposed, PyTorch": ("OIHW", ("up/0/weight", (64, 32, 2, 2)), (32,), "IOHW", (256, 32)),
    "transposed, 1-D": ("OIHW", ("up/conv/weight", (8, 4, 3)), (4,), "IOW", (24, 4)),
    "transposed, Flax": (None, ("ConvTranspose_0/kernel", (3, 3, 8, 16)), (8,), "HWOI", (144, 8)),
    "dense of PyTorch": (None, ("fc1/w", (64, 32)), (64,), "OIHW", (32, 64)),
    "dense of Flax": ("OIHW", ("fc1/kernel", (32, 64)), (64,), "HWIO", (32, 64)),
    "convolution": (None, ("conv/w", (8, 8, 8, 16)), (8,), "HWOI", (1024, 8)),
    "stacked": ("SOIHW", ("up/conv/weight", (5, 8, 4, 3, 3)), (5, 4), "SIOHW", (72, 4)),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_a_bias_as_long_as_the_inputs_speaks_against_a_layout(name):
    layout, (path, shape), bias, right, (rows, outputs) = SWAPPED[name]
    params = {path: leaf(*shape), f"{path.rpartition('/')[0]}/bias": leaf(*bias)}
    with pytest.raises(ValueError, match=rf"its bias says .* write layout='{right}'"):
        fg.collection(params, (path, FILTERS), layout=layout)
    given = fg.pom("PO", fg.Sphere(), component="filter", layout=right)
    spec = fg.collection(params, (path, given), layout=layout, default=None)
    assert (spec[path].points_shape[0], spec[path].points_shape[-1]) == (rows, outputs)
    by_default = fg.collection(params, layout=layout, default=FILTERS)
    assert by_default[path] is None
    assert "its bias" in reason(by_default, path)


@pytest.mark.parametrize(
    ("preset", "layout", "first", "second", "right"),
    [
        ("mlp", None, (64, 32), (16, 64), "OIHW"),
        ("mlp", "OIHW", (32, 64), (64, 16), "HWIO"),
        ("resnet", None, (3, 3, 8, 16), (3, 3, 4, 8), "HWOI"),
        ("resnet", "OIHW", (16, 8, 3, 3), (8, 4, 3, 3), "IOHW"),
    ],
)
def test_a_preset_refuses_a_layout_that_a_bias_speaks_against(preset, layout, first, second, right):
    name = "fc" if preset == "mlp" else "conv"
    params = {"head/kernel": leaf(5, 5)}
    for i, shape in enumerate((first, second)):
        inputs = {"OIHW": shape[0], "HWIO": shape[-1], "HWOI": shape[-2], "IOHW": shape[1]}[right]
        params |= {f"{name}{i}/kernel": leaf(*shape), f"{name}{i}/bias": leaf(inputs)}
    with pytest.raises(ValueError, match=rf"'{name}0/kernel' .* write layout='{right}'"):
        fg.collection(params, preset=preset, layout=layout)


RIGHT = {  # weights beside which a bias says nothing else, or nothing
    "Equinox": ("OIHW", {"up/weight": leaf(32, 64, 2, 2), "up/bias": leaf(32, 1, 1)}),
    "square": (None, {"fc/kernel": leaf(8, 8), "fc/bias": leaf(8)}),
    "depthwise": (None, {"conv/kernel": leaf(3, 3, 1, 8), "conv/bias": leaf(8)}),
    "two weights": (None, {"gru/w_i": leaf(8, 24), "gru/w_h": leaf(8, 24), "gru/b": leaf(8)}),
    "of another layer": (None, {"fc/kernel": leaf(8, 16), "bias": leaf(8)}),
    "of no layer": (None, {"w": leaf(8, 16), "b": leaf(8)}),
    "stacked": ("SIO", {"fc/kernel": leaf(8, 8, 16), "fc/bias": leaf(8, 16)}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_other_biases_speak_against_no_layout(name):
    layout, params = RIGHT[name]
    rule = ("*", FILTERS)
    assert list(fg.collection(params, rule, layout=layout).on_manifolds())


def test_layers_of_flax_and_equinox_agree_with_their_biases():
    x = jnp.ones((1, 6, 6, 8))
    for layer in (linen.Conv(16, (3, 3)), linen.ConvTranspose(16, (3, 3)), linen.Dense(16)):
        variables = jax.eval_shape(layer.init, jax.random.key(0), x)
        params = {"layer": variables["params"]}
        spec = fg.collection(params, ("*", FILTERS))
        assert spec["layer/kernel"].points_shape[-1] == 16
    swapped = linen.ConvTranspose(16, (3, 3), transpose_kernel=True)
    params = {"layer": jax.eval_shape(swapped.init, jax.random.key(0), x)["params"]}
    with pytest.raises(ValueError, match="write layout='HWOI'"):
        fg.collection(params, ("*", FILTERS))
    key = jax.random.key(0)
    for module in (eqx.nn.Conv2d(8, 16, 3, key=key), eqx.nn.ConvTranspose2d(8, 16, 3, key=key)):
        params = {"layer": eqx.filter(module, eqx.is_array)}
        spec = fg.collection(params, ("*", FILTERS), layout="OIHW")
        assert spec["layer/weight"].points_shape == (72, 1, 16)


@pytest.mark.parametrize("name", ["up/conv_transpose", "decoder/deconv_0"])
@pytest.mark.parametrize(
    ("shape", "bias", "certain"),
    [
        ((8, 8, 3, 3), (8,), False),
        ((8, 4, 3, 3), None, False),
        ((8, 8, 3, 3), (8, 1, 1), True),
        ((8, 4, 3, 3), (8,), True),
    ],
)
def test_a_transposed_convolution_beside_others_with_outputs_first_needs_a_layout_if_unclear(
    name, shape, bias, certain
):
    params = {f"conv{i}/weight": leaf(8, 8, 3, 3) for i in range(3)} | {"head/weight": leaf(5, 8)}
    params |= {f"{name}/weight": leaf(*shape)} | ({f"{name}/bias": leaf(*bias)} if bias else {})
    spec = fg.collection(params, preset="resnet", layout="OIHW")
    assert (spec[f"{name}/weight"] is not None) == certain
    if not certain:
        assert "layout='IOHW' or 'OIHW' in a pom" in reason(spec, f"{name}/weight")
        rule = (f"{name}/weight", fg.pom("PO", fg.Sphere(), component="filter", layout="IOHW"))
        ruled = fg.collection(params, rule, preset="resnet", layout="OIHW")
        assert ruled[f"{name}/weight"].points_shape == (shape[0] * 9, 1, shape[1])


def test_the_normalization_after_a_convolution_in_a_list_counts_its_outputs():
    # A generator of PyTorch's DCGAN, of transposed convolutions without biases.
    vectors = {f"main/1/{name}": leaf(64) for name in ("weight", "bias")}
    params = {"main/0/weight": leaf(20, 64, 4, 4), "main/3/weight": leaf(64, 3, 4, 4)} | vectors
    with pytest.raises(ValueError, match=r"normalization after it says .* write layout='IOHW'"):
        fg.collection(params, preset="resnet", layout="OIHW")
    spec = fg.collection(params, preset="resnet", layout="IOHW")
    assert spec["main/0/weight"].points_shape == (20 * 16, 1, 64)
    other = vectors | {"main/0/weight": leaf(64, 20, 4, 4), "main/3/weight": leaf(9, 64, 4, 4)}
    assert fg.collection(other, preset="resnet", layout="OIHW")["main/0/weight"] is not None


@pytest.mark.parametrize(
    ("path", "shape", "layout", "filters"),
    [
        ("up/deconv/weight", (64, 32, 4, 4), "OIHW", (64 * 16, 1, 32)),
        ("up/deconv/weight", (64, 32, 4), "OIHW", (64 * 4, 1, 32)),
        ("conv2_d_transpose/w", (4, 4, 32, 64), None, (64 * 16, 1, 32)),
    ],
)
def test_a_transposed_convolution_of_unknown_layout_has_the_rule_to_copy(
    path, shape, layout, filters
):
    own = (16, 16, *shape[2:]) if layout else (3, 3, 16, 16)
    last = (5, 16, *shape[2:]) if layout else (3, 3, 16, 5)
    params = {path: leaf(*shape)} | {
        f"conv_{i}/{path.rpartition('/')[2]}": leaf(*its) for i, its in enumerate((own, last))
    }
    text = str(fg.collection(params, preset="resnet", layout=layout))
    (rule,) = re.findall(r"Place one by a rule, such as (\(.*\)), or with layout", text)
    spec = fg.collection(params, eval(rule, {"fg": fg}), preset="resnet", layout=layout)
    assert spec[path].points_shape == filters
