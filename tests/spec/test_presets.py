"""What presets make of names that are easily misread: heads, fused weights, attention outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg
from fgsgd_jax import Stiefel

K = jax.random.key(0)


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def kernels(**shapes):
    """Flat paths to kernels, with two underscores for each slash."""
    return {f"{name.replace('__', '/')}/kernel": leaf(*shape) for name, shape in shapes.items()}


def norms(*names, size=8):
    return {f"{name}/{last}": leaf(size) for name in names for last in ("scale", "bias")}


def reason(spec, path):
    return dict(zip(spec, spec.reasons, strict=True))[path]


def points(spec):
    return {path: leaf_spec.points_shape for path, leaf_spec in spec.on_manifolds()}


# --- the last convolution ------------------------------------------------------------------------


def of_linen(head):
    layers = {f"Conv_{i}/kernel": leaf(3, 3, 3 if i == 0 else 8, 8) for i in range(7)}
    return layers | norms(*(f"BatchNorm_{i}" for i in range(7))) | {"Conv_7/kernel": head}


def of_equinox(classes):
    def conv(inputs, outputs):
        return eqx.nn.Conv2d(inputs, outputs, 3, key=K)

    layers = [conv(3, 8), eqx.nn.GroupNorm(4, 8), conv(8, 8), eqx.nn.GroupNorm(4, 8)]
    return eqx.filter(eqx.nn.Sequential([*layers, conv(8, classes)]), eqx.is_array)


BLOCKS = kernels(stem=(3, 3, 3, 8), block_0__Conv_0=(3, 3, 8, 8), block_0__Conv_1=(3, 3, 8, 8))
SCALED = norms("block_0/norm_0", "block_0/norm_1")
GATE = kernels(block_0__se__fc1=(8, 2), block_0__se__fc2=(2, 8))
FULLY_CONVOLUTIONAL = {
    "linen": (of_linen(leaf(1, 1, 8, 10)), None, {"Conv_7/kernel"}),
    "equinox": (of_equinox(10), "OIHW", {"layers/4/weight"}),
    "blocks": (BLOCKS | SCALED | kernels(out=(1, 1, 8, 10)), None, {"out/kernel"}),
    "gates": (BLOCKS | SCALED | GATE | kernels(out=(1, 1, 8, 10)), None, {"out/kernel"}),
    "two heads": (
        BLOCKS | SCALED | kernels(scores=(1, 1, 8, 10), boxes=(1, 1, 8, 4)),
        None,
        {"scores/kernel", "boxes/kernel"},
    ),
    "in a head": (
        BLOCKS | SCALED | kernels(head__conv=(3, 3, 8, 8), head__conv_2=(1, 1, 8, 10)),
        None,
        {"head/conv_2/kernel"},
    ),
    "without normalization": (
        kernels(conv1=(3, 3, 1, 8), conv2=(3, 3, 8, 8), conv3=(3, 3, 8, 4)),
        None,
        {"conv3/kernel"},
    ),
    "an image out of an image": (
        kernels(down__conv=(3, 3, 3, 8), mid__conv=(3, 3, 8, 8), out_conv=(1, 1, 8, 3)),
        None,
        {"out_conv/kernel"},
    ),
    "super-resolution": (
        kernels(conv_first=(3, 3, 3, 8), body_0=(3, 3, 8, 8), body_1=(3, 3, 8, 8))
        | kernels(conv_last=(3, 3, 8, 3)),
        None,
        {"conv_last/kernel"},
    ),
    "final_conv in Haiku's spelling": (
        {
            f"unet/~/{name}/w": leaf(*shape)
            for name, shape in (
                ("conv2_d", (3, 3, 3, 8)),
                ("conv2_d_1", (3, 3, 8, 8)),
                ("final_conv", (1, 1, 8, 3)),
            )
        },
        None,
        {"unet/~/final_conv/w"},
    ),
}


@pytest.mark.parametrize("name", FULLY_CONVOLUTIONAL)
def test_a_convolution_that_gives_the_output_of_a_network_stays_euclidean(name):
    params, layout, heads = FULLY_CONVOLUTIONAL[name]
    spec = fg.collection(params, preset="resnet", layout=layout)
    weights = {path for path in spec if path.endswith(("/kernel", "weight", "/w"))}
    weights -= {path for path in weights if "fc" in path or reason(spec, path).startswith("fewer")}
    assert set(points(spec)) == weights - heads
    assert all("the last layer" in reason(spec, path) for path in heads)


DENSE_HEAD = {
    "pooled": kernels(Conv_0=(3, 3, 1, 8), Conv_1=(3, 3, 8, 16), Dense_0=(16, 10)),
    "flattened": kernels(conv1=(5, 5, 1, 8), conv2=(5, 5, 8, 12), fc1=(108, 32), fc2=(32, 10)),
    "in a module": kernels(Conv_0=(3, 3, 1, 8), Conv_1=(3, 3, 8, 16), MLP_0__Dense_0=(64, 10)),
    "attention": kernels(Conv_0=(3, 3, 1, 8), Conv_1=(3, 3, 8, 16), attn__qkv=(16, 48)),
    "a named head": kernels(Conv_0=(3, 3, 1, 8), Conv_1=(3, 3, 8, 16), head=(16, 10)),
}


@pytest.mark.parametrize("name", DENSE_HEAD)
def test_every_convolution_before_a_dense_head_is_placed(name):
    params = DENSE_HEAD[name]
    spec = fg.collection(params, preset="resnet")
    assert set(points(spec)) == {path for path in params if "onv" in path}
    assert "may give the output" not in str(spec)


BESIDE_DENSE_LAYERS = {  # which are no heads, or heads of something else
    "a U-Net with a time embedding": (
        kernels(down__conv=(3, 3, 3, 8), final_conv=(1, 1, 8, 3), time_mlp=(16, 32)),
        "final_conv/kernel",
        True,
    ),
    "a decoder": (
        kernels(enc__Conv_0=(3, 3, 3, 8), dec__fc=(4, 32), dec__Conv_0=(3, 3, 8, 8))
        | kernels(dec__conv_out=(3, 3, 8, 3)),
        "dec/conv_out/kernel",
        True,
    ),
    "a generator": (
        kernels(gen__fc=(16, 128), gen__Conv_0=(4, 4, 8, 8), gen__Conv_1=(4, 4, 8, 3)),
        "gen/Conv_1/kernel",
        False,
    ),
    "beside a named head": (
        kernels(Conv_0=(3, 3, 4, 8), depth_conv=(1, 1, 8, 3), mask_head=(8, 5)),
        "depth_conv/kernel",
        False,
    ),
}


@pytest.mark.parametrize("name", BESIDE_DENSE_LAYERS)
def test_the_output_of_a_network_with_dense_layers_is_found_by_its_name_or_named(name):
    params, path, found = BESIDE_DENSE_LAYERS[name]
    spec = fg.collection(params, preset="resnet")
    others = {other for other in params if "onv" in other} - {path}
    assert others <= set(points(spec))
    if found:
        assert "the last layer" in reason(spec, path)
    assert (f"'{path}' may give the output" in str(spec)) != found


DOUBTFUL = {  # as many classes as channels, and two heads of which numbers name one the last
    "channels": (of_linen(leaf(1, 1, 8, 8)), "Conv_7/kernel"),
    "a decoder": (
        kernels(enc__Conv_0=(3, 3, 3, 8), dec__Conv_0=(3, 3, 8, 8), dec__Conv_1=(3, 3, 8, 3)),
        "dec/Conv_1/kernel",
    ),
    "no numbers": (
        kernels(first_conv=(3, 3, 1, 8), conv=(3, 3, 8, 8), to_image_conv=(3, 3, 8, 1)),
        "to_image_conv/kernel",
    ),
    "an earlier head": (
        of_linen(leaf(1, 1, 8, 10)) | {"Conv_8/kernel": leaf(1, 1, 8, 4)},
        "Conv_7/kernel",
    ),
}


@pytest.mark.parametrize("channels", [1, 3, 32])
@pytest.mark.parametrize("name", ["conv", "Conv_", "convs__"])
def test_the_last_of_a_list_that_only_the_first_could_read_gives_the_image(name, channels):
    sizes = [(9, 9, channels, 64), (5, 5, 64, 48), (5, 5, 48, channels)]
    params = kernels(**{f"{name}{i}": its for i, its in enumerate(sizes)})
    spec = fg.collection(params, preset="resnet")
    first, second, last = params
    assert set(points(spec)) == {first, second}
    assert "the last layer" in reason(spec, last)
    assert "may give the output" not in str(spec)


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_convolution_that_may_be_the_last_is_named_below_the_table(name):
    params, path = DOUBTFUL[name]
    spec = fg.collection(params, preset="resnet")
    assert spec[path] is not None
    for shown in (str(spec), spec._repr_html_().replace("&#x27;", "'")):
        assert f"'{path}' may give the output of the network" in shown
        assert f"('{path}', None)" in shown
    settled = fg.collection(params, (path, None), preset="resnet")
    assert "may give the output" not in str(settled)


@pytest.mark.parametrize("shape", [(3, 3, 8, 8), (1, 1, 8, 12)])
def test_a_network_that_ends_in_a_normalization_has_no_convolution_as_its_head(shape):
    params = of_linen(leaf(*shape)) | norms("BatchNorm_7", size=shape[-1])
    spec = fg.collection(params, preset="resnet")
    assert spec["Conv_7/kernel"] is not None
    assert "may give the output" not in str(spec)


# --- queries, keys and values in one weight ------------------------------------------------------


FUSED = {  # the name, the shape, the layout, and the points
    "qkv": ((16, 48), None, (16, 16, 3)),
    "attn/qkv_proj": ((16, 48), None, (16, 16, 3)),
    "attn/to_qkv": ((16, 48), None, (16, 16, 3)),
    "attn/Wqkv": ((16, 48), None, (16, 16, 3)),
    "attn/QKVDense_0": ((16, 48), "HWIO", (16, 16, 3)),
    "h/0/attn/c_attn": ((16, 48), None, (16, 16, 3)),
    "self_attn/in_proj": ((48, 16), "OIHW", (16, 16, 3)),
    "attn/qkv": ((48, 16), "OIHW", (16, 16, 3)),
    "attn/kv": ((16, 32), None, (16, 16, 2)),
    "attn/kv_proj": ((16, 8), None, (16, 4, 2)),
    "attn/to_kv": ((64, 16), "OIHW", (16, 32, 2)),
    "attn/qkv_dense": ((16, 3, 16), None, (16, 16, 3)),
    "attn/qkv_general": ((16, 3, 2, 8), None, (16, 8, 3, 2)),
    "blocks/attn/qkv": ((5, 16, 48), "SIO", (16, 16, 5, 3)),
}


@pytest.mark.parametrize("name", FUSED)
def test_queries_keys_and_values_in_one_weight_are_matrices_of_their_own(name):
    shape, layout, expected = FUSED[name]
    spec = fg.collection({name: {"kernel": leaf(*shape)}}, preset="transformer", layout=layout)
    assert points(spec) == {f"{name}/kernel": expected}
    assert spec[f"{name}/kernel"].manifolds == (Stiefel(),)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["HWIO", "OIHW"])
def test_each_of_the_fused_matrices_is_orthonormal(layout):
    weight = np.random.default_rng(0).normal(size=(8, 24)).astype(np.float32)
    first = layout == "OIHW"
    params = {"attn/qkv/kernel": jnp.asarray(weight.T if first else weight)}
    spec = fg.collection(params, preset="transformer", layout=layout)
    projected = np.asarray(fg.project(params, spec)["attn/qkv/kernel"])
    for part in np.split(projected.T if first else projected, 3, axis=1):
        np.testing.assert_allclose(part.T @ part, np.eye(8), atol=5e-6)


def test_the_width_of_the_output_says_how_wide_each_of_three_matrices_is():
    params = kernels(attn__qkv=(16, 72), attn__out=(24, 16))
    assert points(fg.collection(params, preset="transformer"))["attn/qkv/kernel"] == (16, 24, 3)


def test_c_attn_beside_queries_holds_keys_and_values():
    params = kernels(crossattention__c_attn=(16, 32), crossattention__q_attn=(16, 16))
    found = points(fg.collection(params, preset="transformer"))
    assert found["crossattention/c_attn/kernel"] == (16, 16, 2)


UNEQUAL = {
    "attn/qkv_proj": (64, 96),  # of 4 heads and 2 for keys and values, each of size 12
    "attn/c_attn": (64, 80),
    "self_attn/in_proj": (64, 128),
    "attn/query_key_value": (64, 192),  # Bloom and GPT-NeoX: by heads
    "attn/kv_b_proj": (16, 64),
    "attn/qkv_dense": (64, 4, 48),
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_matrices_of_unknown_sizes_in_one_weight_stay_euclidean_and_say_what_to_write(name):
    params = {name: {"kernel": leaf(*UNEQUAL[name])}} | kernels(mlp__up=(64, 128))
    spec = fg.collection(params, preset="transformer")
    assert set(points(spec)) == {"mlp/up/kernel"}
    why = reason(spec, f"{name}/kernel")
    assert "rule" in why
    if len(UNEQUAL[name]) == 2:
        text = why.split("component='")[1].split("'")[0].replace("6", "4")
        rule = (f"{name}/*", fg.pom("layer", Stiefel(), component=text))
        spec = fg.collection(params, rule, preset="transformer")
        assert spec[f"{name}/kernel"].components == 4


@pytest.mark.parametrize("name", ["attn/qkv", "attn/c_attn", "attn/in_proj"])
@pytest.mark.parametrize("last", ["kernel", "weight"])
def test_a_fused_weight_whose_outputs_may_come_first_needs_a_layout(name, last):
    params = {f"{name}/{last}": leaf(48, 16)}
    params |= kernels(up=(32, 16), down=(16, 32), attn__out=(16, 16), emb__embedding=(99, 16))
    spec = fg.collection(params, preset="transformer")
    assert set(points(spec)) == {"attn/out/kernel"}  # the same either way
    for path in (f"{name}/{last}", "up/kernel", "down/kernel"):
        assert "layout='OIHW'" in reason(spec, path)
    spec = fg.collection(params, preset="transformer", layout="OIHW")
    assert points(spec)[f"{name}/{last}"] == (16, 16, 3)


def test_where_all_outputs_may_come_first_the_message_names_the_layout():
    params = kernels(attn__c_attn=(48, 16), mlp__up=(32, 16))
    with pytest.raises(ValueError, match=r"finds none .* give layout='OIHW'"):
        fg.collection(params, preset="transformer")


@pytest.mark.parametrize("name", ["mamba/in_proj", "attn/q_proj", "attn/in_proj", "attn/qk_out"])
def test_a_weight_that_is_one_matrix_is_not_cut(name):
    width = 48 if "mamba" in name else 16
    params = {f"{name}/kernel": leaf(16, width)}
    found = points(fg.collection(params, preset="transformer"))
    assert found == {f"{name}/kernel": (16, width)}


# --- the output of attention ---------------------------------------------------------------------


OUTPUTS = ["o_proj", "out_proj", "o", "wo", "out", "to_out", "output_dense"]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("module", ["layers", "h", "blocks_0"])
def test_an_output_beside_queries_keys_and_values_is_of_attention(module, output):
    queries = {f"{module}/{name}_proj/kernel": leaf(16, 16) for name in "qkv"}
    dense = {f"{module}/{name}/kernel": leaf(16, 16) for name in ("up_proj", "out_mlp_proj")}
    params = queries | dense | {f"{module}/{output}/kernel": leaf(16, 16)}
    spec = fg.collection(params, preset="transformer")
    placed = {path: str(leaf_spec.manifolds[0]) for path, leaf_spec in spec.on_manifolds()}
    on_stiefel = {path for path, manifold in placed.items() if manifold == "Stiefel()"}
    assert on_stiefel == set(params) - set(dense)


BESIDE = {
    "without kernels": {f"h/{name}_proj": leaf(16, 16) for name in "qkvo"},
    "fused": kernels(block__qkv=(16, 48), block__proj=(16, 16)),
    "in lists": kernels(block__to_qkv=(16, 48), block__to_out__0=(16, 16)),
    "Llama": {f"layers/0/w{name}": leaf(16, 16) for name in "qkvo"},
    "of two modules": kernels(attention__self__query=(16, 16), attention__output__dense=(16, 16)),
}


@pytest.mark.parametrize("name", BESIDE)
def test_the_output_of_attention_is_found_in_every_spelling(name):
    spec = fg.collection(BESIDE[name], preset="transformer")
    assert {str(leaf_spec.manifolds[0]) for _, leaf_spec in spec.on_manifolds()} == {"Stiefel()"}
    assert len(points(spec)) == len(BESIDE[name])


@pytest.mark.parametrize("name", ["layers/out_proj", "mamba/out_proj", "other/o_proj"])
def test_an_output_without_queries_beside_it_is_a_dense_layer(name):
    params = {f"{name}/kernel": leaf(16, 16)} | kernels(h__q_proj=(16, 16), head=(16, 5))
    spec = fg.collection(params, preset="transformer")
    assert str(spec[f"{name}/kernel"].manifolds[0]) == "Oblique()"


# --- transposed convolutions, whose layout and strides no shape shows -----------------------------


@pytest.mark.parametrize("name", ["conv2_d_transpose", "conv1_d_transpose", "decoder/~/deconv_1"])
@pytest.mark.parametrize("request_", ["preset", "by shape", "rule"])
def test_transposed_convolutions_of_haiku_need_a_layout(name, request_):
    params = {
        "conv2_d/w": leaf(3, 3, 4, 16),
        f"{name}/w": leaf(*(3, 3)[: 2 - ("1" in name)], 8, 16),
    }
    rule = ("*transpose*", "*deconv*")["deconv" in name]
    if request_ == "rule":
        with pytest.raises(ValueError, match="outputs come before inputs; write layout='HWOI'"):
            fg.collection(params, (rule, fg.pom("PO", fg.Sphere(), component="filter")))
    elif request_ == "preset":
        spec = fg.collection(params, preset="resnet")
        assert "HWOI" in reason(spec, f"{name}/w")
        assert spec["conv2_d/w"] is not None
    else:
        assert "HWOI" in reason(fg.collection(params), f"{name}/w")
    given = fg.pom("PO", fg.Sphere(), component="filter", layout="HWOI")
    rows, _, outputs = fg.collection(params, (rule, given))[f"{name}/w"].points_shape
    assert (rows, outputs) == (np.prod(params[f"{name}/w"].shape) // 8, 8)


@pytest.mark.parametrize("name", ["ConvTranspose_0/kernel", "up/conv_transpose/kernel"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 4)])
def test_a_spec_says_how_strides_enter_the_variance_scale(name, strides):
    params = {name: jnp.zeros((4, 4, 16, 32))}
    gain = (2 * np.prod(strides)) ** 0.5  # as the sentence says, which has the example of 2×2
    rule = (name, fg.pom("PO", fg.Sphere(), component="filter", scale=("variance", gain)))
    spec = fg.collection(params, rule)
    w = fg.initialize(K, params, spec)[name]
    x = jax.random.normal(jax.random.key(1), (64, 8, 8, 16))
    y = jax.lax.conv_transpose(x, w, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert float(jnp.mean(y[:, 3:-3, 3:-3] ** 2)) == pytest.approx(2, rel=0.1)
    plain = fg.collection(params, (name, fg.pom("PO", fg.Sphere(), scale="variance")))
    assert f"The size of features is kept through {name!r} for strides of 1" in str(plain)
    assert "strides" not in str(fg.collection(params, (name, fg.pom("PO", fg.Sphere()))))


# --- heads in the output of an attention layer ----------------------------------------------------

HEADS = fg.pom("layer", Stiefel(), component="in:rows heads out:columns")


@pytest.mark.parametrize(
    ("query", "output", "rule"),
    [
        ((32, 4, 8), (4, 8, 32), HEADS),
        ((16, 4, 4), (4, 4, 16), HEADS),
        ((3, 32, 4, 8), (3, 4, 8, 32), "layers in:rows heads:stack out:columns"),
        ((32, 4, 8), (4, 8, 32), "in:rows heads:columns out:inputs"),
    ],
)
def test_one_rule_for_queries_and_outputs_does_not_mix_up_their_heads(query, output, rule):
    rule = fg.pom("kernel", fg.Sphere(), component=rule) if isinstance(rule, str) else rule
    params = {"attn/query/kernel": leaf(*query), "attn/out/kernel": leaf(*output)}
    axis = len(output) - 3
    with pytest.raises(
        ValueError, match=rf"'attn/out/kernel' .* {output[axis]} heads on axis {axis}"
    ):
        fg.collection(params, ("attn/*", rule))
    own = fg.pom(
        "layer", Stiefel(), component="layers " * axis + "heads:rows size:rows out:columns"
    )
    spec = fg.collection(params, ("attn/out/*", own), ("attn/query/*", rule))
    assert spec["attn/out/kernel"].points_shape[:2] == (output[-3] * output[-2], output[-1])


@pytest.mark.parametrize("layers", [3, 4])
def test_as_many_layers_as_heads_are_no_contradiction(layers):
    query, output = leaf(32, layers, 4, 8), leaf(4, layers, 8, 32)
    params = {"attn/query/kernel": query, "attn/out/kernel": output}
    rules = [
        ("attn/query/*", "in:rows layers heads:stack out:columns", (32, 8, layers, 4)),
        ("attn/out/*", "heads:rows layers size:rows out:columns", (32, 32, layers)),
    ]
    poms = [(glob, fg.pom("layer", Stiefel(), component=cut)) for glob, cut, _ in rules]
    spec = fg.collection(params, *poms)
    assert list(points(spec).values()) == [shape for *_, shape in rules[::-1]]


def test_heads_first_in_queries_and_outputs_are_one_rule():
    params = {"attn/q_einsum/w": leaf(4, 32, 8), "attn/attn_vec_einsum/w": leaf(4, 8, 32)}
    rule = fg.pom("layer", Stiefel(), component="heads in:rows out:columns")
    spec = fg.collection(params, ("attn/*", rule))
    assert points(spec) == {
        "attn/q_einsum/w": (32, 8, 4),
        "attn/attn_vec_einsum/w": (8, 32, 4),
    }


@pytest.mark.parametrize("cut", ["heads in:rows out:columns", "heads:stack size:rows out:columns"])
@pytest.mark.parametrize("manifold", [Stiefel(), fg.Oblique()])
def test_heads_of_an_output_keep_the_variance_as_inputs_only(cut, manifold):
    params = {"attn/query/kernel": leaf(32, 4, 8), "attn/out/kernel": jnp.zeros((4, 8, 32))}

    def spec_of(cut):
        rule = fg.pom("layer", manifold, component=cut, scale=("variance", 1.0))
        return fg.collection(params, ("attn/out/kernel", rule), default=None)

    right = cut.replace(":stack", "").replace("heads", "heads:inputs")
    with pytest.raises(ValueError, match=f"adds up what its heads give.* component='{right}'"):
        spec_of(cut)
    spec = spec_of(right)
    w = fg.initialize(K, {"attn/out/kernel": params["attn/out/kernel"]}, spec)["attn/out/kernel"]
    z = jax.random.normal(jax.random.key(1), (4096, 4, 8))
    assert float(jnp.mean(jnp.einsum("bhi,hio->bo", z, w) ** 2)) == pytest.approx(1, rel=0.1)


def test_an_axis_has_a_name_of_its_own():
    for cut in (
        "in:rows in:rows out:columns",
        "heads in:rows heads:stack",
        "a:rows (b:stack a=2:columns)",
    ):
        with pytest.raises(ValueError, match=r"names two axes '(in|heads|a)'; give every axis"):
            fg.pom("layer", Stiefel(), component=cut)
    fg.pom("PO", fg.Sphere(), component="rows rows inputs outputs")


def test_heads_that_share_an_axis_are_told_apart_as_inputs():
    params = {"attn/out/kernel": leaf(32, 64), "attn/query/kernel": leaf(64, 32)}
    cut = "(heads=4:stack size:rows) out:columns"
    rule = ("attn/out/*", fg.pom("layer", Stiefel(), component=cut, scale="variance"))
    with pytest.raises(ValueError, match=r"component='\(heads=4:inputs size:rows\) out:columns'"):
        fg.collection(params, rule)
    assert fg.collection(params, ("attn/out/*", fg.pom("layer", Stiefel(), component=cut)))


@pytest.mark.parametrize("preset", ["transformer", "mlp"])
@pytest.mark.parametrize("name", ["q_proj/lora_a", "q_proj/lora/lora_b", "dense/LoRA_0/kernel"])
def test_factors_of_low_rank_updates_need_a_rule(preset, name):
    params = {"dense/kernel": leaf(16, 16), "up/kernel": leaf(16, 32), name: leaf(16, 4)}
    spec = fg.collection(params, preset=preset)
    assert "low-rank" in reason(spec, name)
    assert spec["dense/kernel"] is not None
    ruled = fg.collection(params, (name, fg.pom("layer", Stiefel())), preset=preset)
    assert ruled[name] is not None


# --- heads of dense networks ----------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [(4, 2), (6, 3)])
@pytest.mark.parametrize("names", [("pi", "q"), ("actor", "critic")])
def test_all_outputs_that_nothing_reads_stay_euclidean(names, outputs):
    params = {}
    for name, size in zip(names, outputs, strict=True):
        params |= kernels(**{f"{name}__Dense_0": (8, 64), f"{name}__Dense_1": (64, size)})
    spec = fg.collection(params, preset="mlp")
    assert set(points(spec)) == {f"{name}/Dense_0/kernel" for name in names}
    assert "taken for the last layer" not in str(spec)


def test_a_head_by_its_path_alone_is_named_where_there_are_several_modules():
    several = kernels(a__Dense_0=(8, 8), a__Dense_1=(8, 8), b__Dense_0=(8, 8))
    assert "'b/Dense_0/kernel' is taken for the last layer" in str(
        fg.collection(several, preset="mlp")
    )
    one = kernels(Dense_0=(8, 8), Dense_1=(8, 8))
    assert "taken for the last layer" not in str(fg.collection(one, preset="mlp"))


@pytest.mark.parametrize("sizes", [(8, 16, 3), (5, 7, 4)])
def test_the_last_of_stacked_networks_is_a_head(sizes):
    inputs, width, outputs = sizes
    params = kernels(ens__Dense_0=(5, inputs, width), ens__Dense_1=(5, width, outputs))
    spec = fg.collection(params, preset="mlp", layout="SIO")
    assert points(spec) == {"ens/Dense_0/kernel": (inputs, width, 5)}
    with pytest.raises(
        ValueError, match=r"three axes, such as 'ens/Dense_0/kernel', need layout='SIO'"
    ):
        fg.collection(params, preset="mlp")


def test_an_output_of_a_transformer_that_is_not_the_last_is_named():
    params = kernels(x_input__proj=(16, 64), blk__attn__qkv=(64, 192), blk__mlp__fc1=(64, 256))
    params |= kernels(blk__mlp__fc2=(256, 64), finish__linear=(64, 10))
    spec = fg.collection(params, preset="transformer")
    assert "'finish/linear/kernel' may give the output" in str(spec)
    gated = kernels(mlp__wi=(64, 512), mlp__wo=(256, 64), attn__qkv=(64, 192))
    assert "may give the output" not in str(fg.collection(gated, preset="transformer"))


# --- weights that are none of a preset ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [("wi", (16, 2, 64)), ("DenseGeneral_0", (16, 4, 16)), ("DenseGeneral_1", (4, 16, 16))],
)
def test_a_dense_weight_of_three_axes_is_cut_only_if_its_first_counts_gates(name, shape):
    params = kernels(**{f"mlp__{name}": shape, "mlp__wo": (64, 16)})
    spec = fg.collection(params, preset="transformer")
    assert "gates or heads" in reason(spec, f"mlp/{name}/kernel")
    gates_first = {"mlp/gating_einsum": leaf(3, 16, 64), "mlp/up/kernel": leaf(2, 16, 64)}
    assert points(fg.collection(gates_first, preset="transformer")) == {
        "mlp/gating_einsum": (16, 64, 3),
        "mlp/up/kernel": (16, 64, 2),
    }


@pytest.mark.parametrize("preset", ["transformer", "resnet"])
@pytest.mark.parametrize(
    ("path", "shape", "why"),
    [
        ("attn/relative_position_bias_table", (169, 4), "bias by its path"),
        ("attn/rel_pos_bias", (7, 7, 4, 4), "bias by its path"),
        ("block/layer_scale", (1, 1, 1, 8), "a vector by its shape"),
        ("conv/weight_g", (8, 1, 1, 1), ""),
        ("patch_embed/proj/kernel", (4, 4, 3, 8), "embedding by its path"),
    ],
)
def test_tables_of_biases_gains_and_patch_embeddings_stay_euclidean(preset, path, shape, why):
    params = kernels(conv_0=(3, 3, 3, 8), mlp__up=(8, 32)) | {path: leaf(*shape)}
    if preset == "resnet" and "patch" in path:
        return  # a convolution
    spec = fg.collection(params, preset=preset)
    assert spec[path] is None
    assert why in reason(spec, path)


def test_v_of_weight_normalization_is_a_convolution():
    params = {f"conv{i}/weight_v": leaf(8, 8, 3, 3) for i in range(3)}
    params |= {f"conv{i}/weight_g": leaf(8, 1, 1, 1) for i in range(3)}
    spec = fg.collection(params, preset="resnet", layout="OIHW")
    assert set(points(spec)) == {f"conv{i}/weight_v" for i in range(3)}


@pytest.mark.parametrize("scale", [3.0, "geometric", ("variance", 5 / 3)])
@pytest.mark.parametrize("preset", ["resnet", "mlp", "transformer"])
def test_a_scale_beside_a_preset_replaces_those_of_the_preset(preset, scale):
    name, shape = ("conv0", (3, 3, 8, 8)) if preset == "resnet" else ("mlp__up", (8, 8))
    params = kernels(**{name: shape, "mlp__up2": (8, 8)}) | kernels(**{"head": (8, 3)})
    path = name.replace("__", "/") + "/kernel"
    spec = fg.collection(params, preset=preset, scale=scale)
    own = fg.collection(params, preset=preset)[path]
    rule = fg.pom(own.scheme, own.manifolds, component=own.component, scale=scale)
    assert spec[path] == fg.collection(params, (path, rule), default=None)[path] != own
    ruled = fg.collection(
        params,
        (path, fg.pom("layer", fg.Sphere(), component="matrix", scale=2.0)),
        preset=preset,
        scale=scale,
    )
    assert ruled[path].gamma == 2.0


# --- what a name or a shape may not be taken for --------------------------------------------------


@pytest.mark.parametrize(
    ("fused", "shape", "output", "width"),
    [
        ("qkv", (64, 192), "o_proj", 128),
        ("c_attn", (64, 192), "c_proj", 128),
        ("in_proj", (64, 192), "out_proj", 96),
        ("qkv", (32, 96), "proj", 64),
    ],
)
def test_the_output_of_attention_says_that_three_matrices_are_not_of_one_size(
    fused, shape, output, width
):
    attention = {f"attn__{fused}": shape, f"attn__{output}": (width, shape[0])}
    spec = fg.collection(kernels(**attention, mlp__up=(64, 256)), preset="transformer")
    assert "their sizes unknown" in reason(spec, f"attn/{fused}/kernel")
    attention[f"attn__{output}"] = (shape[0], shape[0])
    equal = fg.collection(kernels(**attention), preset="transformer")
    assert points(equal)[f"attn/{fused}/kernel"] == (shape[0], shape[0], 3)


@pytest.mark.parametrize(
    "path",
    [
        "router/Dense_0",
        "moe/router/linear",
        "experts/up",
        "moe/experts/0/up_proj",
        "expert_1/mlp/up",
        "embed/proj",
        "embed/Dense_0",
        "patch_embedding/linear",
    ],
)
@pytest.mark.parametrize("request_", ["preset", "default"])
def test_layers_inside_of_routers_experts_and_embeddings_stay_euclidean(path, request_):
    params = kernels(mlp__up=(16, 64), mlp__down=(64, 16)) | {f"{path}/kernel": leaf(64, 8)}
    if request_ == "preset":
        spec = fg.collection(params, preset="transformer")
        assert spec[f"{path}/kernel"] is None
    elif "expert" not in path:
        spec = fg.collection(params, default=fg.pom("layer", Stiefel()))
        assert spec[f"{path}/kernel"] is None
    assert fg.collection(params, (f"{path}/*", fg.pom("layer", Stiefel())))[f"{path}/kernel"]


GAINS = {
    "numbers": lambda i: {f"Scale_{i}/scale": leaf()},
    "of a block": lambda i: {f"Block_{i}/gamma": leaf(64)},
    "of a layer": lambda i: {f"layer_scale_{i}/gamma": leaf(64)},
    "of a weight": lambda i: {f"Block_{i}/Dense_0/scale": leaf(64)},
}


@pytest.mark.parametrize("name", GAINS)
def test_what_is_no_normalization_does_not_set_the_scale_to_one(name):
    params = {}
    for i in range(4):
        block = f"Block_{i}/Dense_0" if name != "numbers" else f"Dense_{i}"
        params |= {f"{block}/kernel": leaf(64, 64)} | GAINS[name](i)
    spec = fg.collection(params | {"head/kernel": leaf(64, 3)}, preset="mlp")
    assert all(leaf_spec.gamma == pytest.approx(2**0.5) for _, leaf_spec in spec.on_manifolds())
    norms_beside = {f"Dense_{i}/kernel": leaf(64, 64) for i in range(4)}
    norms_beside |= {f"Scale_{i}/scale": leaf(64) for i in range(4)}
    normed = fg.collection(norms_beside | {"head/kernel": leaf(64, 3)}, preset="mlp")
    assert all(leaf_spec.gamma is None for _, leaf_spec in normed.on_manifolds())


@pytest.mark.parametrize("last", ["dec__Conv_1", "dec__ConvTranspose_1"])
def test_an_image_out_of_a_variational_autoencoder_is_named(last):
    first = last.replace("_1", "_0")
    coder = kernels(enc__Conv_0=(3, 3, 3, 8), enc__Dense_0=(512, 20), dec__Dense_0=(10, 512))
    coder |= kernels(**{first: (3, 3, 8, 8), last: (3, 3, 8, 3)})
    path = f"{last.replace('__', '/')}/kernel"
    assert f"'{path}' may give the output" in str(fg.collection(coder, preset="resnet"))


@pytest.mark.parametrize("prefix", ["", "mlp/"])
def test_weights_of_a_flat_dictionary_are_layers_each(prefix):
    sizes = [10, 64, 48, 32, 5]
    params = {f"{prefix}W{i}": leaf(*sizes[i - 1 : i + 1]) for i in range(1, 5)}
    spec = fg.collection(params, preset="mlp")
    assert set(points(spec)) == {f"{prefix}W{i}" for i in (1, 2, 3)}
    biases = {f"{prefix}b{i}": leaf(sizes[i]) for i in range(1, 5)}
    assert points(fg.collection(params | biases, preset="mlp")) == points(spec)


@pytest.mark.parametrize("preset", ["mlp", "transformer"])
def test_an_output_beside_a_named_head_is_named(preset):
    params = kernels(mlp__l0=(8, 64), mlp__l1=(64, 32), head=(32, 6), critic__Dense_0=(32, 12))
    assert "'critic/Dense_0/kernel' may give the output" in str(
        fg.collection(params, preset=preset)
    )
