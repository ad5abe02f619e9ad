"""The checks themselves: laws one at a time, tolerances, names, and what they refuse."""

import jax
import jax.numpy as jnp
import optax
import pytest

import fgsgd_jax as fg
from fgsgd_jax import checks

pytestmark = pytest.mark.usefixtures("quickly_compiled")

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def everything():
    """All laws of the sphere."""
    return checks.check_manifold(fg.Sphere(), KEY, shape=(3, 3))


@pytest.fixture(scope="module")
def placed():
    """Parameters on their manifolds, and their spec."""
    params = {"kernel": jax.random.normal(KEY, (3, 3, 2, 4))}
    spec = fg.collection(params, ("kernel", fg.pom("PO", fg.Sphere())))
    return fg.project(params, spec), spec


def names(report: checks.Report) -> list[str]:
    return [law.name for law in report]


class Sloppy(type(fg.Sphere())):  # pyright: ignore[reportGeneralTypeIssues]
    """A sphere with a wrong projection on tangent spaces: it removes half of the normal part."""

    def to_tangent(self, x, g, /):
        return g - 0.5 * jnp.sum(x * g, axis=(0, 1)) * x


class Bare(fg.Manifold):
    """A sphere without `exp`, `log` and `dist`."""

    curvature_bound = 1.0

    def project(self, x, /):
        return fg.Sphere().project(x)

    def to_tangent(self, x, g, /):
        return fg.Sphere().to_tangent(x, g)

    def retract(self, x, v, /):
        return fg.Sphere().retract(x, v)

    def residual(self, x, /):
        return fg.Sphere().residual(x)

    def random(self, key, shape, dtype=jnp.float32):
        return fg.Sphere().random(key, shape, dtype)

    def dimension(self, shape):
        return fg.Sphere().dimension(shape)

    def second_fundamental_form(self, x, u, v, /):
        return fg.Sphere().second_fundamental_form(x, u, v)


# --- single laws ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_law_is_measured_alone_as_among_all(everything):
    for name in ("project keeps points", "retract lands at step length 1", "dist is symmetric"):
        report = checks.check_manifold(fg.Sphere(), KEY, shape=(3, 3), laws=name)
        assert names(report) == [name]
        [among_all] = [law for law in everything if law.name == name]
        assert report[0].tolerance == among_all.tolerance
        assert report[0].measured == pytest.approx(among_all.measured, abs=1e-6)


def test_laws_are_reported_in_the_order_of_the_table():
    laws = ("inner is symmetric", "project keeps points")
    assert names(checks.check_manifold(fg.Sphere(), KEY, laws=laws)) == [*reversed(laws)]
    assert names(checks.check_manifold(fg.Sphere(), KEY, laws=iter(laws))) == [*reversed(laws)]


def test_no_laws_are_none():
    assert names(checks.check_manifold(fg.Sphere(), KEY, laws=())) == []


def test_a_single_law_traces_no_verb_that_it_does_not_need():
    class WithoutRetraction(type(fg.Sphere())):  # pyright: ignore[reportGeneralTypeIssues]
        def retract(self, x, v, /):
            raise AssertionError("retract was called")

    report = checks.check_manifold(WithoutRetraction(), KEY, laws="to_tangent is linear")
    assert report.passed


@pytest.mark.sweep(fast=2)
@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("to_tangent keeps tangent vectors", False),
        ("to_tangent is self-adjoint", True),
        ("dimension is the rank of to_tangent", False),
        ("project keeps points", True),
    ],
)
def test_a_wrong_manifold_fails_the_law_that_it_breaks(name, passes):
    report = checks.check_manifold(Sloppy(), KEY, laws=name)
    assert report.passed == passes
    assert names(report.failures) == ([] if passes else [name])


def test_laws_use_the_metric_of_the_manifold():
    """A projection that is orthogonal for the manifold's own inner product, not for tr(uᵀv)."""
    weights = jnp.array([1.0, 2.0, 3.0, 4.0])[:, None]

    class Weighted(Bare):
        """xᵀWx = 1 with the metric ⟨u, v⟩ = uᵀWv."""

        def inner(self, x, u, v, /):
            return jnp.tensordot(weights[:, 0], (u * v).sum(axis=1), axes=1)

        def norm(self, x, v, /):
            return jnp.sqrt(self.inner(x, v, v))

        def project(self, x, /):
            return x / self.norm(x, x)

        def to_tangent(self, x, g, /):
            return g - self.inner(x, x, g) * x

        def retract(self, x, v, /):
            return self.project(x + v)

        def residual(self, x, /):
            return jnp.abs(self.norm(x, x) - 1)

        def random(self, key, shape, dtype=jnp.float32):
            return self.project(jax.random.normal(key, shape, dtype))

    laws = (
        "random points are on the manifold",
        "to_tangent keeps tangent vectors",
        "to_tangent is self-adjoint",
        "norm is the square root of inner",
        "retract leaves with velocity v",
        "transport is tangent",
        "dimension is the rank of to_tangent",
    )
    report = checks.check_manifold(Weighted(), KEY, shape=(4, 1), laws=laws)
    assert len(report) == len(laws)
    assert report.passed, f"\n{report}"


@pytest.mark.slow
def test_single_laws_of_the_other_checks(placed):
    report = checks.check_random(
        fg.Sphere(), KEY, shape=(3, 2), laws="the mean is 0 (standard errors)"
    )
    assert names(report) == ["the mean is 0 (standard errors)"]
    params, spec = placed
    laws = ("a zero gradient moves nothing", "update without params says what is missing")
    report = checks.check_optimizer(fg.rsgd(0.1, spec), params, laws=laws)
    assert names(report) == list(laws)
    assert report.passed
    report = checks.check_gradient(
        fg.Sphere(), jnp.sum, fg.Sphere().random(KEY, (3, 2)), KEY, laws="gradient is tangent"
    )
    assert names(report) == ["gradient is tangent"]
    assert report.passed


