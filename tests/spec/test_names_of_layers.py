"""Names by hand and of reinforcement learning: weights, critics, recurrent matrices, fused ones."""

import re

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def kernels(**shapes):
    """Flat paths to kernels, with two underscores for each slash."""
    return {f"{name.replace('__', '/')}/kernel": leaf(*shape) for name, shape in shapes.items()}


def placed(params, preset="mlp", **options):
    return {path for path, _ in fg.collection(params, preset=preset, **options).on_manifolds()}


# --- dense networks ------------------------------------------------------------------------------

SIZES = [(784, 300), (300, 100), (100, 10)]


@pytest.mark.parametrize("name", ["W", "w", "weights", "kernels", "kernel"])
@pytest.mark.parametrize("module", ["", "l"])
def test_a_list_of_layers_is_placed_whatever_their_weights_are_called(name, module):
    params = {f"{module}{i}/{name}": leaf(*its) for i, its in enumerate(SIZES)}
    assert placed(params) == {f"{module}0/{name}", f"{module}1/{name}"}
    if not module:
        assert placed([{name: leaf(*its)} for its in SIZES]) == {f"0/{name}", f"1/{name}"}


CRITICS = {  # the weights, and those that give no output
    "q_network": (
        kernels(q_network__l1=(8, 64), q_network__l2=(64, 64), q_network__l3=(64, 4)),
        {"q_network/l1", "q_network/l2"},
    ),
    "twins": (
        kernels(q1_0=(8, 64), q1_1=(64, 64), q1_2=(64, 4), q2_0=(8, 64), q2_1=(64, 64))
        | kernels(q2_2=(64, 4)),
        {"q1_0", "q1_1", "q2_0", "q2_1"},
    ),
    "actor and critic": (
        kernels(shared=(8, 64), value_fc1=(64, 64), value_fc2=(64, 5))
        | kernels(policy_fc1=(64, 64), policy_fc2=(64, 4)),
        {"shared", "value_fc1", "policy_fc1"},
    ),
}


@pytest.mark.parametrize("name", CRITICS)
def test_critics_are_dense_layers_and_no_attention(name):
    params, hidden = CRITICS[name]
    assert placed(params) == {f"{path}/kernel" for path in hidden}
    assert "may give the output" not in str(fg.collection(params, preset="mlp"))


def test_queries_and_values_beside_keys_are_of_attention_in_every_preset():
    params = kernels(Dense_0=(8, 64), Dense_1=(64, 4), h__q=(64, 64), h__k=(64, 64), h__v=(64, 64))
    assert placed(params) == {"Dense_0/kernel"}
    assert "may give" not in str(fg.collection(params, preset="mlp"))


def test_a_critic_behind_convolutions_is_a_dense_head():
    params = kernels(Conv_0=(3, 3, 1, 8), Conv_1=(3, 3, 8, 16), q_0=(16, 6))
    assert placed(params, "resnet") == {"Conv_0/kernel", "Conv_1/kernel"}


@pytest.mark.parametrize("layout", [None, "HWIO"])
@pytest.mark.parametrize("name", ["weight", "kernel"])
def test_where_no_layer_reads_another_the_message_has_the_other_layout(layout, name):
    params = {f"l{i}/{name}": leaf(*its[::-1]) for i, its in enumerate(SIZES)}
    with pytest.raises(ValueError, match=r"outputs come first.* give layout='OIHW'") as raised:
        fg.collection(params, preset="mlp", layout=layout)
    assert ("layout='HWIO'" in str(raised.value)) == (layout is not None)
    assert placed(params, layout="OIHW") == {f"l0/{name}", f"l1/{name}"}


# --- recurrent networks --------------------------------------------------------------------------

