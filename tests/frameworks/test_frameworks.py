"""One trajectory, whatever framework holds the weights; checkpoints and restarts in its middle."""

import collections
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from conformance_helpers import assert_trees_equal, digests_of_draws, random_like
from flax import nnx
from flax.training.train_state import TrainState

import fgsgd_jax as fg

MIXTURE = (fg.Sphere(), fg.Oblique(), fg.Stiefel())
RULES = (
    ("conv1/kernel", fg.pom("PO", fg.Sphere())),
    ("conv2/kernel", fg.pom("PIO", MIXTURE, groups=3)),
    ("head/kernel", fg.pom("layer", fg.Stiefel(), component="matrix")),
)
STEPS = 5
IMAGES = np.random.default_rng(0).standard_normal((4, 6, 6, 2)).astype(np.float32)
LABELS = np.array([0, 1, 2, 1])


# --- one network in four frameworks, with the same names ------------------------------------------


def conv(x, kernel, bias):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", None, None, dimensions) + bias


def forward(conv1, conv2, head, x):
    """The network, given its three layers as functions."""
    x = jax.nn.relu(conv1(x))
    x = jax.nn.relu(conv2(x))
    return head(x.mean((1, 2)))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(4, 6, (3, 3), rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return forward(self.conv1, self.conv2, self.head, x)


class LinenNet(linen.Module):
    def setup(self):
        self.conv1 = linen.Conv(4, (3, 3))
        self.conv2 = linen.Conv(6, (3, 3))
        self.head = linen.Dense(3)

    def __call__(self, x):
        return forward(self.conv1, self.conv2, self.head, x)


class EqxConv(eqx.Module):
    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return conv(x, self.kernel, self.bias)


class EqxLinear(eqx.Module):
    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.kernel + self.bias


class EqxNet(eqx.Module):
    conv1: EqxConv
    conv2: EqxConv
    head: EqxLinear

    def __call__(self, x):
        return forward(self.conv1, self.conv2, self.head, x)


def dict_apply(params, x):
    return forward(
        lambda x: conv(x, **params["conv1"]),
        lambda x: conv(x, **params["conv2"]),
        lambda x: x @ params["head"]["kernel"] + params["head"]["bias"],
        x,
    )


@functools.cache
def start():
    """The weights as plain dictionaries, on their manifolds, and their spec."""
    shapes = {"conv1": (3, 3, 2, 4), "conv2": (3, 3, 4, 6), "head": (6, 3)}
    params = {
        name: {"kernel": jnp.ones(shape), "bias": jnp.ones(shape[-1:])}
        for name, shape in shapes.items()
    }
    spec = fg.collection(params, *RULES, default=None)
    return fg.project(random_like(params, seed=1), spec), spec


def optimizer(spec):
    return fg.fgsgd(0.5, spec, momentum=0.9)


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def by_path(tree) -> dict[str, np.ndarray]:
    """The leaves of a tree of any framework by path, in the order of the alphabet."""
    leaves = {
        jax.tree_util.keystr(keys, simple=True, separator="/").removesuffix("/value"): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return {path: np.asarray(leaves[path]) for path in sorted(leaves)}


def in_plain_dicts():
    params, spec = start()
    tx = optimizer(spec)
    gradient = jax.jit(jax.grad(lambda params: loss_of(dict_apply(params, IMAGES))))
    state = tx.init(params)
    for _ in range(STEPS):
        updates, state = tx.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def nnx_model():
    params, _ = start()
    model = NnxNet(nnx.Rngs(0))
    nnx.update(model, params)
    return model


nnx_gradient = nnx.jit(nnx.grad(lambda model: loss_of(model(IMAGES))))


def in_nnx_optimizer():
    model = nnx_model()
    spec = fg.collection(nnx.state(model, nnx.Param), *RULES, default=None)
    trainer = nnx.Optimizer(model, optimizer(spec), wrt=nnx.Param)
    for _ in range(STEPS):
        trainer.update(model, nnx_gradient(model))
    return nnx.state(model, nnx.Param)


def in_nnx_by_hand():
    model = nnx_model()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    spec = fg.collection(params, *RULES, default=None)
    tx = optimizer(spec)
    state = tx.init(params)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda params: loss_of(nnx.merge(graph, params, rest)(IMAGES)))(params)

    for _ in range(STEPS):
        updates, state = tx.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def in_linen_train_state():
    params, _ = start()
    model = LinenNet()
    assert jax.tree.structure(model.init(jax.random.key(0), IMAGES)["params"]) == (
        jax.tree.structure(params)
    )
    spec = fg.collection(params, *RULES, default=None)
    trainer = TrainState.create(apply_fn=model.apply, params=params, tx=optimizer(spec))
    gradient = jax.jit(jax.grad(lambda params: loss_of(model.apply({"params": params}, IMAGES))))
    for _ in range(STEPS):
        trainer = trainer.apply_gradients(grads=gradient(trainer.params))
    return trainer.params


def in_linen_by_hand():
    params, _ = start()
    model = LinenNet()
    variables = {"params": params}
    spec = fg.collection(variables, *((f"params/{glob}", pom) for glob, pom in RULES), default=None)
    tx = optimizer(spec)
    gradient = jax.jit(jax.grad(lambda variables: loss_of(model.apply(variables, IMAGES))))
    state = tx.init(variables)
    for _ in range(STEPS):
        updates, state = tx.update(gradient(variables), state, variables)
        variables = optax.apply_updates(variables, updates)
    return variables["params"]


def in_equinox():
    params, _ = start()
    model = EqxNet(
        conv1=EqxConv(**params["conv1"]),
        conv2=EqxConv(**params["conv2"]),
        head=EqxLinear(**params["head"]),
    )
    spec = fg.collection(model, *RULES, default=None)
    tx = optimizer(spec)
    state = tx.init(eqx.filter(model, eqx.is_array))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda model: loss_of(model(IMAGES))))
    for _ in range(STEPS):
        updates, state = tx.update(gradient(model), state, eqx.filter(model, eqx.is_array))
        model = eqx.apply_updates(model, updates)
    return model


