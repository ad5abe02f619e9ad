"""Numbers that `optax.inject_hyperparams` makes arrays of, and dtypes of momentum, are checked."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg

RAW = {"w": jax.random.normal(jax.random.key(0), (3, 3, 2, 4)), "bias": jnp.ones(4)}
SPEC = fg.collection(RAW, ("w", fg.pom("PO", fg.Sphere())))
PARAMS = fg.project(RAW, SPEC)
GRADIENT = {"w": jax.random.normal(jax.random.key(1), (3, 3, 2, 4)), "bias": jnp.arange(4.0)}

WRONG = {
    "fgsgd": (fg.fgsgd, {"momentum": 1.5}),
    "rsgd": (fg.rsgd, {"momentum": -0.5}),
    "rsgd, NaN": (fg.rsgd, {"momentum": float("nan")}),
    "muon": (fg.manifold_muon, {"momentum": 1.0}),
    "b1": (fg.riemannian_adam, {"b1": 1.5}),
    "b2": (fg.riemannian_adam, {"b2": 1.0}),
    "eps": (fg.riemannian_adam, {"eps": -1.0}),
    "decay": (fg.fgsgd, {"weight_decay": -0.5}),
    "rho": (fg.fgsgd, {"rho": -0.5}),
    "curvature": (fg.fgsgd, {"curvature": float("inf")}),
    "rate": (fg.fgsgd, {"learning_rate": float("nan")}),
    "negative rate": (fg.fgsgd, {"learning_rate": -0.1}),
    "Adam's rate": (fg.riemannian_adam, {"learning_rate": -0.1}),
    "Muon's rate": (fg.manifold_muon, {"learning_rate": -0.1}),
    "infinite rate": (fg.rsgd, {"learning_rate": -float("inf")}),
}


def injected(make, **numbers):
    return optax.inject_hyperparams(make)(**{"learning_rate": 0.1, "spec": SPEC} | numbers)


@pytest.mark.parametrize("name", WRONG)
def test_an_injected_number_that_makes_no_sense_is_refused_where_its_value_is_known(name):
    make, numbers = WRONG[name]
    ((argument, value),) = numbers.items()
    message = rf"{argument} must be .* got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=message):
        injected(make, **numbers).init(PARAMS)
    sensible = {"rho": 1.0, "curvature": 1.0}.get(argument, 0.1)
    tx = injected(make, **{argument: sensible})
    state = optax.tree.set(tx.init(PARAMS), **{argument: jnp.asarray(value)})
    with pytest.raises(ValueError, match=message):
        tx.update(GRADIENT, state, PARAMS)
    jax.eval_shape(tx.update, GRADIENT, state, PARAMS)  # unknown when traced


def test_a_relative_step_that_is_set_to_a_negative_number_is_refused():
    tx = optax.inject_hyperparams(fg.on_manifold)(optax.sgd(1.0), SPEC, relative_step=0.1)
    state = optax.tree.set(tx.init(PARAMS), relative_step=jnp.asarray(-0.1))
    with pytest.raises(ValueError, match=r"relative_step must be .* got -0\.1"):
        tx.update(GRADIENT, state, PARAMS)


def test_a_decay_that_a_short_dtype_rounds_to_one_is_refused_with_what_to_do():
    short = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    gradient = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), GRADIENT)
    with pytest.raises(ValueError, match=r"b2 must be .*hyperparam_dtype=jnp\.float32"):
        injected(fg.riemannian_adam).init(short)  # 0.999 is 1 in bfloat16
    tx = optax.inject_hyperparams(fg.riemannian_adam, hyperparam_dtype=jnp.float32)(0.1, SPEC)
    updates, _ = tx.update(gradient, tx.init(short), short)
    assert np.isfinite(updates["w"].astype(jnp.float32)).all()


def network(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


MOMENTUM = {
    "fgsgd": lambda **more: fg.fgsgd(0.1, SPEC, **more),
    "rsgd": lambda **more: fg.rsgd(0.1, SPEC, **more),
    "manifold_muon": lambda **more: fg.manifold_muon(0.1, SPEC, **more),
    "link": lambda momentum=0.9, **more: fg.trace_on_manifold(SPEC, momentum, **more),
    "path_sgd": lambda **more: fg.path_sgd(0.1, network, (3,), **more),
}


@pytest.mark.parametrize("name", MOMENTUM)
@pytest.mark.parametrize("dtype", ["int32", int, bool, complex, "float99", 3, jnp.int8])
def test_momentum_has_a_floating_point_dtype(name, dtype):
    for more in ({}, {"momentum": 0.9}):
        with pytest.raises(TypeError, match="accumulator_dtype must be a floating-point dtype"):
            MOMENTUM[name](accumulator_dtype=dtype, **more)


def test_a_dtype_that_optax_takes_for_a_schedule_is_answered_with_its_name():
    tx = injected(fg.fgsgd, momentum=0.9, accumulator_dtype=jnp.float32)
    with pytest.raises(TypeError, match=r'accumulator_dtype .* Write its name, "float32"'):
        tx.init(PARAMS)


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (ValueError, "learning_rate", -0.1),
        (TypeError, "learning_rate", "0.1"),
        (ValueError, "momentum", 1.5),
        (TypeError, "momentum", True),
        (ValueError, "weight_decay", -1.0),
    ],
)
def test_path_sgd_refuses_numbers_that_make_no_sense(error, name, value):
    arguments = {"learning_rate": 0.1, "apply_fn": network, "input_shape": (3,)} | {name: value}
    with pytest.raises(error, match=f"{name} must be .*{re.escape(repr(value))}"):
        fg.path_sgd(**arguments)
