"""Networks as people write them: names in their own style, and sizes that agree by chance."""

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


def placed(params, preset, **options):
    spec = fg.collection(params, preset=preset, **options)
    return {path.removesuffix("/kernel") for path, _ in spec.on_manifolds()}


def reason(spec, path):
    return dict(zip(spec, spec.reasons, strict=True))[path]


# --- transformers --------------------------------------------------------------------------------

ATTENTION = kernels(**{f"attn__{name}": (64, 64) for name in "qkvo"})
OF_ATTENTION = {f"attn/{name}" for name in "qkvo"}
ENDS = [("proj_in", "proj_out"), ("input_proj", "output_proj"), ("fc_in", "fc_out"),
        ("linear_in", "linear_out"), ("Dense_0", "Dense_3")]  # fmt: skip


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("width", [4, 7, 10])
def test_an_output_as_wide_as_the_input_is_one(ends, width):
    first, last = ends
    params = ATTENTION | kernels(**{first: (width, 64), last: (64, width)})
    assert placed(params, "transformer") == {*OF_ATTENTION, first}
    wide = ATTENTION | kernels(**{first: (64, 128), last: (128, 64)})
    assert placed(wide, "transformer") == {*OF_ATTENTION, first, last}  # a feed-forward layer


@pytest.mark.parametrize("classes", [2, 4, 10, 16])
@pytest.mark.parametrize("biases", [False, True])
def test_as_many_classes_as_heads_or_as_a_head_is_large_are_an_output(classes, biases):
    queries = {f"attn__{name}": (64, 4, 16) for name in ("query", "key", "value")}
    params = kernels(**queries, attn__out=(4, 16, 64), fc1=(64, 128), fc2=(128, 64))
    params |= kernels(fc3=(64, classes))
    params |= {"attn/query/bias": leaf(4, 16)} if biases else {}
    names = {path.removesuffix("/kernel") for path in params if path.endswith("kernel")}
    assert placed(params, "transformer") == names - {"fc3"}


def test_fewer_heads_of_keys_prove_that_no_axis_stacks_layers():
    params = kernels(q_proj=(16, 64, 8), k_proj=(4, 64, 8), v_proj=(4, 64, 8), o_proj=(16, 8, 64))
    params = {f"layers/{i}/attn/{path}": its for i in (0, 1) for path, its in params.items()}
    params |= kernels(up=(64, 256), down=(256, 64))
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == {"up/kernel", "down/kernel"}
    path = "layers/0/attn/k_proj/kernel"
    component = "component='heads:stack in:rows out:columns', scale=('variance', 1.0)"
    assert f"such as ('{path}', fg.pom('layer', fg.Stiefel(), {component}))" in str(spec)


@pytest.mark.parametrize("name", ["final", "output_layer", "W_out"])
def test_the_name_of_an_output_is_the_reason_of_a_transformer_as_well(name):
    spec = fg.collection(ATTENTION | kernels(**{name: (64, 9)}), preset="transformer")
    assert reason(spec, f"{name}/kernel") == "an output of the network by its name"


# --- dense networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean", "var", "scale", "gamma"])
def test_a_layer_that_gives_a_mean_is_no_normalization(name):
    params = kernels(fc1=(8, 64), fc2=(64, 64), **{name: (64, 2)}) | {f"{name}/bias": leaf(2)}
    spec = fg.collection(params | {"fc1/bias": leaf(64)}, preset="mlp")
    # √2 for ReLU, times √(outputs/inputs) for orthonormal rows that are fewer than the outputs.
    assert float(spec["fc1/kernel"].gamma) == pytest.approx((2 * 64 / 8) ** 0.5)
    convolutions = kernels(b__conv1=(3, 3, 8, 8), b__conv2=(3, 3, 8, 8), head=(8, 3))
    film = kernels(b__gamma=(4, 8), b__beta=(4, 8)) | {
        f"b/{x}/bias": leaf(8) for x in ("gamma", "beta")
    }
    spec = fg.collection(convolutions | film, preset="resnet")
    assert float(spec["b/conv1/kernel"].gamma) == pytest.approx(2**0.5)


