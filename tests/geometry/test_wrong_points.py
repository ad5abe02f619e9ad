"""What is no point of a manifold, or no vector at it, is told by every verb in one sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fgsgd_jax as fg

MANIFOLDS = (fg.Sphere(), fg.Oblique(), fg.Stiefel(), fg.Euclidean())
KEY = jax.random.key(0)
OF_A_POINT = ("project", "residual")
OF_A_PAIR = ("to_tangent", "retract", "exp", "log", "dist")

NO_POINTS = {
    "text": ("text", r"\(rows, columns, \*lanes\), but was given 'text'"),
    "None": (None, "but was given None"),
    "a number": (0.5, r"but was given 0\.5"),
    "lists": ([[1.0], [0.0]], r"but was given \[\[1\.0\], \[0\.0\]\]"),
    "complex": (jnp.ones((2, 1), jnp.complex64), "real numbers, but was given dtype complex64"),
    "truth values": (jnp.ones((2, 1), bool), "real numbers, but was given dtype bool"),
    "float8": (jnp.ones((2, 1), jnp.float8_e4m3fn), "but was given dtype float8_e4m3fn"),
}


@pytest.mark.parametrize("kind", NO_POINTS)
@pytest.mark.parametrize("verb", [*OF_A_POINT, *OF_A_PAIR])
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_something_else_than_a_point_is_told(manifold, verb, kind):
    wrong, said = NO_POINTS[kind]
    others = (jnp.ones((2, 1)),) if verb in OF_A_PAIR else ()
    with pytest.raises(TypeError, match=said):
        getattr(manifold, verb)(wrong, *others)


@pytest.mark.parametrize("kind", NO_POINTS)
@pytest.mark.parametrize("verb", OF_A_PAIR)
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_something_else_than_a_vector_at_a_point_is_told(manifold, verb, kind):
    wrong, said = NO_POINTS[kind]
    with pytest.raises(TypeError, match=said):
        getattr(manifold, verb)(jnp.eye(2), wrong)


@pytest.mark.parametrize("verb", OF_A_PAIR)
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (1, 1)])
def test_a_vector_of_another_shape_than_its_point_is_told(manifold, verb, shape):
    said = rf"points of shape \(2, 2\) together with an array of shape \({shape[0]}, {shape[1]}\)"
    with pytest.raises(ValueError, match=said):
        getattr(manifold, verb)(jnp.eye(2), jnp.ones(shape))


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_points_without_entries_are_told(manifold):
    with pytest.raises(ValueError, match=r"given shape \(0, 3\)\. Give points with one row and"):
        manifold.project(jnp.zeros((0, 3)))


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (None, "but None was given"),
        (3, "but 3 was given"),
        ("32", "but '32' was given"),
        ((3,), r"was given shape \(3,\)"),
        ((3, -1), r"was given shape \(3, -1\)"),
        ((3, 2.0), r"was given shape \(3, 2\.0\)"),
        ((3, 2, "a"), r"was given shape \(3, 2, 'a'\)"),
        (((3, 2), (3, 2)), r"was given shape \(\(3, 2\), \(3, 2\)\)"),
    ],
    ids=str,
)
def test_what_is_no_shape_of_points_is_told(manifold, shape, said):
    for verb in (lambda: manifold.random(KEY, shape), lambda: manifold.dimension(shape)):
        with pytest.raises((TypeError, ValueError), match=said):
            verb()


@pytest.mark.parametrize("shape", [None, 3, "32", (), ((3, 2),)], ids=str)
def test_what_is_no_shape_of_a_product_is_told(shape):
    pair = fg.Product(fg.Sphere(), fg.Stiefel())
    said = r"Product\(Sphere\(\), Stiefel\(\)\) is \(rows, .*or a tuple of 2 such shapes, but .* wa"
    for verb in (lambda: pair.random(KEY, shape), lambda: pair.dimension(shape)):
        with pytest.raises(ValueError, match=said):
            verb()


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
@pytest.mark.parametrize("dtype", ["text", 3, None, jnp.int32, np.float64(0.5)], ids=str)
def test_what_is_no_dtype_of_points_is_told(manifold, dtype):
    with pytest.raises(TypeError, match="dtype must be a floating-point dtype, such as 'float32'"):
        manifold.random(KEY, (3, 2), dtype)
