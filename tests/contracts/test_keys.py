"""What takes a key of a random generator says so in one sentence if it gets something else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg
from fgsgd_jax import checks

PARAMS = {"w": jnp.eye(4, 2), "out": jnp.ones((2, 1))}
LAW = "project keeps points"
SPEC = fg.collection(PARAMS, ("w", fg.pom("layer", fg.Stiefel())), default=None)
POINT = jnp.eye(3, 1)
TX = fg.rsgd(0.1, SPEC)
TAKE_A_KEY = {
    "initialize": lambda key: fg.initialize(key, PARAMS, SPEC),
    "unbalance": lambda key: fg.unbalance(key, PARAMS, draws=1),
    "Sphere": lambda key: fg.Sphere().random(key, (3, 1)),
    "Stiefel": lambda key: fg.Stiefel().random(key, (3, 2)),
    "Euclidean": lambda key: fg.Euclidean().random(key, (3, 2)),
    "Product": lambda key: fg.Product(fg.Sphere(), fg.Stiefel()).random(key, (3, 2)),
    "check_manifold": lambda key: checks.check_manifold(
        fg.Sphere(), key, laws="project keeps points"
    ),
    "check_retraction": lambda key: checks.check_retraction(fg.Sphere(), key),
    "check_random": lambda key: checks.check_random(fg.Sphere(), key, draws=10),
    "check_gradient": lambda key: checks.check_gradient(fg.Sphere(), jnp.sum, POINT, key),
    "check_optimizer": lambda key: checks.check_optimizer(
        fg.rsgd(0.1, SPEC), PARAMS, SPEC, key=key
    ),
}
NO_KEYS = {
    "a seed": (7, "got 7"),
    "text": ("seed", "got 'seed'"),
    "a truth": (True, "got True"),
    "floats": (jnp.ones(2), r"got an array of shape \(2,\)"),
    "parameters": (PARAMS, "got {'w': Array"),
    "several": (jax.random.split(jax.random.key(0), 3), r"got keys of shape \(3,\)"),
    "several older": (jax.random.split(jax.random.PRNGKey(0), 3), r"array of shape \(3, 2\)"),
}


@pytest.mark.parametrize("kind", NO_KEYS)
@pytest.mark.parametrize("use", TAKE_A_KEY)
def test_something_else_in_the_place_of_a_key_is_told(use, kind):
    key, said = NO_KEYS[kind]
    with pytest.raises(TypeError, match=rf"`key` must be one key, such as .*{said}"):
        TAKE_A_KEY[use](key)


@pytest.mark.parametrize("use", ["initialize", "Stiefel", "unbalance"])
def test_keys_of_both_kinds_are_taken_also_as_arguments_of_jitted_functions(use):
    older = jax.random.PRNGKey(3)
    drawn = [
        draw(key)
        for key in (jax.random.key(3), older, np.asarray(older))
        for draw in (TAKE_A_KEY[use], jax.jit(TAKE_A_KEY[use]))
    ]
    for other in drawn[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), drawn[0], other)