LATENTS = [("fc_mu",), ("mean_x", "logvar_x"), ("enc_mu", "enc_logvar"), ("q_mu", "q_log_var"),
           ("z_loc", "z_scale"), ("z_mean", "z_log_var")]  # fmt: skip


@pytest.mark.parametrize("latents", LATENTS)
@pytest.mark.parametrize("hidden", ["enc1", "encoder_fc", "dense"])
def test_latents_and_the_output_of_an_autoencoder_by_hand_are_outputs(latents, hidden):
    params = kernels(**{hidden: (784, 400)}, **{name: (400, 20) for name in latents})
    params |= kernels(dec1=(20, 400), dec2=(400, 784))
    assert placed(params, "mlp") == {hidden, "dec1"}


def test_two_layers_of_one_list_that_cannot_read_each_other_are_doubted():
    sizes = {"encoder/linear": (784, 512), "encoder/linear_1": (512, 10),
             "encoder/linear_2": (512, 10), "decoder/linear": (10, 512),
             "decoder/linear_1": (512, 784)}  # fmt: skip
    text = str(
        fg.collection({f"{name}/w": leaf(*its) for name, its in sizes.items()}, preset="mlp")
    )
    assert "'encoder/linear_1/w', 'encoder/linear_2/w' may give the output" in text


@pytest.mark.parametrize("box", ["array", "0", "unbox", "raw_value", "value"])
def test_boxes_around_arrays_name_nothing(box):
    params = {f"blocks/fc/kernel/{box}": leaf(12, 64, 64), f"blocks/fc/bias/{box}": leaf(12, 64)}
    params |= {f"blocks/fc2/kernel/{box}": leaf(12, 64, 64), f"out/kernel/{box}": leaf(64, 10)}
    spec = fg.collection(params, preset="mlp", layout="SIO")
    assert {path for path, _ in spec.on_manifolds()} == {
        f"blocks/fc/kernel/{box}",
        f"blocks/fc2/kernel/{box}",
    }


def test_a_half_of_one_or_two_features_is_no_gate():
    sizes = {"0/lin1": (64, 2), "0/lin2": (64, 1), "1/lin1": (2, 64), "1/lin2": (2, 1)}
    params = {f"layers/{name}/weight": leaf(*its) for name, its in sizes.items()}
    spec = fg.collection(params, preset="mlp", layout="OIHW")
    assert {path for path, _ in spec.on_manifolds()} == {"layers/0/lin1/weight"}


def test_a_critic_and_a_name_of_tokens_are_told_apart():
    params = kernels(shared=(4, 64), prefix_value=(64, 3), prefix_policy=(64, 2))
    assert placed(params, "mlp") == {"shared"}


def test_stacked_weights_with_outputs_first_are_told_their_layout():
    sizes = [(5, 64, 2), (5, 64, 64), (5, 3, 64)]
    params = {f"layers/{i}/weight": leaf(*its) for i, its in enumerate(sizes)}
    with pytest.raises(ValueError, match="give layout='SOI' if the first stacks layers"):
        fg.collection(params, preset="mlp", layout="OIHW")
    spec = fg.collection(params, preset="mlp", layout="SOI")
    assert {path for path, _ in spec.on_manifolds()} == {"layers/0/weight", "layers/1/weight"}


# --- recurrent networks --------------------------------------------------------------------------

CELLS = [("W_hi", "W_xi"), ("Uz", "Wz"), ("Uh", "Wh"), ("W_rec", "W_in"), ("Wrec", "Win"),
         ("W_recurrent", "W_input"), ("h2h", "i2h"), ("fc_h", "fc_x"),
         ("lin_hh", "lin_ih")]  # fmt: skip