@functools.cache
def plain_trajectory():
    return by_path(in_plain_dicts())


FRAMEWORKS = {
    "nnx.Optimizer": in_nnx_optimizer,
    "nnx by hand": in_nnx_by_hand,
    "linen TrainState": in_linen_train_state,
    "linen by hand": in_linen_by_hand,
    "equinox": in_equinox,
}


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_follows_the_same_trajectory_bit_for_bit(framework):
    ours, plain = by_path(FRAMEWORKS[framework]()), plain_trajectory()
    assert list(ours) == list(plain)
    before = by_path(start()[0])
    for path, weight in plain.items():
        assert (np.abs(weight - before[path]) > 1e-3).any(), f"{path} did not move"
        np.testing.assert_array_equal(ours[path], weight, err_msg=path)


@pytest.mark.slow
def test_a_training_step_compiled_by_nnx_follows_it_to_rounding():
    model = nnx_model()
    spec = fg.collection(nnx.state(model, nnx.Param), *RULES, default=None)
    trainer = nnx.Optimizer(model, optimizer(spec), wrt=nnx.Param)

    @nnx.jit
    def step(model, trainer):
        trainer.update(model, nnx.grad(lambda model: loss_of(model(IMAGES)))(model))

    for _ in range(STEPS):
        step(model, trainer)
    ours = by_path(nnx.state(model, nnx.Param))
    for path, weight in plain_trajectory().items():
        # Compiled as one program, every step rounds its own way: some 6e-8 each, at size 1.
        np.testing.assert_allclose(ours[path], weight, rtol=0, atol=2e-6, err_msg=path)


# --- the two spellings of a path in NNX -----------------------------------------------------------


class Attention(nnx.Module):
    """Attention, whose module `value` has a kernel, beside a parameter that is called `value`."""

    def __init__(self, rngs):
        self.mha = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.gate = nnx.Dict(value=nnx.Param(jnp.ones((3, 3))))


HEADS = fg.Component(rows=(0,), columns=(2,), stack=(1,))
ATTENTION_RULES = (
    ("mha/value/kernel", fg.pom("layer", fg.Stiefel(), component=HEADS)),
    ("gate/value", fg.pom("layer", fg.Sphere(), component="matrix")),
)


