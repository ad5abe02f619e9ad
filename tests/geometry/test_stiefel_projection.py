"""The projection on Stiefel manifolds and its derivatives, and points that have no projection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from conformance_helpers import nearest, tangent

import fgsgd_jax as fg

STIEFEL = fg.Stiefel()
SHAPES = [(4, 3), (3, 3), (2, 5), (1, 4)]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def orthonormal(seed: int, *shape: int) -> np.ndarray:
    return nearest("stiefel", normal(seed, *shape))


def value(w):
    """⟨w, project(y)⟩ as a function of y."""
    return lambda y: jnp.sum(w * STIEFEL.project(y))


# --- derivatives ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_derivative_of_the_projection_at_an_orthonormal_point_is_the_tangent_projection(shape):
    x, w = np.float32(orthonormal(0, *shape)), np.float32(normal(1, *shape))
    slope = jax.grad(value(w))(x)
    np.testing.assert_allclose(slope, tangent("stiefel", x, w), atol=2e-6)


def test_the_derivative_holds_in_every_lane_of_a_batch():
    x = np.stack([orthonormal(seed, 3, 2) for seed in range(4)])
    w = normal(5, 4, 3, 2)
    slope = jax.jit(jax.grad(value(np.float32(np.moveaxis(w, 0, -1)))))(
        np.float32(np.moveaxis(x, 0, -1))
    )
    np.testing.assert_allclose(np.moveaxis(slope, -1, 0), tangent("stiefel", x, w), atol=2e-6)


@pytest.mark.slow
def test_the_derivative_passes_through_the_projection_of_parameters():
    x = np.stack([orthonormal(seed, 3, 3) for seed in range(4)])
    w = normal(5, 4, 3, 3)
    kernel, weights = (np.float32(np.moveaxis(a, 0, -1).reshape(3, 3, 2, 2)) for a in (x, w))
    spec = fg.collection({"w": kernel}, ("w", fg.pom("PO", STIEFEL)))
    slope = jax.grad(lambda kernel: jnp.sum(weights * fg.project({"w": kernel}, spec)["w"]))(kernel)
    found = np.moveaxis(np.reshape(slope, (3, 3, 4)), -1, 0)
    np.testing.assert_allclose(found, tangent("stiefel", x, w), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 3), (2, 3)])
def test_first_and_second_derivatives_agree_with_finite_differences(shape):
    with jax.enable_x64(True):
        # Near an orthonormal point and at one, where all singular values are equal.
        for x in (orthonormal(0, *shape) + 0.3 * normal(1, *shape), orthonormal(0, *shape)):
            w, d, h = normal(2, *shape), normal(3, *shape), 1e-5

            def numeric(y, w=w):
                return np.sum(w * nearest("stiefel", y))

            gradient = jax.grad(value(w))
            first, second = jax.jit(lambda x, d=d, g=gradient: jax.jvp(g, (x,), (d,)))(x)
            slope = (numeric(x + h * d) - numeric(x - h * d)) / (2 * h)
            h = 1e-4
            bend = (numeric(x + h * d) - 2 * numeric(x) + numeric(x - h * d)) / h**2
            np.testing.assert_allclose(np.sum(first * d), slope, rtol=1e-7)
            np.testing.assert_allclose(np.sum(second * d), bend, rtol=1e-4, atol=1e-5)


# --- matrices without a nearest point ------------------------------------------------------------

DEFICIENT = {
    "3×3 of ones": np.ones((3, 3)),
    "3×3 of rank 2": np.arange(9.0).reshape(3, 3),
    "64×32 of rank 1": np.outer(np.arange(1.0, 65), np.arange(1.0, 33)),
    "wide, of rank 1": np.outer([1.0, 2.0], np.arange(1.0, 6)),
    "5×3 with a zero column": np.eye(5, 3) * [1, 1, 0],
    "5×4 with two equal columns": normal(0, 5, 4)[:, [0, 1, 2, 2]],
}


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize("name", DEFICIENT)
def test_a_rank_deficient_matrix_is_refused(name):
    with pytest.raises(ValueError, match=r"Stiefel\(\) .* rank-deficient component"):
        STIEFEL.project(np.float32(DEFICIENT[name]))


@pytest.mark.parametrize("name", [name for name in DEFICIENT if name != "3×3 of rank 2"])
def test_a_rank_deficient_matrix_becomes_nan_inside_a_jitted_function(name):
    # A square matrix that lacks one rank has two nearest points, and gets one of them.
    assert np.all(np.isnan(jax.jit(STIEFEL.project)(np.float32(DEFICIENT[name]))))


@pytest.mark.slow
def test_random_square_matrices_are_not_refused():
    x = np.float32(normal(0, 3, 3, 20_000))
    values = np.linalg.svd(np.moveaxis(x, -1, 0), compute_uv=False)
    assert np.min(values[:, -1] / values[:, 0]) < 1e-4
    assert np.max(STIEFEL.residual(STIEFEL.project(x))) < 1e-6


@pytest.mark.sweep(fast=4)
@pytest.mark.parametrize("manifold", [fg.Sphere(), fg.Oblique(), STIEFEL, fg.Euclidean()], ids=str)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_with_path_place_and_what_to_do(manifold, wrong):
    kernel = np.float32(normal(0, 3, 3, 2, 4))
    kernel[1, 2, 0, 3] = wrong
    params = {"conv": {"kernel": kernel}}
    spec = fg.collection(params, ("*", fg.pom("PO", manifold)))
    if manifold == fg.Euclidean():
        if np.isnan(wrong):
            where = r"NaN or infinite entries, 1 of 72, the first at \(1, 2, 0, 3\)"
            with pytest.raises(ValueError, match=rf"'conv/kernel' has {where}.*checkpoint") as told:
                fg.project(params, spec)
            assert "at random" not in str(told.value)
        return
    where = r"NaN or infinite.*\[0, 3\].*restore a checkpoint"
    with pytest.raises(ValueError, match=rf"(?s)'conv/kernel'.*{where}") as told:
        fg.project(params, spec)
    assert "at random" not in str(told.value)  # which is the advice for a weight of zeros
    inside = jax.jit(lambda params: fg.project(params, spec))(params)["conv"]["kernel"]
    assert np.isnan(inside[1, 2, 0, 3])
    assert np.all(np.isfinite(np.asarray(inside)[:, :, 1]))


@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (3, 3, 2), (2, 4)], ids=str)
def test_no_decomposition_is_given_what_is_not_finite(shape, monkeypatch):
    svd = jnp.linalg.svd

    def of_finite_matrices(x, **options):  # LAPACK may not return from others
        assert isinstance(x, jax.core.Tracer) or np.all(np.isfinite(x))
        return svd(x, **options)

    monkeypatch.setattr(jnp.linalg, "svd", of_finite_matrices)
    weight = np.float32(normal(0, *shape))
    weight[(0,) * len(shape)] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite entries"):
        STIEFEL.project(weight)
    inside = np.asarray(jax.jit(STIEFEL.project)(weight))
    assert np.all(np.isnan(inside[..., 0] if len(shape) > 2 else inside))
    if len(shape) > 2:  # the others have a projection
        found = np.moveaxis(inside[..., 1:], -1, 0)
        expected = nearest("stiefel", np.moveaxis(weight[..., 1:], -1, 0))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("manifold", "named"),
    [
        (fg.Sphere(), r"zero component.* 1 of 8.*component \[1, 2\]"),
        (fg.Oblique(), r"zero column.* 3 of 24.*column 0 of component \[1, 2\]"),
        (STIEFEL, r"rank-deficient component.* 1 of 8.*component \[1, 2\]"),
    ],
)
def test_the_component_without_a_nearest_point_is_named(manifold, named):
    kernel = np.float32(normal(0, 3, 3, 2, 4))
    kernel[:, :, 1, 2] = 0
    spec = fg.collection({"w": kernel}, ("w", fg.pom("PO", manifold)))
    with pytest.raises(ValueError, match=f"(?s)'w': .*{named}"):
        fg.project({"w": kernel}, spec)


# --- retractions from where they are not meant to start ------------------------------------------


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize("retraction", ["polar", "qr", "cayley"])
@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (2, 5)])
def test_a_step_to_a_rank_deficient_matrix_is_nan(retraction, shape):
    x = np.float32(orthonormal(0, *shape))
    deficient = np.outer(np.arange(1.0, 1 + shape[0]), np.arange(1.0, 1 + shape[1]))
    for end in (np.zeros(shape), deficient):
        if shape == (3, 3) and retraction == "polar":
            continue  # by its closed form: see below
        moved = fg.Stiefel(retraction).retract(x, np.float32(end) - x)
        assert np.all(np.isnan(moved)), end


@pytest.mark.sweep(fast=3)
@pytest.mark.parametrize("retraction", ["polar", "qr", "cayley"])
@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (2, 5)])
def test_a_step_from_any_matrix_of_full_rank_ends_on_the_manifold_or_is_nan(retraction, shape):
    stiefel = fg.Stiefel(retraction)
    for scale in (0.2, 0.99, 1.01, 2.0, 30.0):
        x = orthonormal(0, *shape)
        v = 0.1 * tangent("stiefel", x, normal(1, *shape))
        moved = np.asarray(stiefel.retract(np.float32(scale * x), np.float32(v)))
        # A Newton-Schulz step leaves ¾·0.02² of the error of 0.99 and 1.01.
        allowed = 1e-3 if abs(scale - 1) < 0.1 else 1e-5
        gram = moved.T @ moved if shape[0] >= shape[1] else moved @ moved.T
        finite = np.isfinite(moved)
        assert np.linalg.norm(gram - np.eye(min(shape))) < allowed or not finite.any(), scale
        assert finite.all() or abs(scale - 1) > 0.1, scale


# --- geodesics -----------------------------------------------------------------------------------


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize("shape", [(5, 3), (3, 3), (2, 4)])
def test_a_long_geodesic_ends_at_the_right_point_or_is_nan(shape):
    wide = shape[0] < shape[1]
    tall = shape[::-1] if wide else shape
    x, g = np.float32(orthonormal(0, *tall)).astype(float), normal(1, *tall)
    direction = tangent("stiefel", x, g) / np.linalg.norm(tangent("stiefel", x, g))
    exp = jax.jit(STIEFEL.exp)
    for length in (1e2, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e6):
        v = np.float32(length * direction).astype(float)
        a = (x.T @ v - v.T @ x) / 2
        expected = scipy.linalg.expm(v @ x.T - x @ v.T) @ x @ scipy.linalg.expm(-a)
        found = exp(*(np.float32(m.T if wide else m) for m in (x, v)))
        if np.all(np.isnan(found)):
            assert length > (1e4 if tall == (3, 3) else 1e3)
        else:
            np.testing.assert_allclose(found, expected.T if wide else expected, atol=1e-2)
            assert length < 1e5
