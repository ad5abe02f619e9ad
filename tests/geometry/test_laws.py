"""Every law of a manifold, for every manifold: the checks that users run on their own."""

import jax
import jax.numpy as jnp
import pytest

from fgsgd_jax import Euclidean, Oblique, Product, Sphere, Stiefel, checks

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ALL = (Euclidean(), Sphere(), Oblique(), Stiefel())
# A compilation is seconds each, so cases are picked, not multiplied: one point, lanes, and wide
# points where these are other code.
CASES = [
    (Euclidean(), (4, 3), "float64"),
    (Euclidean(), (3, 3, 5), "float32"),
    (Sphere(), (4, 3), "float64"),
    (Sphere(), (3, 3, 5), "float32"),
    (Oblique(), (2, 5), "float64"),
    (Oblique(), (3, 3, 5), "float32"),
    (Stiefel(), (4, 3), "float64"),
    (Stiefel(), (3, 3, 5), "float32"),
    (Stiefel(), (2, 5), "float64"),
    (Product(Sphere(), Oblique()), ((3, 3, 2), (4, 1, 2)), "float32"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("manifold", "shape", "dtype"), CASES, ids=str)
def test_the_laws_of_a_manifold_hold(manifold, shape, dtype):
    with jax.enable_x64(dtype == "float64"):
        report = checks.check_manifold(manifold, jax.random.key(1), shape=shape, dtype=dtype)
    assert len(report) >= 20
    assert report.passed, f"\n{report.failures}"


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("manifold", [Sphere(), Oblique(), Stiefel()], ids=str)
@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (3, 3)])
def test_random_points_prefer_no_direction(manifold, shape):
    report = checks.check_random(manifold, jax.random.key(0), shape=shape)
    assert report.passed, f"\n{report}"


def test_random_points_with_a_preferred_sign_are_found_out():
    class Positive(type(Stiefel())):  # pyright: ignore[reportGeneralTypeIssues]
        def random(self, key, shape, dtype=jnp.float32):
            x = super().random(key, shape, dtype)
            return x * jnp.sign(jnp.linalg.det(jnp.moveaxis(x, (0, 1), (-2, -1))))

    report = checks.check_random(Positive(), jax.random.key(0), shape=(3, 3))
    assert [law.name for law in report.failures] == [
        "determinants have both signs (standard errors)"
    ]


ORDERS = [
    (Euclidean(), (4, 3), 2),
    (Sphere(), (4, 3), 2),
    (Oblique(), (4, 3), 2),
    (Stiefel(), (4, 3), 2),
    (Stiefel(), (2, 5), 2),
    (Stiefel(retraction="qr"), (4, 3), 1),
    (Stiefel(retraction="cayley"), (4, 3), 1),
    (Stiefel(retraction="cayley"), (3, 3), 2),
    (Product(Sphere(), Stiefel()), (3, 2), 2),
]


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(("manifold", "shape", "order"), ORDERS, ids=str)
def test_retractions_have_the_order_they_claim(manifold, shape, order):
    report = checks.check_retraction(manifold, jax.random.key(2), shape=shape, order=order)
    assert report.passed, f"\n{report}"


@pytest.mark.slow
def test_a_first_order_retraction_is_not_passed_for_one_of_second_order():
    report = checks.check_retraction(Stiefel(retraction="qr"), jax.random.key(2), order=2)
    assert not report.passed


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("retraction", ["polar", "qr", "cayley"])
@pytest.mark.parametrize("shape", [(4, 3, 2), (3, 3, 2), (2, 5, 2), (6, 1, 2), (20, 12)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_step_of_any_length_leaves_the_stiefel_manifold(retraction, shape, dtype):
    stiefel = Stiefel(retraction=retraction)
    keys = jax.random.split(jax.random.key(3))
    with jax.enable_x64(dtype == "float64"):
        x = stiefel.random(keys[0], shape, dtype)
        v = stiefel.to_tangent(x, jax.random.normal(keys[1], shape, dtype))
        retract = jax.jit(lambda length: stiefel.residual(stiefel.retract(x, length * v)))
        # Rounding of p orthonormal columns: a few eps each.
        allowed = 8 * shape[1] * jnp.finfo(dtype).eps
        for length in (0.0, 1e-30, 1e-3, 0.3, 1.0, 20.0, 1e4, 1e15, 1e30):
            assert float(jnp.max(retract(jnp.asarray(length, dtype)))) < allowed, length


@pytest.mark.slow
@pytest.mark.parametrize("manifold", [Sphere(), Oblique(), Stiefel()], ids=str)
def test_gradients_agree_with_the_functions_they_come_from(manifold):
    with jax.enable_x64(True):
        a = jax.random.normal(jax.random.key(4), (4, 4), jnp.float64)
        x = manifold.random(jax.random.key(5), (4, 3), jnp.float64)
        report = checks.check_gradient(
            manifold, lambda x: jnp.sum(jnp.sin(a @ x) ** 2), x, jax.random.key(6)
        )
    assert report.passed, f"\n{report}"


@pytest.mark.slow
def test_a_wrong_manifold_is_found_out():
    """The checks can fail: a retraction that forgets to normalize breaks its laws, no others."""

    class Sloppy(type(Sphere())):  # pyright: ignore[reportGeneralTypeIssues]
        def retract(self, x, v, /):
            return x + v

    report = checks.check_manifold(Sloppy(), jax.random.key(0), shape=(3, 3))
    assert {law.name for law in report.failures} == {
        "retract lands at step length 1",
        "retract lands at step length 1000",
        "retract lands at step length 1e+15",
    }
    assert "FAILS" in str(report)


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize("manifold", ALL, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_random_points_in_short_dtypes_are_on_the_manifold_to_their_resolution(manifold, dtype):
    x = manifold.random(jax.random.key(0), (4, 3, 2), dtype)
    assert x.dtype == dtype
    # Every entry is rounded by half an eps of itself; √3 columns of norm 1, twice in a Gram matrix.
    assert float(jnp.max(manifold.residual(x))) < 2 * 3**0.5 * jnp.finfo(dtype).eps


@pytest.mark.slow
def test_a_nearly_singular_matrix_has_a_nearest_point_on_stiefel():
    """Among a million random 3×3 slices some have a singular value of the size of rounding."""
    keys = jax.random.split(jax.random.key(7))
    left, right = (Stiefel().random(key, (3, 3)) for key in keys)
    nearly = left @ jnp.diag(jnp.array([1.0, 1.0, 1e-7])) @ right
    nearest = Stiefel().project(nearly)
    assert float(Stiefel().residual(nearest)) < 1e-6
    # Its well-determined directions are kept: ⟨nearest, nearly⟩ is the sum of singular values.
    assert float(jnp.sum(nearest * nearly)) == pytest.approx(2.0, abs=1e-5)