@pytest.mark.parametrize(("recurrent", "inward"), CELLS)
def test_recurrent_matrices_by_other_names_are_found(recurrent, inward):
    params = {inward: leaf(10, 32), recurrent: leaf(32, 32), "W_out": leaf(32, 5)}
    assert placed(params, "rnn") == {recurrent}
    spec = fg.collection(params, preset="rnn")
    assert reason(spec, inward) in ("the input matrix of a recurrent layer", "not square")


# --- convolutions --------------------------------------------------------------------------------

DEPTHWISE = [
    "depthwise_conv2d/depthwise_kernel",
    "block_1_depthwise/kernel",
    "block1a_dwconv/kernel",
]


@pytest.mark.parametrize("path", DEPTHWISE)
@pytest.mark.parametrize("layout", [None, "HWIO"])
def test_depthwise_kernels_of_keras_are_cut_into_one_filter_for_each_channel(path, layout):
    params = kernels(conv2d=(3, 3, 3, 32), conv2d_1=(1, 1, 32, 64), dense=(64, 10))
    for rules, preset in (
        ((), "resnet"),
        ((("*", fg.pom("PO", fg.Sphere(), component="filter")),), None),
    ):
        spec = fg.collection(
            params | {path: leaf(3, 3, 32, 1)}, *rules, preset=preset, layout=layout
        )
        assert spec[path].points_shape == (9, 1, 32)
    several = fg.collection(params | {path: leaf(3, 3, 32, 2)}, preset="resnet", layout=layout)
    assert reason(several, path).startswith("depthwise, but of several inputs and outputs")
    of_flax = fg.collection(params | {path: leaf(3, 3, 1, 32)}, preset="resnet", layout=layout)
    assert of_flax[path].points_shape == (9, 1, 32)


def test_kernels_of_three_dimensions_need_no_name_under_their_layout():
    params = kernels(enc1=(3, 3, 3, 1, 16), enc2=(3, 3, 3, 16, 32), dec1=(3, 3, 3, 48, 16))
    params |= kernels(final=(1, 1, 1, 16, 3))
    assert placed(params, "resnet", layout="DHWIO") == {"enc1", "enc2", "dec1"}


OUTER = {"up": (2, 2, 32, 16), "dec": (3, 3, 32, 16)}


@pytest.mark.parametrize("outputs", [1, 3, 21])
def test_no_layer_of_a_unet_is_doubted_that_others_read(outputs):
    params = kernels(enc=(3, 3, 1, 16), down=(3, 3, 16, 32), **OUTER, out_conv=(1, 1, 16, outputs))
    spec = fg.collection(params, preset="resnet")
    assert len(dict(spec.on_manifolds())) == 4
    assert "may give the output" not in str(spec)


def test_the_first_layer_of_a_discriminator_is_not_doubted_and_heads_of_scales_are_alike():
    sizes = [(64, 1, 4, 4), (128, 64, 4, 4), (1, 128, 4, 4)]
    params = {f"layers/{i}/weight": leaf(*its) for i, its in enumerate(sizes)}
    assert "may give" not in str(fg.collection(params, preset="resnet", layout="OIHW"))
    heads = {f"detect/m/{i}/weight": leaf(75, width, 1, 1) for i, width in enumerate((64, 128))}
    chain = [(64, 3, 3, 3), (128, 64, 3, 3), (64, 128, 3, 3)]
    params = {f"model/{i}/conv/weight": leaf(*its) for i, its in enumerate(chain)} | heads
    spec = fg.collection(params, preset="resnet", layout="OIHW")
    assert {path for path, _ in spec.on_manifolds()} == set(params) - set(heads)
    assert not re.search("may give", str(spec))


# --- graphs, policies, books, Keras --------------------------------------------------------------

