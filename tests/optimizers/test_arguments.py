"""Arguments of the optimizers that make no sense are refused in one sentence, defaults are safe."""

import dataclasses
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import checks

SHAPE = (3, 3, 2, 4)
RAW = {"w": jax.random.normal(jax.random.key(0), SHAPE), "bias": jnp.ones(4)}
SPEC = fg.collection(RAW, ("w", fg.pom("PO", fg.Sphere())))
PARAMS = fg.project(RAW, SPEC)
GRADIENT = {"w": jax.random.normal(jax.random.key(1), SHAPE), "bias": jnp.arange(4.0)}
BOTH = pytest.mark.parametrize("optimizer", [fg.fgsgd, fg.rsgd])


def first_update(tx):
    return tx.update(GRADIENT, tx.init(PARAMS), PARAMS)[0]


@BOTH
@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (ValueError, "learning_rate", -0.1),
        (ValueError, "learning_rate", float("nan")),
        (ValueError, "learning_rate", float("inf")),
        (ValueError, "learning_rate", np.float32(-1)),
        (TypeError, "learning_rate", True),
        (TypeError, "learning_rate", "0.1"),
        (TypeError, "learning_rate", None),
        (ValueError, "momentum", 1.5),
        (ValueError, "momentum", 1),
        (ValueError, "momentum", -0.5),
        (ValueError, "momentum", float("nan")),
        (TypeError, "momentum", True),
        (TypeError, "momentum", "0.9"),
        (ValueError, "weight_decay", -1e-4),
        (ValueError, "weight_decay", float("nan")),
        (TypeError, "weight_decay", True),
        (ValueError, "euclidean", "adam"),
        (TypeError, "euclidean", 0.1),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(optimizer, error, name, value):
    arguments = {"learning_rate": 0.1, "spec": SPEC} | {name: value}
    with pytest.raises(error, match=f"{name} must be .*{re.escape(repr(value))}"):
        optimizer(**arguments)


@BOTH
def test_nesterov_without_momentum_is_refused(optimizer):
    with pytest.raises(ValueError, match="nesterov=True needs a momentum"):
        optimizer(0.1, SPEC, nesterov=True)


@BOTH
def test_arguments_of_what_is_left_out_are_refused(optimizer):
    with pytest.raises(ValueError, match=r"accumulator_dtype .*, but momentum is None"):
        optimizer(0.1, SPEC, accumulator_dtype="float32")
    # A sweep over decays may begin at 0.
    optimizer(0.1, SPEC, weight_decay=0.0, weight_decay_mask=SPEC.euclidean_mask)
    with pytest.raises(ValueError, match=r"accumulator_dtype .*, but momentum is None"):
        fg.manifold_muon(0.1, SPEC, momentum=None, nesterov=False, accumulator_dtype="float32")


def test_a_state_of_other_momentum_is_named():
    plain, heavy = fg.fgsgd(0.1, SPEC), fg.fgsgd(0.1, SPEC, momentum=0.9)
    with pytest.raises(ValueError, match="optimizer with momentum, but this one has no momentum"):
        plain.update(GRADIENT, heavy.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="without momentum, but this one has momentum"):
        heavy.update(GRADIENT, plain.init(PARAMS), PARAMS)


@pytest.mark.parametrize("name", ["rho", "curvature"])
@pytest.mark.parametrize(
    "make",
    [lambda **n: fg.fgsgd(0.1, SPEC, **n), lambda **n: fg.scale_by_fgsgd(SPEC, **n)],
    ids=["fgsgd", "link"],
)
@pytest.mark.parametrize(
    ("error", "value"),
    [
        (TypeError, "1"),
        (TypeError, True),
        (TypeError, None),
        (ValueError, float("nan")),
        (ValueError, float("inf")),
    ],
)
def test_rho_and_curvature_are_numbers_schedules_or_marked_functions(name, make, error, value):
    with pytest.raises(error, match=f"{name} must be .*{re.escape(repr(value))}"):
        make(**{name: value})


def test_a_negative_rho_is_refused_and_a_negative_curvature_is_not():
    with pytest.raises(ValueError, match="rho must be a finite number of at least 0"):
        fg.fgsgd(0.1, SPEC, rho=-1.0)
    fg.fgsgd(0.1, SPEC, curvature=-1.0)


def test_a_function_of_the_group_that_is_not_marked_is_named():
    tx = fg.fgsgd(0.1, SPEC, rho=lambda group: group.components)
    with pytest.raises(TypeError, match="per_group"):
        first_update(tx)


