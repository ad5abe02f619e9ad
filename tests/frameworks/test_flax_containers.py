"""Flax's containers of parameters: modules with batch statistics, boxes, lists among fields."""

from collections.abc import Sequence

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import fgsgd_jax as fg
import fgsgd_jax.linen

IMAGES = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)


class Deep(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


@pytest.mark.parametrize("make", [Block, Deep])
def test_a_module_with_other_variables_is_told_the_route_which_works(make):
    model = make(nnx.Rngs(0))
    spec = fg.collection(nnx.state(model, nnx.Param))
    for place in (fg.project, fg.residual, lambda *args: fg.initialize(jax.random.key(0), *args)):
        with pytest.raises(ValueError, match=r"batch statistics.* nnx\.update"):
            place(model, spec)
    params = nnx.state(model, nnx.Param)
    params = fg.project(params, spec)
    nnx.update(model, params)
    residuals = fg.residual(nnx.state(model, nnx.Param), spec)
    assert max(float(value) for value in residuals.values()) < 1e-5


def test_a_module_of_parameters_only_is_projected_as_it_is():
    model = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
    spec = fg.collection(nnx.state(model, nnx.Param))
    projected = fg.project(model, spec)
    assert isinstance(projected, nnx.Conv)
    assert float(fg.residual(projected, spec)["kernel"]) < 1e-5


BOXES = {
    "with_partitioning": linen.with_partitioning,
    "with_logical_partitioning": linen.with_logical_partitioning,
}


class Boxed(linen.Module):
    box: str

    @linen.compact
    def __call__(self, x):
        init = BOXES[self.box](linen.initializers.lecun_normal(), (None, None, None, "out"))
        return linen.Dense(3)(linen.Conv(4, (3, 3), kernel_init=init, name="conv")(x))


@pytest.mark.parametrize("box", BOXES)
def test_a_box_has_the_path_of_its_array(box):
    params = Boxed(box).init(jax.random.key(0), IMAGES)["params"]
    plain = linen.meta.unbox(params)
    spec = fg.collection(params)
    assert spec == fg.collection(plain)
    assert "conv/kernel" in spec
    projected = fg.project(params, spec)
    assert jax.tree.structure(projected) == jax.tree.structure(params)
    tx, gradient = fg.fgsgd(0.1, spec), jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(gradient, tx.init(projected), projected)
    stepped = linen.meta.unbox(optax.apply_updates(projected, updates))
    assert float(fg.residual(stepped, spec)["conv/kernel"]) < 1e-5


class Stages(linen.Module):
    """Its fields as in Flax's ResNet, whose `stage_sizes` are given as a list."""

    stage_sizes: Sequence[int]
    strides: Sequence[Sequence[int]] = ((1, 1),)

    @linen.compact
    def __call__(self, x):
        for stage, blocks in enumerate(self.stage_sizes):
            for block in range(blocks):
                x = linen.Conv(3, (3, 3), self.strides[0], name=f"conv{stage}_{block}")(x)
        return x


@pytest.mark.parametrize(
    "fields",
    [{"stage_sizes": [1, 2]}, {"stage_sizes": (2,), "strides": [[2, 2]]}, {"stage_sizes": []}],
    ids=str,
)
def test_features_of_a_module_with_lists_among_its_fields_are_measured(fields):
    model = Stages(**fields)
    frozen = {name: tuple(map(_frozen, value)) for name, value in fields.items()}
    variables = {"params": {}} | model.init(jax.random.key(0), IMAGES)
    if not fields["stage_sizes"]:
        with pytest.raises(ValueError, match="kernel"):
            fgsgd_jax.linen.feature_std(model, variables, IMAGES)
        return
    found = fgsgd_jax.linen.feature_std(model, variables, IMAGES)
    expected = fgsgd_jax.linen.feature_std(Stages(**frozen), variables, IMAGES)
    sizes = fgsgd_jax.linen.feature_map_sizes(model, variables, IMAGES)
    assert found.keys() == expected.keys() == sizes.keys()
    for path, std in found.items():
        np.testing.assert_array_equal(std, expected[path])


def _frozen(value):
    return tuple(value) if isinstance(value, list) else value