RECURRENT = {
    "by hand": ({"Wxh": leaf(8, 16), "Whh": leaf(16, 16), "Why": leaf(16, 4)}, "Whh", (16, 16)),
    "two letters": ({"Wx": leaf(8, 16), "Wh": leaf(16, 16)}, "Wh", (16, 16)),
    "LSTM": (kernels(lstm__hh=(16, 64), lstm__ih=(8, 64)), "lstm/hh/kernel", (16, 16, 4)),
    "words": (
        kernels(cell__recurrent=(16, 16), cell__input=(8, 16)),
        "cell/recurrent/kernel",
        (16, 16),
    ),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_matrices_are_found_beside_those_of_inputs(name):
    params, path, points = RECURRENT[name]
    spec = fg.collection(params, preset="rnn")
    assert {found: its.points_shape for found, its in spec.on_manifolds()} == {path: points}


def test_a_module_called_recurrent_proves_nothing_alone():
    params = kernels(recurrent=(16, 16)) | {"gru/weight_hh": leaf(48, 16)}
    assert placed(params, "rnn") == {"gru/weight_hh"}


# --- several matrices in one weight --------------------------------------------------------------


@pytest.mark.parametrize("outputs", [128, 24, 48, 70, 96])
@pytest.mark.parametrize("layout", [None, "OIHW", "SIO"])
@pytest.mark.parametrize("name", ["kv_b_proj", "k_v"])
def test_a_printed_number_of_heads_divides_the_outputs(outputs, layout, name):
    shape = {"OIHW": (outputs, 16), "SIO": (3, 16, outputs)}.get(layout or "", (16, outputs))
    params = {f"attn/{name}/kernel": leaf(*shape)}
    params |= {"mlp/up/kernel": leaf(*(3,) * (layout == "SIO"), 16, 16)}
    spec = fg.collection(params, preset="transformer", layout=layout)
    why = dict(zip(spec, spec.reasons, strict=True))[f"attn/{name}/kernel"]
    ((cut, heads),) = re.findall(r"component='([^']*)' if it has (\d) heads, of", why)
    rule = (f"attn/{name}/kernel", fg.pom("layer", fg.Stiefel(), component=cut))
    found = fg.collection(params, rule, preset="transformer", layout=layout)
    assert found[f"attn/{name}/kernel"].points_shape[:2] == (16, outputs // int(heads))


def test_outputs_that_no_usual_number_divides_have_words():
    params = kernels(attn__k_v=(16, 121), attn__q=(16, 16))
    spec = fg.collection(params, preset="transformer")
    why = dict(zip(spec, spec.reasons, strict=True))["attn/k_v/kernel"]
    assert why.endswith("give a rule that cuts it into its matrices")


# --- normalizations and outputs ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ffn_norm", "mlp_layernorm", "attention_norm"])
@pytest.mark.parametrize(("stack", "layout"), [((6,), "SIO"), ((), None)])
def test_scales_called_kernel_are_those_of_a_normalization(name, stack, layout):
    shapes = {"mlp__fc1": (*stack, 32, 128), "mlp__fc2": (*stack, 128, 32), name: (*stack, 32)}
    assert placed(kernels(**shapes), "transformer", layout=layout) == {
        "mlp/fc1/kernel",
        "mlp/fc2/kernel",
    }


def test_logits_of_a_categorical_variable_are_an_output():
    params = kernels(dynin1=(256, 64), obs0=(320, 64), obslogit=(64, 256))
    assert placed(params) == {"dynin1/kernel", "obs0/kernel"}


BLOCK = {"Block_0__Dense_0": (64, 256), "Block_0__Dense_1": (256, 64)}
IN_BLOCK = {"Block_0/Dense_0/kernel", "Block_0/Dense_1/kernel"}


@pytest.mark.parametrize(
    "outputs",
    [
        {"Dense_0": (64, 256)},  # as many entries of the embedding as hidden features
        {"action_in_proj": (8, 64), "action_out_proj": (64, 8)},
        {"FinalLayer_0__Dense_0": (64, 128), "FinalLayer_0__Dense_1": (64, 64)},
    ],
)
def test_outputs_of_transformers_that_are_as_long_as_something_else(outputs):
    params = kernels(**BLOCK, **outputs) | {"Embed_0/embedding": leaf(256, 64)}
    found = placed(params, "transformer")
    assert found - {"action_in_proj/kernel"} == IN_BLOCK


def test_a_first_layer_of_the_width_of_an_embedding_is_no_output():
    params = kernels(**BLOCK, Dense_0=(256, 64)) | {"Embed_0/embedding": leaf(256, 64)}
    assert "Dense_0/kernel" in placed(params, "transformer")


def test_biases_of_gates_are_biases_with_axes_of_size_one():
    params = kernels(ffw_down=(96, 32)) | {
        "ffw_up/w": leaf(2, 32, 96),
        "ffw_up/b": leaf(2, 1, 1, 96),
        "norm/scale": leaf(32),
    }
    assert placed(params, "transformer") == {"ffw_up/w", "ffw_down/kernel"}


@pytest.mark.parametrize("name", ["weight_proj", "project_out", "codebook", "proj"])
@pytest.mark.parametrize("preset", ["mlp", "transformer"])
def test_layers_of_a_quantizer_stay_euclidean(name, preset):
    params = kernels(mlp__fc1=(16, 32), mlp__fc2=(32, 16), head=(16, 9))
    spec = fg.collection(params | {f"quantizer/{name}/kernel": leaf(16, 24)}, preset=preset)
    assert {path for path, _ in spec.on_manifolds()} == {"mlp/fc1/kernel", "mlp/fc2/kernel"}
    quantized = fg.collection(params | kernels(quantized_dense=(32, 32)), preset="mlp")
    assert quantized["quantized_dense/kernel"] is not None


@pytest.mark.parametrize("name", ["transition1", "transition_1"])
def test_transitions_are_feed_forward_layers_if_they_lead_back(name):
    back = name.replace("1", "2")
    params = {f"evo/{name}/weights": leaf(16, 64), f"evo/{back}/weights": leaf(64, 16)}
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == set(params)
    alone = {f"evo/{name}/weights": leaf(16, 64), "evo/mlp/fc/weights": leaf(16, 16)}
    assert fg.collection(alone, preset="transformer")[f"evo/{name}/weights"] is None


def test_the_receptance_of_attention_is_a_query():
    names = ("receptance", "key", "value", "output")
    params = kernels(**{f"att__{name}": (16, 16) for name in names})
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == set(params)


@pytest.mark.parametrize("name", ["wkv_a", "kv_a_proj_with_mqa", "kv_down_proj"])
def test_compressed_keys_and_values_stay_euclidean_and_what_they_become_is_read(name):
    params = kernels(attn__wq_b=(48, 4, 24), attn__out=(4, 16, 64), **{f"attn__{name}": (64, 40)})
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == {"attn/wq_b/kernel", "attn/out/kernel"}
    assert spec["attn/out/kernel"].points_shape == (4 * 16, 64)
    reason = dict(zip(spec, spec.reasons, strict=True))[f"attn/{name}/kernel"]
    assert reason == "compressed keys and values, perhaps beside others that are not: give a rule"


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((1, 1, 8, 16), None), ((1, 1, 1, 8, 16), "DHWIO"), ((16, 8, 1, 1), "OIHW")],
)
@pytest.mark.parametrize("name", ["input_proj", "attentions_0/proj_out", "attn/proj"])
def test_convolutions_of_single_pixels_stay_euclidean_in_a_transformer(shape, layout, name):
    params = kernels(attn__to_q=(16, 16), attn__to_k=(16, 16)) | {f"{name}/kernel": leaf(*shape)}
    spec = fg.collection(params, preset="transformer", layout=layout)
    assert spec[f"{name}/kernel"] is None
    assert len(dict(spec.on_manifolds())) == 2


