"""Learned tokens, which are no layers, and feed-forward layers whose weights have short names."""

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def points(spec):
    return {path: leaf_spec.points_shape for path, leaf_spec in spec.on_manifolds()}


def reason(spec, path):
    return dict(zip(spec, spec.reasons, strict=True))[path]


ATTENTION = {f"h/attn/{name}_proj/kernel": leaf(16, 16) for name in "qkvo"}

TOKENS = [  # of prefix tuning, BLIP-2, caches, registers of ViT, Perceiver, memory, PyTorch's lists
    "h/attn/prefix_k", "h/attn/prefix_v", "query_tokens", "h/attn/k_cache", "cached_value",
    "h/attn/mem_k", "h/attn/null_kv", "register_tokens", "registers", "cls_token", "prompt",
    "prompts/0", "h/attn/key_prompt", "latents", "memory", "h/attn/q_tokens", "slots", "maskToken",
]  # fmt: skip


@pytest.mark.parametrize("path", TOKENS)
@pytest.mark.parametrize("shape", [(10, 16), (16, 16), (2, 10, 16), (4, 2, 8)])
def test_learned_tokens_are_no_weights_of_attention(path, shape):
    params = ATTENTION | {path: leaf(*shape)}
    spec = fg.collection(params, preset="transformer")
    assert set(points(spec)) == set(ATTENTION)
    assert reason(spec, path) == "token by its path"
    assert "neither name nor shape" not in str(spec)
    matrices = fg.pom("layer", fg.Stiefel(), component="matrix")
    assert fg.collection(params, default=matrices)[path] is None
    if len(shape) == 2:  # a rule means the leaf
        assert fg.collection(params, (path, matrices), preset="transformer")[path] is not None


@pytest.mark.parametrize(
    "path",
    [
        "mixer/token_mixing/Dense_0/kernel",
        "token_mlp/kernel",
        "prompt_encoder/up_proj/kernel",
        "h/token_mixer_dense",
        "attn/memory/key_proj/kernel",
    ],
)
def test_layers_for_tokens_are_layers(path):
    params = ATTENTION | {path: leaf(16, 16)}
    assert path in points(fg.collection(params, preset="transformer"))


FEED_FORWARD = {  # into the hidden features, and out of them
    "SwiGLU": (("w_gate", "w_up"), ("w_down",)),
    "Llama": (("w1", "w3"), ("w2",)),
    "T5X": (("wi_0", "wi_1"), ("wo",)),
    "Hugging Face": (("gate_proj", "up_proj"), ("down_proj",)),
    "plain": (("w_in",), ("w_out",)),
    "short": (("wi",), ("wo",)),
    "gate": (("gate", "up"), ("down",)),
}


@pytest.mark.parametrize("name", FEED_FORWARD)
@pytest.mark.parametrize("module", ["layers/0", "h/block", "blocks_3"])
@pytest.mark.parametrize("last", ["", "/kernel"])
def test_every_weight_of_a_feed_forward_layer_is_placed_as_its_siblings(name, module, last):
    inward, outward = FEED_FORWARD[name]
    params = {f"{module}/{weight}{last}": leaf(16, 64) for weight in inward}
    params |= {f"{module}/{weight}{last}": leaf(64, 16) for weight in outward}
    spec = fg.collection(params, preset="transformer")
    assert points(spec) == {path: weight.shape for path, weight in params.items()}
    assert {str(its.manifolds[0]) for _, its in spec.on_manifolds()} == {"Oblique()"}


@pytest.mark.parametrize("name", ["SwiGLU", "Llama", "T5X"])
def test_outputs_first_and_stacked_layers_are_read_alike(name):
    inward, outward = FEED_FORWARD[name]
    for layout, stack in (("OIHW", ()), ("SIO", (5,)), ("SOI", (5,))):
        first = "OI" in layout
        up, down = ((64, 16), (16, 64)) if first else ((16, 64), (64, 16))
        params = {f"layers/{weight}": leaf(*stack, *up) for weight in inward}
        params |= {f"layers/{weight}": leaf(*stack, *down) for weight in outward}
        spec = fg.collection(params, preset="transformer", layout=layout)
        for weight in inward:
            assert spec[f"layers/{weight}"].points_shape == (16, 64, *stack)


def test_a_fused_gate_leads_back_by_half_of_its_outputs():
    params = {"layers/0/w_in": leaf(16, 128), "layers/0/w_out": leaf(64, 16)}
    assert set(points(fg.collection(params, preset="transformer"))) == set(params)


SHAPES_THAT_DISAGREE = {
    "a router": {"w_gate": (16, 4), "w_up": (16, 64), "w_down": (64, 16)},
    "not back": {"w1": (16, 64), "w2": (48, 16)},
    "alone": {"w1": (16, 64)},
}


@pytest.mark.parametrize("name", SHAPES_THAT_DISAGREE)
def test_a_short_name_is_not_believed_without_the_shapes(name):
    params = {
        f"layers/0/{weight}": leaf(*its) for weight, its in SHAPES_THAT_DISAGREE[name].items()
    }
    spec = fg.collection(params | ATTENTION, preset="transformer")
    first = next(iter(params))
    assert spec[first] is None
    assert reason(spec, first) == "not in the preset 'transformer'"


MAY_BE_HIDDEN = {
    "square": {"w1": (16, 16), "w2": (16, 16)},
    "no such names": {"w_gate": (16, 64), "projection_of_x": (64, 16)},
    "a pooler": {"pooler/kernel": (16, 16)},
    "between widths": {"project_in/kernel": (8, 16), "project_out/kernel": (16, 8)},
}


@pytest.mark.parametrize("layout", [None, "OIHW"])
@pytest.mark.parametrize("name", MAY_BE_HIDDEN)
def test_a_matrix_that_no_name_explains_has_the_rule_to_copy(name, layout):
    swap = layout is not None
    params = {path: leaf(*its[::-1] if swap else its) for path, its in MAY_BE_HIDDEN[name].items()}
    spec = fg.collection(params | ATTENTION, preset="transformer", layout=layout)
    first = next(iter(params))
    assert reason(spec, first) == "no name says what it is: give a rule"
    cut = "out:columns in:rows" if swap else "in:rows out:columns"
    pom = f"fg.pom('layer', fg.Oblique(), component={cut!r}, scale='variance')"
    assert f"'{first}', {pom})" in str(spec)


def test_a_weight_without_a_layer_of_its_own_is_read_by_its_neighbors():
    """Both weights stand in one layer by their paths: `up` is no head, `down` reads it."""
    params = {"layers/0/up": leaf(16, 64), "layers/0/down": leaf(64, 16)}
    assert set(points(fg.collection(params, preset="transformer"))) == set(params)
