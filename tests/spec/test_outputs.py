"""Outputs of dense networks: what is placed depends on names and structure, not on equal sizes."""

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def kernels(**shapes):
    """Flat paths to kernels, with two underscores for each slash."""
    return {f"{name.replace('__', '/')}/kernel": leaf(*shape) for name, shape in shapes.items()}


def placed(params, **options):
    """The names of the weights that the preset places."""
    spec = fg.collection(params, preset="mlp", **options)
    return {path.removesuffix("/kernel") for path, _ in spec.on_manifolds()}


def reason(spec, path):
    return dict(zip(spec, spec.reasons, strict=True))[path]


# Sizes that agree by chance: of actions and observations, of colors and coordinates, of a latent.
SIZES = [(8, 6), (6, 6), (3, 3), (8, 64), (64, 64)]


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("spread", ["log_std", "logvar", "LogStd", "log_sigma", "std", "log_var"])
@pytest.mark.parametrize("mean", ["mean", "mu", "mean_layer"])
def test_parameters_of_a_distribution_are_outputs_whatever_their_sizes(
    inputs, outputs, spread, mean
):
    params = kernels(actor__Dense_0=(inputs, 64), actor__Dense_1=(64, 64))
    params |= kernels(**{f"actor__{mean}": (64, outputs), f"actor__{spread}": (64, outputs)})
    params |= kernels(critic__Dense_0=(inputs + outputs, 64), critic__Dense_1=(64, 1))
    assert placed(params) == {"actor/Dense_0", "actor/Dense_1", "critic/Dense_0"}
    spec = fg.collection(params, preset="mlp")
    for name in (mean, spread):
        assert reason(spec, f"actor/{name}/kernel") == "an output of the network by its name"


@pytest.mark.parametrize("coordinates", [3, 63, 128])
@pytest.mark.parametrize("color", ["rgb", "rgb_out", "color_layer", "out", "fc_out", "final"])
def test_the_color_of_a_radiance_field_is_an_output_whatever_its_inputs_are(coordinates, color):
    params = kernels(Dense_0=(coordinates, 256), Dense_1=(256, 256), Dense_2=(256, 128))
    params |= kernels(sigma=(256, 1), **{color: (128, 3)})
    assert placed(params) == {"Dense_0", "Dense_1", "Dense_2"}


@pytest.mark.parametrize(
    "path", ["pos_enc/B", "fourier/freqs", "FourierFeatures_0/kernel", "rff/w"]
)
@pytest.mark.parametrize("width", [128, 256])
def test_random_features_are_no_hidden_layer(path, width):
    params = kernels(Dense_0=(256, 256), Dense_1=(256, 256), rgb=(256, 3)) | {path: leaf(3, width)}
    spec = fg.collection(params, preset="mlp")
    assert reason(spec, path) == "embedding by its path"
    assert placed(params) == {"Dense_0", "Dense_1"}


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 6), (8, 8), (3, 3)])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("last", ["Dense", "linear", "layers/"])
def test_no_layer_is_read_by_those_before_it_or_by_what_reads_the_input(
    inputs, outputs, biases, last
):
    params = {"actor/log_std": leaf(outputs)}
    for module, size in (("actor", outputs), ("critic", 2)):
        sizes = [(inputs, 64), (64, 64), (64, size)]
        for i, shape in enumerate(sizes):
            name = f"{module}/{last}{i}" if last.endswith("/") else f"{module}/{last}_{i}"
            params |= {f"{name}/kernel": leaf(*shape)}
            params |= {f"{name}/bias": leaf(shape[1])} if biases else {}
    found = {path[-1] for path in placed(params)}
    assert found == {"0", "1"}
    assert len(placed(params)) == 4


@pytest.mark.parametrize("biases", [False, True])
def test_heads_of_one_size_are_heads_all_the_same(biases):
    params = kernels(trunk__Dense_0=(8, 64), trunk__Dense_1=(64, 64), a=(64, 6), b=(64, 6))
    params |= {f"{name}/bias": leaf(6) for name in "ab"} if biases else {}
    assert placed(params) == {"trunk/Dense_0", "trunk/Dense_1"}