def test_the_tilde_of_haiku_is_no_module():
    params = {"embedding_shard/~/linear/w": leaf(100, 16), "mlp/~/linear_0/w": leaf(16, 32)}
    params |= {"mlp/~/linear_1/w": leaf(32, 16), "projection/~/linear/w": leaf(16, 100)}
    for preset in ("mlp", "transformer"):
        spec = fg.collection(params, preset=preset)
        without = {path.replace("/~", ""): its for path, its in params.items()}
        alike = fg.collection(without, preset=preset)
        assert spec.reasons == alike.reasons
        assert {path for path, _ in spec.on_manifolds()} == {"mlp/~/linear_0/w", "mlp/~/linear_1/w"}


FOURIER = {
    "fno/0/spectral_conv/real_weights": ((16, 16, 8), "OIHW"),
    "blocks/0/spectral/weights_imag": ((16, 16, 6, 6), "OIHW"),
    "SpectralConv2d_0/kernel_1_r": ((6, 6, 16, 16), None),
    "fourier/weight_real": ((6, 6, 16, 16), None),
}


@pytest.mark.parametrize("path", FOURIER)
def test_weights_of_fourier_modes_are_no_convolutions(path):
    shape, layout = FOURIER[path]
    sizes = [(3, 3, 4, 16), (3, 3, 16, 16), (3, 3, 16, 7)]
    own = [its if layout is None else (its[3], its[2], 3, 3) for its in sizes]
    params = kernels(**{f"Conv_{i}": its for i, its in enumerate(own)})
    spec = fg.collection(params | {path: leaf(*shape)}, preset="resnet", layout=layout)
    assert {its for its, _ in spec.on_manifolds()} == {"Conv_0/kernel", "Conv_1/kernel"}
    reason = dict(zip(spec, spec.reasons, strict=True))[path]
    assert reason == "weights of Fourier modes by its path"
    normalized = fg.collection(
        params | kernels(SpectralNormConv_0=own[1]), preset="resnet", layout=layout
    )
    assert normalized["SpectralNormConv_0/kernel"] is not None