def test_weights_that_become_nan_do_not_stay_on_their_manifolds(placed):
    params, spec = placed
    for name in (
        "steps stay on the manifolds",
        "steps with gradients of size 1e+30 stay on the manifolds",
    ):
        report = checks.check_optimizer(optax.scale(jnp.nan), params, spec, laws=name)
        assert names(report.failures) == [name]


# --- tolerances ----------------------------------------------------------------------------------


def test_tolerances_replace_the_default_ones():
    name = "project keeps points"
    laws = (name, "inner is symmetric")
    strict = checks.check_manifold(fg.Stiefel(), KEY, laws=laws, tolerances={name: 0})
    assert names(strict.failures) == [name]
    assert strict[0].tolerance == 0
    assert strict[1].tolerance == checks.check_manifold(fg.Stiefel(), KEY, laws=laws)[1].tolerance
    generous = checks.check_manifold(
        Sloppy(), KEY, laws="to_tangent keeps tangent vectors",
        tolerances={"to_tangent keeps tangent vectors": 10.0},
    )  # fmt: skip
    assert generous.passed


@pytest.mark.slow
def test_tolerances_of_the_other_checks(placed):
    name = "the mean is 0 (standard errors)"
    assert not checks.check_random(fg.Sphere(), KEY, laws=name, tolerances={name: 0.0}).passed
    with jax.enable_x64(True):
        x = fg.Sphere().random(KEY, (3, 2), jnp.float64)
        name = "error of the linear model has slope 2"
        report = checks.check_gradient(
            fg.Sphere(), lambda x: jnp.sum(x**4), x, KEY, laws=name, tolerances={name: 0.0}
        )
    assert names(report.failures) == [name]
    qr = fg.Stiefel(retraction="qr")
    assert not checks.check_retraction(qr, KEY, order=2).passed
    assert checks.check_retraction(qr, KEY, order=2, tolerance=1.2).passed
    params, spec = placed
    name = "steps stay on the manifolds"
    report = checks.check_optimizer(
        fg.rsgd(0.1, spec), params, spec, laws=name, tolerances={name: 0.0}
    )
    assert names(report.failures) == [name]


# --- names and obstacles -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{"laws": "porject"}, {"tolerances": {"porject": 1.0}}])
def test_an_unknown_law_is_answered_with_the_known_ones(arguments, everything):
    [argument] = arguments
    with pytest.raises(ValueError, match="has no law 'porject'") as error:
        checks.check_manifold(fg.Sphere(), KEY, **arguments)
    message = str(error.value)
    assert message.startswith("check_manifold ")
    assert f"given in `{argument}`" in message
    for law in everything:
        assert repr(law.name) in message
    with pytest.raises(ValueError, match=r"check_random has no law 'porject'.*'the mean is 0"):
        checks.check_random(fg.Sphere(), KEY, **arguments)
    with pytest.raises(ValueError, match=r"check_gradient has no law 'porject'.*'gradient is tan"):
        checks.check_gradient(fg.Sphere(), jnp.sum, jnp.ones((3, 2)), KEY, **arguments)
    with pytest.raises(ValueError, match=r"check_optimizer has no law 'porject'.*'a zero gradient"):
        checks.check_optimizer(optax.sgd(0.1), {"w": jnp.ones(3)}, **arguments)


@pytest.mark.slow
def test_laws_that_do_not_apply_are_left_out_unless_asked_for():
    report = checks.check_manifold(Bare(), KEY, shape=(3, 2))
    assert report.passed, f"\n{report}"
    assert not any("exp" in name or "dist" in name for name in names(report))
    with pytest.raises(ValueError, match=r"'exp starts at x': .*Bare.* has no `exp`\. Leave"):
        checks.check_manifold(Bare(), KEY, laws="exp starts at x")
    # A table of tolerances may serve several manifolds.
    law = "project keeps points"
    assert checks.check_manifold(
        Bare(), KEY, laws=law, tolerances={law: 1e-5, "exp starts at x": 1e-5}
    ).passed
    with pytest.raises(ValueError, match="not square"):
        checks.check_random(fg.Sphere(), KEY, laws="determinants have both signs (standard errors)")
    with pytest.raises(ValueError, match="needs a spec"):
        checks.check_optimizer(
            optax.sgd(0.1), {"w": jnp.ones(3)}, laws="steps stay on the manifolds"
        )
    with pytest.raises(ValueError, match=r"'curvature is within its bound': .* no planes"):
        checks.check_manifold(fg.Sphere(), KEY, shape=(2, 1), laws="curvature is within its bound")
    with pytest.raises(ValueError, match="compares `retract` with `exp`"):
        checks.check_retraction(Bare(), KEY)


def test_short_dtypes_are_refused():
    with pytest.raises(ValueError, match="in float32 or float64, not in bfloat16"):
        checks.check_manifold(fg.Sphere(), KEY, dtype=jnp.bfloat16)


# --- reports -------------------------------------------------------------------------------------


def test_a_report_is_a_table():
    report = checks.Report(
        [checks.Law("a long name", 1e-7, 1e-6), checks.Law("short", float("nan"), 0.0)]
    )
    assert str(report).splitlines() == [
        "law          measured  tolerance  verdict",
        "a long name   1.0e-07    1.0e-06  holds",
        "short             nan    0.0e+00  FAILS",
    ]
    assert not report.passed
    assert names(report.failures) == ["short"]
    assert str(checks.Report()) == "law  measured  tolerance  verdict"