AUTOENCODERS = {  # the ends of the encoder and the decoder
    "plain": (kernels(enc__Dense_1=(64, 4)), {"enc/Dense_1", "back/Dense_1"}),
    "variational": (kernels(enc__mu=(64, 4), enc__logvar=(64, 4)), {"back/Dense_1"}),
    "in its own words": (kernels(enc__mean_fc=(64, 4)), {"back/Dense_1"}),
}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_both_ends_of_an_autoencoder_stay_euclidean_and_a_sentence_says_why(name):
    latent, ends = AUTOENCODERS[name]
    params = kernels(enc__Dense_0=(32, 64), back__Dense_0=(4, 64), back__Dense_1=(64, 32)) | latent
    assert placed(params) == {"enc/Dense_0", "back/Dense_0"}
    spec = fg.collection(params, preset="mlp")
    text = str(spec)
    for end in ends:
        assert "two modules can read each other" in reason(spec, f"{end}/kernel")
        assert f"'{end}/kernel'" in text.splitlines()[-1]
    path = f"{max(ends)}/kernel"
    component = "component='in:rows out:columns', scale='variance'"
    assert f"such as ('{path}', fg.pom('layer', fg.Stiefel(), {component}))" in text
    rule = (path, fg.pom("layer", fg.Stiefel(), component="in:rows out:columns"))
    assert fg.collection(params, rule, preset="mlp")[path].points_shape == params[path].shape


BLOCKS = {f"Block_{i}__{name}": its for i in range(3) for name, its in
          (("Dense_0", (64, 128)), ("Dense_1", (128, 64)))}  # fmt: skip


@pytest.mark.parametrize("first", [{}, {"stem": (8, 64)}])
def test_blocks_that_follow_one_another_are_hidden(first):
    params = kernels(**BLOCKS, **first, top=(64, 10))
    assert placed(params) == {path.removesuffix("/kernel") for path in params} - {"top"}


def test_an_output_in_every_block_is_hidden_and_the_last_of_a_list_called_so_is_the_output():
    params = kernels(**{f"Block_{i}__out": (16, 16) for i in range(3)}, head=(16, 4))
    assert placed(params) == {f"Block_{i}/out" for i in range(3)}
    params = kernels(policy__0=(8, 16), policy__1=(16, 16), policy__2=(16, 8))
    assert placed(params) == {"policy/0", "policy/1"}


@pytest.mark.parametrize("layout", ["OIHW", "SIO"])
def test_outputs_are_found_under_every_layout(layout):
    stack = (5,) if layout == "SIO" else ()
    sizes = {"fc1": (6, 64), "fc2": (64, 64), "log_std": (64, 6), "mean": (64, 6)}
    params = {
        f"{name}/w": leaf(*stack, *(its if stack else its[::-1])) for name, its in sizes.items()
    }
    spec = fg.collection(params, preset="mlp", layout=layout)
    assert {path for path, _ in spec.on_manifolds()} == {"fc1/w", "fc2/w"}