GRAPHS = {
    "two linear layers": ("lin_l/weight", "lin_r/weight"),
    "one": ("lin/weight",),
    "root": ("lin_rel/weight", "lin_root/weight"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_matrices_of_graph_convolutions_are_dense_layers_with_heads(name):
    sizes = [(64, 100), (64, 64), (7, 64)]
    params = {f"conv{i}/{path}": leaf(*its) for i, its in enumerate(sizes) for path in GRAPHS[name]}
    spec = fg.collection(params, preset="mlp", layout="OIHW")
    assert {path for path, _ in spec.on_manifolds()} == {p for p in params if "conv2" not in p}
    flat = {f"GraphConv_{i}/kernel": leaf(*its[::-1]) for i, its in enumerate(sizes)}
    assert placed(flat, "mlp") == {"GraphConv_0", "GraphConv_1"}


def test_a_layer_that_an_output_reads_is_hidden_whatever_its_list_is_called():
    params = kernels(policy_net__0=(11, 64), policy_net__2=(64, 48), action_net=(48, 3))
    assert placed(params, "mlp") == {"policy_net/0", "policy_net/2"}
    params = kernels(encoder__linear1=(784, 500), encoder__mean=(500, 20))
    params |= kernels(decoder__linear1=(20, 500), decoder__out=(500, 784))
    assert placed(params, "mlp") == {"encoder/linear1", "decoder/linear1"}


def test_a_layer_that_none_reads_is_not_called_the_last_if_it_is_not():
    params = kernels(edge_in=(4, 16), node_in=(11, 32), msg=(80, 32), readout=(32, 3))
    spec = fg.collection(params, preset="mlp")
    assert reason(spec, "edge_in/kernel") == "no other layer seems to read its outputs"


@pytest.mark.parametrize("inputs", [8, 16, 32])
@pytest.mark.parametrize("written", ["{}{}", "{}_{}", "gru/{}_{}", "cell/{}{}"])
def test_u_is_recurrent_and_w_is_not_in_cells_of_books(inputs, written):
    params = {written.format("W", gate): leaf(inputs, 32) for gate in "zrh"}
    recurrent = {written.format("U", gate): leaf(32, 32) for gate in "zrh"}
    spec = fg.collection(params | recurrent, preset="rnn")
    assert {path for path, _ in spec.on_manifolds()} == set(recurrent)
    assert {reason(spec, path) for path in params} == {"the input matrix of a recurrent layer"}


@pytest.mark.parametrize("module", ["", "generator/"])
def test_transposed_convolutions_of_keras_have_their_outputs_before_their_inputs(module):
    sizes = {"conv2d_transpose": (4, 4, 64, 64), "conv2d_transpose_1": (4, 4, 32, 64)}
    params = {f"{module}{name}/kernel": leaf(*its) for name, its in sizes.items()}
    params |= {f"{module}{name}/bias": leaf(its[2]) for name, its in sizes.items()}
    params[f"{module}conv2d/kernel"] = leaf(5, 5, 32, 3)
    spec = fg.collection(params, preset="resnet")
    points = {path: its.points_shape for path, its in spec.on_manifolds()}
    assert points == {
        f"{module}conv2d_transpose/kernel": (16 * 64, 1, 64),
        f"{module}conv2d_transpose_1/kernel": (16 * 64, 1, 32),
    }


def test_a_layout_in_a_rule_counts_where_the_output_is_looked_for():
    params = {"deconv/w": leaf(4, 4, 256, 128), "conv2d/w": leaf(5, 5, 256, 3)}
    rule = ("deconv/*", fg.pom("PO", fg.Sphere(), component="filter", layout="HWOI"))
    spec = fg.collection(params, rule, preset="resnet")
    assert {path for path, _ in spec.on_manifolds()} == {"deconv/w"}


def test_a_table_of_relative_positions_is_an_embedding():
    params = {f"SelfAttention/{name}/weight": leaf(64, 64) for name in "qk"}
    table = {"SelfAttention/relative_attention_bias/weight": leaf(32, 8)}
    spec = fg.collection(params | table, preset="transformer", layout="OIHW")
    assert reason(spec, next(iter(table))) == "embedding by its path"
    assert "To place" not in str(spec)