@pytest.mark.slow
def test_both_spellings_of_a_path_name_one_leaf():
    state = nnx.state(Attention(nnx.Rngs(0)), nnx.Param)
    pure = nnx.as_pure(state)
    last_keys = [
        {str(keys[-1]) for keys, _ in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (state, pure)
    ]
    assert last_keys == [{".value"}, {"['kernel']", "['bias']", "['value']"}]  # or there is no test

    spec = fg.collection(state, *ATTENTION_RULES, default=None)
    assert spec == fg.collection(pure, *ATTENTION_RULES, default=None)
    assert [path for path, _ in spec.on_manifolds()] == ["gate/value", "mha/value/kernel"]
    assert len(spec.layers) == 9  # kernel and bias of four projections, and the gate

    state, pure = fg.project(state, spec), fg.project(pure, spec)
    tx, gradients = optimizer(spec), random_like(pure, seed=2)
    updates, _ = tx.update(gradients, tx.init(state), pure)  # as nnx.Optimizer does
    expected, _ = tx.update(gradients, tx.init(pure), pure)
    assert_trees_equal(updates, expected)


def test_a_module_called_value_is_not_taken_for_its_siblings():
    state = nnx.as_pure(nnx.state(Attention(nnx.Rngs(0)), nnx.Param))
    spec = fg.collection(state, *ATTENTION_RULES, default=None)
    state = fg.project(state, spec)
    tx, gradients = fg.rsgd(0.5, spec, euclidean="sgd"), random_like(state, seed=2)
    updates, _ = tx.update(gradients, tx.init(state), state)
    for name in ("query", "key", "out"):  # Euclidean: exactly −r·g, r a power of 2
        np.testing.assert_array_equal(
            updates["mha"][name]["kernel"], -0.5 * gradients["mha"][name]["kernel"], err_msg=name
        )
    after = optax.apply_updates(state, updates)
    # 1e-6 is ten times what float32 leaves of xᵀx = 1 and ‖x‖ = 1 for these few numbers.
    for head in range(2):
        x = np.float64(after["mha"]["value"]["kernel"][:, head])
        np.testing.assert_allclose(x.T @ x, np.eye(3), rtol=0, atol=1e-6)
    assert abs(np.linalg.norm(np.float64(after["gate"]["value"])) - 1) < 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Gate:
    value: jax.Array


@pytest.mark.parametrize(
    "gate", [Gate, collections.namedtuple("GateTuple", "value")], ids=["dataclass", "namedtuple"]
)
def test_a_field_called_value_keeps_its_name(gate):
    params = {"gate": gate(jnp.ones((3, 3)))}
    spec = fg.collection(params, ("gate/value", fg.pom("layer", fg.Sphere(), component="matrix")))
    assert [path for path, _ in spec.on_manifolds()] == ["gate/value"]


def test_two_leaves_with_one_path_are_refused():
    params = {"a/b": jnp.ones((3, 3, 2, 2)), "a": {"b": jnp.ones((3, 3, 2, 4))}}
    with pytest.raises(ValueError, match="a/b"):
        fg.collection(params)


# --- checkpoints and restarts ---------------------------------------------------------------------


def run(params, state, update, steps):
    for step in steps:
        updates, state = update(random_like(params, seed=step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [0.5, fg.robbins_monro(0.5, 10)], ids=["rate", "schedule"])
def test_training_continues_bit_for_bit_from_a_checkpoint(tmp_path, schedule):
    params, spec = start()
    tx = fg.fgsgd(schedule, spec, momentum=0.9)
    halfway = run(params, tx.init(params), jax.jit(tx.update), range(3))
    with ocp.StandardCheckpointer() as saver:
        saver.save(tmp_path / "step", halfway)
    expected = run(*halfway, jax.jit(tx.update), range(3, 6))

    # All anew, as after a restart: from shapes alone, but for what the checkpoint holds.
    shapes = jax.eval_shape(lambda tree: tree, params)
    spec = fg.collection(shapes, *RULES, default=None)
    tx = fg.fgsgd(schedule, spec, momentum=0.9)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        (shapes, tx.init(shapes)),
    )
    with ocp.StandardCheckpointer() as loader:
        restored = loader.restore(tmp_path / "step", target)
    assert_trees_equal(restored, halfway)
    assert_trees_equal(run(*restored, jax.jit(tx.update), range(3, 6)), expected)


@pytest.mark.slow
def test_draws_are_the_same_after_a_restart_with_other_hashes():
    # Python's own hashes differ between processes; a draw that used one would not survive.
    here = digests_of_draws(seed=3)
    assert len(here) == 4
    there = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json, conformance_helpers as helpers;"
            "print(json.dumps(helpers.digests_of_draws(seed=3)))",
        ],
        cwd=pathlib.Path(__file__).parents[1],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert there.returncode == 0, there.stderr[-3000:]
    assert json.loads(there.stdout) == here
    other = digests_of_draws(seed=4)
    assert all(other[leaf] != digest for leaf, digest in here.items())
