"""Random trees: presets answer or refuse, and every rule that they print can be copied."""

import itertools
import random
import re

import jax
import jax.numpy as jnp
import pytest

import fgsgd_jax as fg

WORDS = (
    "attn q k v query key value out wo wq wk qkv kv c_attn c_proj mlp up down gate wi_0 w1 w2 w3 "
    "conv Conv_0 ConvTranspose_0 norm LayerNorm_0 lstm GRUCell_0 hh hf in if w_h w_i dense_h "
    "weight_hh_l0 recurrent_kernel embed tokens prefix_k B A lora_a moe router head layers enc dec "
    "Dense_0 Dense_1 linear linear_1 q_einsum kv_einsum logvar mu final b_Q W_K W_O 0 1 2 WSConv U"
).split()
LAST = "kernel w weight bias b scale offset gamma weight_v".split() + [""] * 3
LAYOUTS = (None, "HWIO", "OIHW", "SIO", "SOI", "SHWIO", "SOIHW", "IOS", "ISO", "HWIOS", "HWOI")
SIZES = (1, 2, 3, 4, 8, 8, 16, 16, 64)
RULE = re.compile(r"\('([^']*)', fg\.pom\('layer', fg\.\w+\(\), component='([^']*)'[^:]*?\)\)")


def tree(draw):
    modules = ["/".join(draw.choices(WORDS, k=draw.randint(0, 2))) for _ in range(3)]
    paths = {
        "/".join(filter(None, (draw.choice(modules), draw.choice(WORDS), draw.choice(LAST))))
        for _ in range(draw.randint(1, 8))
    }
    axes = (0, 1, 1, 2, 2, 2, 3, 3, 4, 5)
    return {
        path: jax.ShapeDtypeStruct(tuple(draw.choices(SIZES, k=draw.choice(axes))), jnp.float32)
        for path in sorted(paths)
    }


@pytest.mark.parametrize("preset", ["resnet", "transformer", "mlp", "rnn", None])
def test_a_random_tree_has_a_spec_or_a_sentence_and_rules_that_can_be_copied(preset):
    draw = random.Random(0)
    printed = 0
    for layout in itertools.islice(itertools.cycle(LAYOUTS), 600):
        params = tree(draw)
        try:
            text = str(fg.collection(params, preset=preset, layout=layout))
        except ValueError as error:  # and no other error
            text = str(error)
        for path, cut in RULE.findall(text):
            rule = (path, fg.pom("layer", fg.Stiefel(), component=cut))
            assert fg.collection(params, rule, default=None)[path] is not None
            printed += 1
    assert printed > 20 or preset not in ("transformer", "rnn")