DECODERS = {  # sizes by name, and the output, which other layers could read
    "one layer": ({"encoder": (32, 8), "decoder": (8, 32)}, "decoder"),
    "as wide as the latent": (
        {"encoder/linear": (5, 8), "core/linear": (8, 8), "decoder/linear": (8, 8)},
        "decoder/linear",
    ),
    "twice the latent": (
        {"encoder/linear": (5, 8), "core/fc1": (16, 8), "core/fc2": (8, 8), "decoder/fc": (8, 16)},
        "decoder/fc",
    ),
    "in lists": (
        {"encoder/0": (32, 16), "encoder/1": (16, 8), "decoder/0": (8, 16), "decoder/1": (16, 32)},
        "decoder/1",
    ),
    "a generator": (
        {
            "generator/0": (4, 16),
            "generator/1": (16, 32),
            "critic/0": (32, 16),
            "critic/1": (16, 5),
        },
        "generator/1",
    ),
    "of Haiku": (
        {"encoder/~/linear": (32, 8), "decoder/~/linear": (8, 8), "decoder/~/linear_1": (8, 32)},
        "decoder/~/linear_1",
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_the_last_layer_of_a_decoder_is_an_output_whatever_its_size(name):
    sizes, output = DECODERS[name]
    params = {f"{path}/kernel": leaf(*size) for path, size in sizes.items()}
    assert placed(params) == set(sizes) - {output, "critic/1"}
    assert "may give the output" not in str(fg.collection(params, preset="mlp"))


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("actor", [{}, {"actor/0": (17, 64), "actor/1": (64, 6)}])
def test_the_heads_of_a_stacked_ensemble_are_heads(members, actor):
    critics = {"critics/0": (17, 64), "critics/1": (64, 64), "critics/2": (64, 3)}
    params = {f"{name}/kernel": leaf(members, *size) for name, size in critics.items()}
    params |= {f"{name}/kernel": leaf(*size) for name, size in actor.items()}
    assert placed(params, layout="SIO") == {"critics/0", "critics/1", *list(actor)[:1]}


REPEATED = {  # the layers of a block, one of which no other reads
    "mlp": {"tokens/Dense_0": (49, 16), "tokens/Dense_1": (16, 49), "Dense_0": (32, 32)},
    "transformer": {"mix/in_proj": (32, 64), "mix/x_proj": (64, 9), "mix/out_proj": (64, 32)},
}


@pytest.mark.parametrize("preset", REPEATED)
def test_no_layer_of_a_block_that_is_repeated_may_be_the_output(preset):
    params = kernels(head=(32, 10))
    for block in range(3):
        params |= {
            f"Block_{block}/{name}/kernel": leaf(*size) for name, size in REPEATED[preset].items()
        }
    spec = fg.collection(params, preset=preset)
    assert len(dict(spec.on_manifolds())) == 9
    assert "may give the output" not in str(spec)


@pytest.mark.parametrize("size", [2, 4])
def test_a_policy_before_a_critic_in_one_list_is_an_output_whatever_it_is_as_long_as(size):
    sizes = [(4, 64), (64, 64), (64, size), (4, 64), (64, 64), (64, 1)]
    params = kernels(**{f"Dense_{i}": shape for i, shape in enumerate(sizes)})
    assert placed(params) == {"Dense_0", "Dense_1", "Dense_3", "Dense_4"}
    bottleneck = kernels(Dense_0=(32, 64), Dense_1=(64, 4), Dense_2=(4, 64), Dense_3=(64, 32))
    assert placed(bottleneck) == {"Dense_0", "Dense_1", "Dense_2"}
    hidden = kernels(Dense_0=(64, 128), Dense_1=(128, 64), Dense_2=(64, 10))
    assert placed(hidden) == {"Dense_0", "Dense_1"}


@pytest.mark.parametrize("decoder", ["decoder", "dec", "back"])
def test_the_end_of_an_encoder_is_hidden_only_where_a_name_says_decoder(decoder):
    sizes = {"encoder": (64, 32), decoder: (32, 64), "reward": (32, 1), "dynamics": (40, 32)}
    params = {}
    for name, (inputs, outputs) in sizes.items():
        params |= kernels(
            **{f"{name}__linear_0": (inputs, 128), f"{name}__linear_1": (128, outputs)}
        )
    ends = {f"{decoder}/linear_1", "reward/linear_1"}
    ends |= {"encoder/linear_1"} if decoder == "back" else set()
    assert placed(params) == {path.removesuffix("/kernel") for path in params} - ends


def test_a_stacked_critic_is_told_its_layout():
    params = kernels(actor__Dense_0=(17, 64), actor__Dense_1=(64, 6), critic__Dense_0=(2, 23, 64))
    spec = fg.collection(params, preset="mlp")
    assert "layout='SIO'" in reason(spec, "critic/Dense_0/kernel")


def test_the_weights_of_a_gated_layer_are_read_in_any_order():
    """`w2` reads `w1` and `w3`, although it stands before one of them."""
    names = {"w1": (172, 64), "w2": (64, 172), "w3": (172, 64)}
    params = {f"layers/0/feed_forward/{name}/weight": leaf(*its) for name, its in names.items()}
    params |= {f"layers/0/attention/w{name}/weight": leaf(64, 64) for name in "qkvo"}
    params |= {"head/weight": leaf(99, 64)}
    spec = fg.collection(params, preset="transformer", layout="OIHW")
    assert len(list(spec.on_manifolds())) == 7
    assert "may give the output" not in str(spec)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ["conv_out", "final_conv", "out"])
def test_the_image_of_a_network_with_attention_and_embeddings_of_time_is_an_output(channels, name):
    params = kernels(conv_in=(3, 3, channels, 64), mid__attn__to_q=(64, 64), time__fc=(256, 64))
    params |= kernels(down__conv1=(3, 3, 64, 64), up__conv1=(3, 3, 128, 64))
    params |= kernels(**{name: (3, 3, 64, channels)})
    spec = fg.collection(params, preset="resnet")
    assert reason(spec, f"{name}/kernel") == "the last layer: no other reads its outputs"


@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("sizes", [(4, 4), (2, 4), (5, 3)])
@pytest.mark.parametrize("module", ["member_{}/Dense_{}", "ens/{}/layers/{}", "net{}/linear_{}"])
def test_the_ends_of_all_members_of_an_ensemble_stay_euclidean(members, sizes, module):
    inputs, outputs = sizes
    params = {}
    for member in range(members):
        for i, shape in enumerate([(inputs, 16), (16, 16), (16, outputs)]):
            params[f"{module.format(member, i)}/kernel"] = leaf(*shape)
    expected = {module.format(member, i) for member in range(members) for i in range(2)}
    assert placed(params) == expected


def test_the_last_of_weights_that_no_numbers_order_is_named():
    params = {"W_enc": leaf(64, 512), "W_dec": leaf(512, 64), "b_enc": leaf(512)}
    assert "'W_enc' is taken for the last layer" in str(fg.collection(params, preset="mlp"))
    in_order = {"W_0": leaf(64, 64), "W_1": leaf(64, 64)}
    assert "is taken for" not in str(fg.collection(in_order, preset="mlp"))


@pytest.mark.parametrize("shape", [(1152, 10, 16, 8), (32, 4, 16, 8), (16, 1, 8, 8)])
def test_four_axes_that_no_name_calls_a_convolution_are_none_if_their_kernel_is_long(shape):
    params = kernels(conv1=(3, 3, 1, 16), conv2=(3, 3, 16, 16), head=(16, 4)) | {"W": leaf(*shape)}
    spec = fg.collection(params, preset="resnet")
    assert {path for path, _ in spec.on_manifolds()} == {"conv1/kernel", "conv2/kernel"}


@pytest.mark.parametrize("names", [("W_xh", "W_hh"), ("W_x", "W_h"), ("W", "U"), ("W_ih", "W_hh")])
@pytest.mark.parametrize("gates", [1, 4])
def test_recurrent_matrices_by_hand_are_found_in_recurrent_modules(names, gates):
    params = {f"lstm/{names[0]}": leaf(5, 8 * gates), f"lstm/{names[1]}": leaf(8, 8 * gates)}
    if gates == 1:
        params = {path.replace("lstm", "cell"): its for path, its in params.items()}
    spec = fg.collection(params | {"out/W": leaf(8, 3)}, preset="rnn")
    ((path, leaf_spec),) = spec.on_manifolds()
    assert path.endswith(names[1])
    assert leaf_spec.points_shape == ((8, 8) if gates == 1 else (8, 8, 4))


@pytest.mark.parametrize("module", ["Layer_{}/Dense_0", "conv{}/linear", "blocks/{}/fc"])
@pytest.mark.parametrize("width", [16, 64])
def test_modules_of_one_layer_each_are_a_list_and_its_last_is_the_output(module, width):
    sizes = [(2, 64), (64, 64), (64, width), (width, 7)]
    params = {f"{module.format(i)}/kernel": leaf(*size) for i, size in enumerate(sizes)}
    assert placed(params) == {module.format(i) for i in range(3)}


@pytest.mark.parametrize("inputs", [32, 100])
def test_both_towers_of_a_retrieval_network_end_in_an_output(inputs):
    params = kernels(user__0=(32, 256), user__1=(256, 64), item__0=(inputs, 256), item__1=(256, 64))
    assert placed(params) == {"user/0", "item/0"}


@pytest.mark.parametrize(
    "gated", [{"wi": (16, 128), "wo": (64, 16)}, {"0/proj": (16, 128), "2": (64, 16)}]
)
def test_half_of_a_gated_layer_is_read_inside_of_its_module(gated):
    params = {f"ff/net_{name}/kernel": leaf(*its) for name, its in gated.items()}
    attention = kernels(attn__to_q=(16, 16), attn__to_k=(16, 16))
    spec = fg.collection(params | attention | kernels(logits=(16, 5)), preset="transformer")
    assert len(dict(spec.on_manifolds())) == 4
    assert "may give the output" not in str(spec)


BLOCKS_OF_ATTENTION = {
    f"layers_{i}/{name}/kernel": leaf(*size)
    for i in range(2)
    for name, size in {"attn/q": (16, 16), "attn/k": (16, 16), "attn/o": (16, 16),
                       "ff_0": (16, 48), "ff_3": (48, 16)}.items()
}  # fmt: skip


@pytest.mark.parametrize("head", ["head/linear", "Head_0/Dense_0", "value_head/fc", "heads/0/proj"])
def test_the_last_layer_of_a_module_called_head_is_one(head):
    params = BLOCKS_OF_ATTENTION | {f"{head}/kernel": leaf(16, 7)}
    spec = fg.collection(params, preset="transformer")
    assert {path for path, _ in spec.on_manifolds()} == set(BLOCKS_OF_ATTENTION)
    assert spec[f"{head}/kernel"] is None
    assert "may give the output" not in str(spec)
    deep = BLOCKS_OF_ATTENTION | kernels(lm_head__dense=(16, 16), lm_head__decoder=(16, 7))
    assert fg.collection(deep, preset="transformer")["lm_head/decoder/kernel"] is None


def test_the_ends_of_networks_that_are_repeated_beside_a_head_are_doubted():
    params = BLOCKS_OF_ATTENTION | kernels(head=(16, 4))
    for i in range(3):
        params |= kernels(**{f"mlps_{i}__layers_0": (16, 16), f"mlps_{i}__layers_1": (16, 5)})
    text = str(fg.collection(params, preset="transformer"))
    assert "'mlps_0/layers_1/kernel', 'mlps_1/layers_1/kernel'" in text
    assert "may give the output of the network" in text
