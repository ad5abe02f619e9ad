"""What a spec says of leaves that stay Euclidean: true of each, and in words one reads once."""

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def reason(spec, path):
    return dict(zip(spec, spec.reasons, strict=True))[path]


INPUTS = {  # the input matrix and the recurrent one
    "PyTorch": ("lstm/weight_ih_l0", "lstm/weight_hh_l0", (32, 5), (32, 8)),
    "Equinox": ("cell/weight_ih", "cell/weight_hh", (24, 5), (24, 8)),
    "Haiku": ("gru/w_i", "gru/w_h", (5, 24), (8, 24)),
    "NNX": ("cell/dense_i/kernel", "cell/dense_h/kernel", (5, 32), (8, 32)),
    "Keras": ("lstm_cell/kernel", "lstm_cell/recurrent_kernel", (5, 32), (8, 32)),
    "linen": ("GRUCell_0/in/kernel", "GRUCell_0/hn/kernel", (5, 8), (8, 8)),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_matrix_is_not_said_to_be_recurrent(name):
    inward, recurrent, of_input, of_hidden = INPUTS[name]
    params = {inward: leaf(*of_input), recurrent: leaf(*of_hidden)}
    params |= {f"{recurrent.rpartition('/')[0]}/bias": leaf(of_hidden[-1])}
    spec = fg.collection(params, preset="rnn")
    assert reason(spec, inward) == "the input matrix of a recurrent layer"


def test_other_weights_of_a_recurrent_layer_are_said_to_stand_in_one():
    params = {"rnn/Dense_0/kernel": leaf(8, 8), "conv/kernel": leaf(3, 3, 8, 8)}
    params |= {"lstm/w_h": leaf(8, 32), "lstm/weights": leaf(8, 32)}
    spec = fg.collection(params, preset="resnet")
    assert reason(spec, "lstm/w_h") == "in a recurrent layer by its path"
    assert reason(fg.collection(params, preset="rnn"), "lstm/weights").startswith("in a recurrent")


@pytest.mark.parametrize("components", [1, 2])
def test_one_component_is_in_the_singular(components):
    params = {f"fc{i}/kernel": leaf(8, 8) for i in range(components)}
    line = str(fg.collection(params, ("*", fg.pom("layer", fg.Stiefel())))).splitlines()[0]
    assert f"{components} component{'s' * (components > 1)}: Stiefel {components}" in line


NOTHING = {  # a preset, leaves of which it places none, and what its error says of them
    "transformer": (
        {"a/kernel": (16, 64), "prompt": (4, 16), "emb/embedding": (9, 16)},
        ["'a/kernel' (not in the preset", "'prompt' (token by", "'emb/embedding' (embedding by"],
    ),
    "rnn": (
        {"rnn/Dense_0/kernel": (8, 16), "head/kernel": (8, 3)},
        ["'rnn/Dense_0/kernel' (dense by its path)", "'head/kernel' (head by its path)"],
    ),
    "mlp": ({"head/kernel": (8, 3), "head/bias": (3,)}, ["'head/kernel' (head by its path)"]),
}


@pytest.mark.parametrize("preset", NOTHING)
def test_a_preset_that_places_nothing_says_why_of_every_leaf(preset):
    shapes, expected = NOTHING[preset]
    params = {path: leaf(*its) for path, its in shapes.items()}
    with pytest.raises(ValueError, match="finds none of its weights") as raised:
        fg.collection(params, preset=preset)
    for text in expected:
        assert text in str(raised.value)
    assert "bias" not in str(raised.value)


@pytest.mark.parametrize("preset", ["transformer", "mlp", "rnn", "resnet"])
@pytest.mark.parametrize("layout", [None, "OIHW"])
def test_a_layout_that_a_message_names_can_be_copied(preset, layout):
    shapes = {"attn/qkv/kernel": (16, 5, 48), "attn/query/kernel": (6, 2, 16, 4)}
    params = {path: leaf(*its) for path, its in shapes.items()} | {"up/kernel": leaf(16, 16)}
    try:
        text = str(fg.collection(params, preset=preset, layout=layout))
    except ValueError as error:
        text = str(error)
    named = {part.split("'")[0] for part in text.split("layout='")[1:]}
    for given in named:
        fg.pom("layer", fg.Stiefel(), layout=given)
    if preset == "transformer":
        assert ("SOIHW" if layout else "SIO") in named