def test_layers_of_a_mixture_of_experts_are_experts_and_its_attention_is_none():
    params = kernels(
        block__MoE__Mlp__Dense_0=(4, 16, 32), block__sparse_moe__Mlp__Dense_1=(4, 32, 16)
    )
    attention = kernels(MoEBlock_0__attn__q=(16, 16), MoEBlock_0__attn__k=(16, 16))
    spec = fg.collection(params | attention, preset="transformer", layout="SIO")
    assert {path for path, _ in spec.on_manifolds()} == set(attention)
    for path in params:
        assert dict(zip(spec, spec.reasons, strict=True))[path] == "expert by its path"


def test_a_convolution_in_an_embedder_is_a_stem():
    params = kernels(embedder__embedder__convolution=(7, 7, 3, 16), block__conv=(3, 3, 16, 16))
    assert placed(params | kernels(classifier=(16, 4)), "resnet") == set(params)


@pytest.mark.parametrize("name", ["att_proj", "attn_proj"])
def test_a_projection_of_attention_three_times_as_wide_holds_three_matrices(name):
    params = kernels(**{f"blocks__0__{name}": (16, 48), "blocks__0__attn_out": (16, 16)})
    spec = fg.collection(params, preset="transformer")
    assert spec[f"blocks/0/{name}/kernel"].points_shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["B_re", "B_im", "C_b2"])
def test_a_capital_b_is_no_bias(name):
    params = kernels(mixer__up=(8, 16), mixer__down=(16, 8), head=(8, 3)) | {
        f"ssm/{name}": leaf(8, 4)
    }
    spec = fg.collection(params, preset="mlp")
    reason = dict(zip(spec, spec.reasons, strict=True))[f"ssm/{name}"]
    assert ("bias" in reason) == (name == "C_b2")
