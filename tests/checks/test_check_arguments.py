"""What checks say about manifolds that are not manifolds, and optimizers that need arguments."""

import jax
import jax.numpy as jnp
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import checks

KEY = jax.random.key(0)
CHECKS = {
    "check_manifold": checks.check_manifold,
    "check_retraction": checks.check_retraction,
    "check_random": checks.check_random,
    "check_gradient": lambda manifold, key: checks.check_gradient(
        manifold, jnp.sum, jnp.ones((3, 1)), key
    ),
}


@pytest.mark.parametrize("check", CHECKS)
def test_a_class_in_place_of_a_manifold_is_answered_with_an_instance(check):
    with pytest.raises(TypeError, match=r"class Sphere\. Make an instance of it: Sphere\(\)"):
        CHECKS[check](fg.Sphere, KEY)
    with pytest.raises(TypeError, match=r"'sphere'.*derives from fgsgd_jax\.Manifold"):
        CHECKS[check]("sphere", KEY)


class Plane(fg.Manifold):
    """All matrices, with verbs that subclasses get wrong."""

    fixes_norm = False

    def project(self, x, /):
        return x

    def to_tangent(self, x, g, /):
        return g

    def retract(self, x, v, /):
        return x + v

    def dimension(self, shape):
        return shape[0] * shape[1]


WRONG = {
    "project": lambda self, x: x[0],
    "to_tangent": lambda self, x, g: jnp.sum(g, axis=1, keepdims=True),
    "retract": lambda self, x, v: (x + v)[..., None],
    "inner": lambda self, x, u, v: jnp.sum(u * v),
    "norm": lambda self, x, v: jnp.sqrt(jnp.sum(v * v, axis=0)),
    "residual": lambda self, x: jnp.zeros((1, *x.shape[2:])),
    "random": lambda self, key, shape, dtype=jnp.float32: jnp.ones(shape[:2], dtype),
}


@pytest.mark.parametrize("verb", WRONG)
def test_a_verb_that_returns_a_wrong_shape_is_named(verb):
    manifold = type("Wrong", (Plane,), {verb: WRONG[verb]})()
    with pytest.raises(ValueError, match=rf"`{verb}` of .*Wrong.* returns shape .*\(\*lanes\)"):
        checks.check_manifold(manifold, KEY, shape=(3, 2, 2))


@pytest.mark.slow
def test_an_inner_product_of_its_own_without_a_representer_is_found():
    class Stretched(Plane):
        def inner(self, x, u, v, /):
            return 4 * jnp.sum(u * v, axis=(0, 1))

    class Right(Stretched):
        def representer(self, x, g, /):
            return g / 4

    law = "representer represents gradients"
    assert not checks.check_manifold(Stretched(), KEY, laws=law).passed
    assert checks.check_manifold(Right(), KEY, laws=law).passed
    assert checks.check_manifold(fg.Product(fg.Sphere(), fg.Stiefel()), KEY, laws=law).passed


NEED_VALUE = {
    "reduce_on_plateau": optax.contrib.reduce_on_plateau,
    "scale_by_polyak": optax.scale_by_polyak,
}


@pytest.mark.parametrize("name", NEED_VALUE)
def test_arguments_that_an_optimizer_needs_are_asked_for_and_passed_on(name):
    params = {"w": jnp.ones((3, 3, 1, 2)) / 3}
    spec = fg.collection(params, ("w", fg.pom("PO", fg.Sphere())))
    tx = optax.chain(fg.fgsgd(0.1, spec), NEED_VALUE[name]())
    law = "updates have the structure and dtypes of the parameters"
    with pytest.raises(TypeError, match=r"'value'.*`extra_args`"):
        checks.check_optimizer(tx, params, spec, steps=1, laws=law)
    extra = {"value": jnp.ones(())}
    assert checks.check_optimizer(tx, params, spec, steps=1, laws=law, extra_args=extra).passed