# --- weight decay and Euclidean leaves -----------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "decay", [0.1, np.float32(0.1), lambda count: 0.1], ids=["float", "NumPy", "schedule"]
)
def test_decay_beside_a_transformation_of_euclidean_leaves_is_refused(optimizer, decay):
    with pytest.raises(ValueError, match=r"would do nothing beside euclidean=.*optax\.adamw"):
        optimizer(0.1, SPEC, weight_decay=decay, euclidean=optax.adamw(1e-3))
    with pytest.raises(ValueError, match="would do nothing"):
        optax.inject_hyperparams(optimizer)(
            0.1, SPEC, weight_decay=0.1, euclidean=optax.sgd(1e-3)
        ).init(PARAMS)
    optimizer(0.1, SPEC, weight_decay=0.0, euclidean=optax.adamw(1e-3))


@BOTH
def test_decay_of_euclidean_leaves_says_nothing(optimizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        updates = first_update(optimizer(0.1, SPEC, weight_decay=0.5, euclidean="sgd"))
    # SGD with L2 decay: −r·(g + d·w).
    np.testing.assert_allclose(
        updates["bias"], -0.1 * (GRADIENT["bias"] + 0.5 * PARAMS["bias"]), rtol=1e-6
    )


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Own(fg.Sphere):
    """A sphere whose steps are not fused: any subclass has the chain of links."""


@pytest.mark.sweep(fast=4)
@BOTH
@pytest.mark.parametrize("manifold", [fg.Sphere(), Own()], ids=["fused", "links"])
@pytest.mark.parametrize(("euclidean", "share"), [(None, 0.05), ("sgd", 1.0)])
@pytest.mark.parametrize("nesterov", [False, True])
def test_euclidean_leaves_take_a_twentieth_of_the_rate_unless_asked(
    optimizer, manifold, euclidean, share, nesterov
):
    spec = fg.collection(RAW, ("w", fg.pom("PO", manifold)))
    tx = optimizer(0.5, spec, momentum=0.9, nesterov=nesterov, euclidean=euclidean)
    plain = optax.sgd(0.5 * share, momentum=0.9, nesterov=nesterov)
    state, plain_state = tx.init(PARAMS), plain.init(GRADIENT["bias"])
    for _ in range(2):
        updates, state = tx.update(GRADIENT, state, PARAMS)
        expected, plain_state = plain.update(GRADIENT["bias"], plain_state)
        np.testing.assert_allclose(updates["bias"], expected, rtol=1e-6)


MAKERS = {
    "fgsgd": lambda spec: fg.fgsgd(0.1, spec),
    "riemannian_adam": lambda spec: fg.riemannian_adam(0.1, spec),
    "on_manifold": lambda spec: fg.on_manifold(optax.sgd(0.1), spec),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("path", "shape", "reason"),
    [
        ("dense/kernel", (32, 10), "dense by its path"),
        ("layers/conv/kernel", (4, 3, 3, 8, 8), "5 axes"),
        ("conv/weight", (8, 4, 3, 3), "called 'weight'"),
        ("embed/embedding", (100, 8), "embedding by its path"),
    ],
)
def test_an_optimizer_without_any_leaf_on_manifolds_says_so(maker, path, shape, reason):
    params = {path: jnp.ones(shape), "bias": jnp.ones(8)}
    with pytest.warns(UserWarning, match=f"No leaf of this spec.*{path}.*{reason}") as caught:
        MAKERS[maker](fg.collection(params))
    assert [warning.filename for warning in caught] == [__file__]
    # Silent where somebody asked for it.
    MAKERS[maker](fg.collection(params, default=None))
    MAKERS[maker](fg.collection(params, (path, None)))


# --- the order of links, which Optax's chain cannot check ----------------------------------------

TANGENT, RETRACT = fg.project_to_tangent(SPEC), fg.retract_updates(SPEC)
RATE = optax.scale_by_learning_rate(0.1)
CHAINS = {
    "the first step goes downhill": optax.chain(TANGENT, fg.scale_by_fgsgd(SPEC), RETRACT),
    "steps stay on the manifolds": optax.chain(TANGENT, RATE, RETRACT, optax.scale(0.5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("law", CHAINS)
def test_check_optimizer_finds_a_missing_rate_and_a_link_after_the_last(law):
    right = optax.chain(TANGENT, fg.scale_by_fgsgd(SPEC), RATE, RETRACT)
    assert checks.check_optimizer(right, PARAMS, SPEC, steps=3, laws=[law]).passed
    assert not checks.check_optimizer(CHAINS[law], PARAMS, SPEC, steps=3, laws=[law]).passed
