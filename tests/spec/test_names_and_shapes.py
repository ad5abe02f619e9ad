"""What presets and defaults do where a name and a shape do not say the same."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg

K = jax.random.key(0)
ROOT = pytest.approx(2**0.5)  # keeps the variance through a square orthogonal matrix and a ReLU


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def kernels(**shapes):
    """Flat paths to kernels, with two underscores for each slash."""
    return {f"{name.replace('__', '/')}/kernel": leaf(*shape) for name, shape in shapes.items()}


def reason(spec, path):
    return dict(zip(spec, spec.reasons, strict=True))[path]


def points(spec):
    return {path: leaf_spec.points_shape for path, leaf_spec in spec.on_manifolds()}


def gammas(spec):
    return [leaf_spec.gamma for _, leaf_spec in spec.on_manifolds()]


# --- what follows a weight: a normalization, or the slopes of an activation -----------------------


def behind(name, vector, *, depth=4, bias=False):
    """Square layers of PyTorch or Equinox, each followed by a layer with a vector."""
    params = {}
    for i in range(depth):
        layer = f"layers/{2 * i + 1}" if name == "" else f"{name}{i}"
        params |= {f"layers/{2 * i}/weight": leaf(8, 8), f"{layer}/weight": leaf(*vector)}
        params |= {f"{layer}/bias": leaf(*vector)} if bias else {}
    return params | {"head/weight": leaf(3, 8)}


@pytest.mark.parametrize("name", ["", "prelu", "PReLU_", "act", "leaky_relu"])
def test_the_slopes_of_an_activation_are_no_normalization(name):
    for vector in ((1,), (8,)):
        spec = fg.collection(behind(name, vector), preset="mlp", layout="OIHW")
        assert gammas(spec) == [ROOT] * 4
        assert ("may belong to a normalization" in str(spec)) == (name == "" and vector == (8,))
    # A scale and an offset are one under any name, and a norm needs no offset.
    for params in (behind("", (8,), bias=True), behind("norm", (8,)), behind("ln_", (8,))):
        spec = fg.collection(params, preset="mlp", layout="OIHW")
        assert gammas(spec) == [None] * 4
        assert "may belong" not in str(spec)


def test_prelu_and_normalization_of_equinox_are_told_apart():
    def network(after):
        layers = [layer for _ in range(3) for layer in (eqx.nn.Linear(8, 8, key=K), after())]
        model = eqx.nn.Sequential([*layers, eqx.nn.Linear(8, 3, key=K)])
        return eqx.filter(model, eqx.is_array)

    for after, gamma in ((eqx.nn.PReLU, ROOT), (lambda: eqx.nn.LayerNorm(8), None)):
        spec = fg.collection(network(after), preset="mlp", layout="OIHW")
        assert gammas(spec) == [gamma] * 3
    without = fg.collection(
        network(lambda: eqx.nn.RMSNorm(8, use_bias=False)), preset="mlp", layout="OIHW"
    )
    assert "'layers/1/weight', 'layers/3/weight'" in str(without)
    assert gammas(without) == [ROOT] * 3  # does no harm before a normalization


@pytest.mark.parametrize("name", ["ls", "gain"])
def test_the_gain_of_a_branch_is_no_normalization(name):
    params = {}
    for i in range(4):
        params |= kernels(**{f"block_{i}__fc": (8, 8)}) | {f"block_{i}/{name}1/gamma": leaf(8)}
    spec = fg.collection(params | kernels(head=(8, 3)), preset="mlp")
    assert gammas(spec) == [ROOT] * 4
    assert "'block_0/" in str(spec)


# --- a word in the name of a module ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["ConvNormAct_0", "NormConv", "conv_bn", "PreNormConv_1", "norm"])
@pytest.mark.parametrize("layout", [None, "OIHW"])
def test_a_kernel_of_four_axes_is_no_normalization(name, layout):
    last, shape = ("kernel", (3, 3, 8, 16)) if layout is None else ("weight", (16, 8, 3, 3))
    params = {f"{name}/{last}": leaf(*shape)} | kernels(head=(16, 3))
    spec = fg.collection(params, preset="resnet", layout=layout)
    assert points(spec) == {f"{name}/{last}": (72, 1, 16)}
    assert spec[f"{name}/{last}"].gamma is not None  # its name is no normalization beside it


@pytest.mark.parametrize("name", ["prenorm_mlp", "LinearNorm", "layer_norm_dense"])
def test_a_matrix_called_kernel_is_what_the_rest_of_its_name_says(name):
    params = kernels(**{name: (8, 16)}, head=(16, 3))
    for preset in ("mlp", "transformer"):
        assert points(fg.collection(params, preset=preset)) == {f"{name}/kernel": (8, 16)}
    for path in ("attn_norm/weight", "conv_norm/w", "layer_norm/w"):  # stacked scales
        for options in ({"default": fg.pom("PO", fg.Sphere())}, {"preset": "mlp"}):
            spec = fg.collection(params | {path: leaf(5, 8)}, **options)
            assert reason(spec, path) == "normalization by its path"


@pytest.mark.parametrize("name", ["converter", "conversation", "converge"])
def test_a_matrix_is_no_convolution(name):
    params = kernels(**{name: (8, 16)}, conv=(3, 3, 8, 8), head=(16, 3))
    assert points(fg.collection(params, preset="resnet")) == {"conv/kernel": (72, 1, 8)}
    assert points(fg.collection(params, preset="mlp")) == {f"{name}/kernel": (8, 16)}


TABLES = ["tok/table", "tok_emb/weight", "emb/w", "codebook", "pos_emb", "lookup/kernel"]


@pytest.mark.parametrize("path", TABLES)
def test_tables_of_vectors_stay_euclidean(path):
    params = {path: leaf(100, 16)} | kernels(mlp__up=(16, 64), mlp__down=(64, 16), head=(16, 5))
    for options in (
        {"default": fg.pom("PO", fg.Sphere())},
        {"preset": "mlp"},
        {"preset": "transformer"},
    ):
        spec = fg.collection(params, **options)
        assert spec[path] is None
        assert reason(spec, path) == "embedding by its path"
        assert spec["mlp/up/kernel"] is not None


# --- queries, keys, values, outputs ---------------------------------------------------------------

MLP = kernels(mlp__up=(16, 64), mlp__down=(64, 16))


@pytest.mark.parametrize("name", ["value_head", "key_head", "heads__0", "heads__policy", "q_head"])
def test_heads_of_outputs_are_heads(name):
    params = MLP | kernels(**{name: (16, 3)})
    path = f"{name.replace('__', '/')}/kernel"
    for preset in ("transformer", "mlp"):
        assert reason(fg.collection(params, preset=preset), path) == "head by its path"


UNSAID = {  # the leaf, its shape, the preset, and points of the rule that the sentence has
    "value of a critic": ("critic/value/kernel", (16, 3), "transformer", (16, 3)),
    "a Q function": ("q/kernel", (16, 6), "transformer", (16, 6)),
    "keys of a memory": ("key_memory/kernel", (16, 8), "transformer", (16, 8)),
    "positions in attention": ("attn/rel_pos_h", (27, 16), "transformer", (27, 16)),
    "a gate in attention": ("attn/gate/kernel", (16, 16), "transformer", (16, 16)),
    "perhaps fused": ("SelfAttention_0/Dense_0/kernel", (16, 48), "transformer", (16, 48)),
    "gates or heads": ("mlp/wi/kernel", (16, 2, 64), "transformer", (16, 64, 2)),
    "heads before inputs": ("attn/query/kernel", (4, 16, 8), "transformer", (16, 8, 4)),
    "h of an encoder": ("enc/h/kernel", (16, 32), "rnn", (16, 32)),
    "h of an encoder, thrice": ("enc/h/kernel", (16, 48), "rnn", (16, 48)),
    "two gates": ("rnn/w_h", (8, 16), "rnn", (8, 8, 2)),
    "two gates, outputs first": ("gru/weight_hh", (16, 8), "rnn", (8, 8, 2)),
    "four gates of a GRU": ("gru/w_h", (8, 32), "rnn", (8, 8, 4)),
    "one gate": ("lstm/hf/kernel", (8, 32), "rnn", (8, 8, 4)),
}


@pytest.mark.parametrize("name", UNSAID)
def test_what_neither_name_nor_shape_says_stays_euclidean_with_a_rule_to_copy(name):
    path, shape, preset, expected = UNSAID[name]
    params = MLP | {"cell/w_h": leaf(8, 24)} | {path: leaf(*shape)}
    spec = fg.collection(params, preset=preset)
    assert spec[path] is None
    assert "rule" in reason(spec, path)
    assert f"{path!r} stays Euclidean" in str(spec)
    glob, cut = re.search(
        r"\('([^']*)', fg\.pom\('layer', fg\.\w+\(\), component='([^']*)'[^:]*?\)\)", str(spec)
    ).groups()
    rule = (glob, fg.pom("layer", fg.Stiefel(), component=cut))
    ruled = fg.collection(params, rule, preset=preset)
    assert ruled[path].points_shape == expected
    assert "stays Euclidean" not in str(ruled)


def test_a_preset_that_finds_nothing_has_the_rule_to_copy():
    with pytest.raises(ValueError, match=r"finds none.*'enc/h/kernel', fg\.pom\("):
        fg.collection(kernels(enc__h=(16, 32)), preset="rnn")


ATTENTION = {  # weights that are one of the four projections, and are cut alike
    "by hand": kernels(SelfAttention_0__Dense_0=(16, 16), SelfAttention_0__Dense_1=(16, 16)),
    "BLOOM": kernels(self_attention__q_proj=(16, 32), self_attention__dense=(32, 16)),
    "timm": kernels(attn__qkv=(16, 48), attn__proj=(16, 16)),
    "without attention": kernels(mixer__value=(16, 16), mixer__key=(16, 16)),
    "W_Q": {f"mixer/W_{name}": leaf(16, 16) for name in "QKV"},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_projections_of_attention_are_placed_in_every_spelling(name):
    others = kernels(attn__rel_pos=(16, 16), critic__value=(16, 3))  # look alike
    spec = fg.collection(ATTENTION[name] | others, preset="transformer")
    assert set(points(spec)) == set(ATTENTION[name])
    assert {str(its.manifolds[0]) for _, its in spec.on_manifolds()} == {"Stiefel()"}


# --- recurrent matrices ---------------------------------------------------------------------------

RECURRENT = {  # the input matrix, the recurrent one, both shapes, and the number of gates
    "LSTM of PyTorch": ("rnn/weight_ih_l0", "rnn/weight_hh_l0", (32, 5), (32, 8), 4),
    "GRU of PyTorch": ("gru/weight_ih_l1", "gru/weight_hh_l1", (24, 8), (24, 8), 3),
    "backward": ("r/weight_ih_l0_reverse", "r/weight_hh_l0_reverse", (24, 5), (24, 8), 3),
    "RNN of PyTorch": ("weight_ih_l0", "weight_hh_l0", (8, 5), (8, 8), 1),
    "Equinox": ("cell/weight_ih", "cell/weight_hh", (24, 5), (24, 8), 3),
    "Haiku": ("gru/w_i", "gru/w_h", (5, 24), (8, 24), 3),
    "NNX": ("cell/dense_i/kernel", "cell/dense_h/kernel", (5, 32), (8, 32), 4),
    "Keras": ("lstm_cell/kernel", "lstm_cell/recurrent_kernel", (5, 32), (8, 32), 4),
    "linen": ("SimpleCell_0/i/kernel", "SimpleCell_0/h/kernel", (5, 8), (8, 8), 1),
    "without a name": ("enc/i/kernel", "enc/h/kernel", (5, 8), (8, 8), 1),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_matrices_are_found_and_cut_by_gates(name):
    inward, recurrent, of_input, of_hidden, gates = RECURRENT[name]
    params = {inward: leaf(*of_input), recurrent: leaf(*of_hidden)}
    spec = fg.collection(params | kernels(dec__h=(8, 16)), preset="rnn")
    assert points(spec) == {recurrent: (8, 8) if gates == 1 else (8, 8, gates)}


def test_each_gate_of_pytorch_is_orthonormal():
    weight = np.random.default_rng(0).normal(size=(24, 8)).astype(np.float32)
    params = {"gru/weight_hh_l0": jnp.asarray(weight)}
    spec = fg.collection(params, preset="rnn")
    for gate in np.split(np.asarray(fg.project(params, spec)["gru/weight_hh_l0"]), 3):
        np.testing.assert_allclose(gate @ gate.T, np.eye(8), atol=5e-6)


# --- a pom as default -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["moe/experts/w1", "attn/query/kernel", "conv/kernel"])
@pytest.mark.parametrize("manifold", [fg.Sphere(), fg.Stiefel()])
def test_a_default_leaves_axes_that_nothing_names_euclidean(path, manifold):
    axes = 5 if path.startswith("conv") else 3
    shape = (4, 8, 16) if axes == 3 else (4, 3, 3, 8, 16)
    params = {path: leaf(*shape)} | kernels(fc=(8, 16))
    spec = fg.collection(params, default=fg.pom("layer", manifold))
    assert set(points(spec)) == {"fc/kernel"}
    assert f"{axes} axes" in reason(spec, path)
    stacked = "SIO" if axes == 3 else "SHWIO"
    if path != "attn/query/kernel":
        spec = fg.collection(params, default=fg.pom("layer", manifold), layout=stacked)
        assert spec[path].stacked == 4
    with pytest.raises(ValueError, match=f"{axes} axes"):  # a rule means the leaf
        fg.collection(params, (path, fg.pom("layer", manifold)))


@pytest.mark.parametrize("options", [{"preset": "transformer"}, {"default": "pom"}])
def test_a_gate_beside_experts_is_a_router(options):
    if "default" in options:
        options = {"default": fg.pom("PO", fg.Sphere())}
    params = MLP | kernels(mlp__gate=(16, 4), mlp__experts__0__up=(16, 64), gated__gate=(16, 4))
    spec = fg.collection(params, **options)
    assert reason(spec, "mlp/gate/kernel").startswith("router")
    assert "router" not in reason(spec, "gated/gate/kernel")


def test_pytorchs_fused_weight_is_no_head_and_keys_of_a_feed_forward_layer_are_no_keys():
    params = {
        "attn/in_proj_weight": leaf(48, 16),  # nearer to the top than all other weights
        "attn/out_proj/weight": leaf(16, 16),
        "block/att/key/weight": leaf(16, 16),
        "block/att/value/weight": leaf(16, 16),
        "block/ffn/key/weight": leaf(64, 16),
        "block/ffn/value/weight": leaf(16, 64),
    }
    spec = fg.collection(params, preset="transformer", layout="OIHW")
    assert points(spec) == {
        "attn/in_proj_weight": (16, 16, 3),
        "attn/out_proj/weight": (16, 16),
        "block/att/key/weight": (16, 16),
        "block/att/value/weight": (16, 16),
    }
    assert "rule" in reason(spec, "block/ffn/key/weight")


@pytest.mark.parametrize(
    ("params", "advice"),
    [
        ({"fc1.weight": (8, 16), "fc2.weight": (4, 8)}, r"unflatten_dict\(params, sep='.'\)"),
        ({("fc1", "kernel"): (8, 16), ("fc2", "kernel"): (16, 4)}, r"unflatten_dict\(params\)"),
    ],
)
def test_a_flat_tree_is_to_be_nested_for_a_preset(params, advice):
    shapes = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in params.items()}
    with pytest.raises(ValueError, match=f"whole path in one key.*{advice}"):
        fg.collection(shapes, preset="mlp")


@pytest.mark.parametrize("name", ["b_Q", "query_b", "bk", "b"])
def test_biases_by_short_names_are_euclidean_and_kernels_called_so_are_not(name):
    shapes = {
        "attn": {"W_Q": jax.ShapeDtypeStruct((64, 64), jnp.float32)},
        name: jax.ShapeDtypeStruct((4, 16), jnp.float32),
        "block": {"b": jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32)},
    }
    spec = fg.collection(shapes, default=fg.pom("layer", fg.Stiefel(), component="matrix"))
    assert spec[name] is None
    assert spec["attn/W_Q"] is not None
    assert spec["block/b"] is not None


@pytest.mark.parametrize(("a", "b"), [((64, 4), (4, 32)), ((4, 64), (32, 4))])
def test_factors_of_a_low_rank_update_are_euclidean_whatever_they_are_called(a, b):
    kernel = {"kernel": (64, 32), "A": a, "B": b}
    shapes = {"q_proj": {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in kernel.items()}}
    spec = fg.collection(shapes, preset="transformer")
    assert spec["q_proj/kernel"] is not None
    assert spec["q_proj/A"] is None
    assert spec["q_proj/B"] is None


def test_a_convolutional_network_is_told_its_preset():
    shapes = {"conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.float32)}}
    with pytest.raises(ValueError, match="Did you mean 'resnet'"):
        fg.collection(shapes, preset="cnn")


def test_a_trunk_is_hidden_beside_a_head_that_no_layer_can_read():
    sizes = {"trunk/0": (17, 256), "trunk/1": (256, 256), "policy": (256, 6)}
    shapes = {
        f"{name}/kernel": jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()
    }
    spec = fg.collection(shapes, preset="mlp")
    assert spec["policy/kernel"] is None
    assert spec["trunk/1/kernel"] is not None
    assert "may give the output of the network" not in str(spec)


def test_stacked_layers_are_not_the_last_layer():
    sizes = {"gate_up_proj": (8, 64, 256), "down_proj": (8, 128, 64)}
    shapes = {
        f"layers/mlp/{name}/kernel": jax.ShapeDtypeStruct(size, jnp.float32)
        for name, size in sizes.items()
    } | {"emb/embedding": jax.ShapeDtypeStruct((100, 64), jnp.float32)}
    spec = fg.collection(shapes, preset="transformer", layout="SIO")
    assert spec["layers/mlp/gate_up_proj/kernel"] is not None
    assert spec["layers/mlp/down_proj/kernel"] is not None


def test_u_and_w_of_one_shape_may_be_recurrent_both():
    params = {f"rnn/{name}": leaf(16, 16) for name in "UW"} | {"cell/w_h": leaf(8, 24)}
    spec = fg.collection(params, preset="rnn")
    assert reason(spec, "rnn/U") == "U or W is recurrent, as books differ: give a rule"
    assert "such as ('rnn/U', fg.pom(" in str(spec)
    told_apart = fg.collection(params | {"rnn/W": leaf(5, 16)}, preset="rnn")
    assert told_apart["rnn/U"].points_shape == (16, 16)


def test_gates_of_a_projected_cell_are_not_cut_in_halves():
    params = {"lstm/weight_hh_l0": leaf(512, 64), "lstm/weight_hr_l0": leaf(64, 128)}
    spec = fg.collection(params | {"gru/weight_hh_l0": leaf(24, 8)}, preset="rnn")
    assert spec["lstm/weight_hh_l0"] is None
    assert (
        reason(spec, "lstm/weight_hh_l0")
        == "its 4 gates are not square: its cell projects its output"
    )
    assert "gates=8" not in str(spec)


@pytest.mark.parametrize("path", ["ConvLSTMCell_0/hh/kernel", "conv_lstm/recurrent_kernel"])
def test_a_convolutional_cell_stays_euclidean_beside_others(path):
    params = {path: leaf(3, 3, 16, 64), "gru/weight_hh_l0": leaf(24, 8)}
    spec = fg.collection(params, preset="rnn")
    assert reason(spec, path) == "4 axes, as of a convolution: name them in a rule"
    assert spec["gru/weight_hh_l0"] is not None
