"""A manifold of a user's own: links and optimizers call its verbs, all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fgsgd_jax as fg

WEIGHTS = np.array([1.0, 4.0, 9.0])


def weights(x):
    """The weights of the rows, to be broadcast against points."""
    return jnp.asarray(WEIGHTS[: x.shape[0]], x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))


def weighted(u, v):
    return jnp.sum(weights(u) * u * v, axis=(0, 1))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Ellipsoid(fg.Manifold):
    """{x: ⟨x, x⟩ = 1} under the inner product Σᵢⱼ wᵢ uᵢⱼ vᵢⱼ: a weighted sphere."""

    fixes_norm = False

    def project(self, x, /):
        return x / jnp.sqrt(weighted(x, x))

    def to_tangent(self, x, g, /):
        return g - weighted(x, g) * x

    def retract(self, x, v, /):
        return self.project(x + v)

    def inner(self, x, u, v, /):
        return weighted(u, v)

    def representer(self, x, g, /):
        return g / weights(g)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rotated(Ellipsoid):
    """The same with a transport that depends on both points: along the great circle."""

    def transport(self, x, y, v, /):
        return v - weighted(y, v) / (1 + weighted(x, y)) * (x + y)


SHAPE = (3, 3, 2, 4)


def start(manifold, scheme="PO", dtype="float64"):
    params = {"w": jax.random.normal(jax.random.key(0), SHAPE, dtype), "bias": jnp.ones(3, dtype)}
    spec = fg.collection(params, ("w", fg.pom(scheme, manifold)))
    return fg.project(params, spec), spec


def gradients(step, dtype="float64"):
    rng = np.random.default_rng(step)
    return {
        "w": jnp.asarray(3 * rng.standard_normal(SHAPE), dtype),
        "bias": jnp.ones(3, dtype),
    }


def by_formula(x, rate, decay, transport, steps):
    """Momentum FG-SGD under PO on the ellipsoid, lane by lane in NumPy."""
    w = WEIGHTS.reshape(3, 1)
    x = np.array(x)
    m, previous = np.zeros_like(x), x.copy()
    for step in range(steps):
        g = np.asarray(gradients(step)["w"])
        for output in range(SHAPE[3]):
            squares = 0.0
            for c in range(SHAPE[2]):
                lane = (slice(None), slice(None), c, output)
                point, last = x[lane], previous[lane]
                r = g[lane] / w
                v = r - np.sum(w * point * r) * point
                m[lane] = decay * transport(last, point, m[lane]) + v
                squares += np.sum(w * m[lane] ** 2)
            length = np.sqrt(squares)
            tau = max(1, length * max(2 + length, np.sqrt(1 + (1 + length))))
            for c in range(SHAPE[2]):
                lane = (slice(None), slice(None), c, output)
                y = x[lane] - rate * m[lane] / tau
                previous[lane] = x[lane]
                x[lane] = y / np.sqrt(np.sum(w * y**2))
    return x


def projection(x, y, v):
    return v - np.sum(WEIGHTS.reshape(3, 1) * y * v) * y


def rotation(x, y, v):
    w = WEIGHTS.reshape(3, 1)
    return v - np.sum(w * y * v) / (1 + np.sum(w * x * y)) * (x + y)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manifold", "transport"), [(Ellipsoid(), projection), (Rotated(), rotation)]
)
def test_the_group_norm_is_its_own_and_momentum_is_carried_by_its_own_transport(
    manifold, transport
):
    with jax.enable_x64(True):
        params, spec = start(manifold)
        expected = by_formula(params["w"], 0.7, 0.9, transport, steps=4)
        tx = fg.fgsgd(0.7, spec, momentum=0.9)
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(4):
            updates, state = update(gradients(step), state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_the_two_transports_differ():
    # Otherwise the test above would not tell them apart.
    with jax.enable_x64(True):
        x = start(Rotated())[0]["w"]
        one, other = (by_formula(x, 0.7, 0.9, carry, 4) for carry in (projection, rotation))
        assert np.max(np.abs(one - other)) > 1e-4  # 1e8 times the tolerance above


def adam_by_formula(x, rate, transport, steps, b1=0.9, b2=0.999, eps=1e-8):
    """Riemannian Adam on the ellipsoid with a moment per component, lane by lane in NumPy."""
    w = WEIGHTS.reshape(3, 1)
    x = np.array(x)
    m, previous, moments = np.zeros_like(x), x.copy(), np.zeros(SHAPE[2:])
    for step in range(steps):
        g = np.asarray(gradients(step)["w"])
        for lane in np.ndindex(*SHAPE[2:]):
            at = (slice(None), slice(None), *lane)
            point = x[at].copy()
            r = g[at] / w
            v = r - np.sum(w * point * r) * point
            m[at] = b1 * transport(previous[at], point, m[at]) + (1 - b1) * v
            moments[lane] = b2 * moments[lane] + (1 - b2) * np.sum(w * v**2)
            root = np.sqrt(moments[lane] / (1 - b2 ** (step + 1)))
            y = point - rate * m[at] / (1 - b1 ** (step + 1)) / (root + eps)
            previous[at] = point
            x[at] = y / np.sqrt(np.sum(w * y**2))
    return x


@pytest.mark.parametrize(
    ("manifold", "transport"), [(Ellipsoid(), projection), (Rotated(), rotation)]
)
def test_riemannian_adam_takes_its_inner_product_and_its_transport(manifold, transport):
    with jax.enable_x64(True):
        params, spec = start(manifold)
        expected = adam_by_formula(params["w"], 0.3, transport, steps=3)
        tx = fg.riemannian_adam(0.3, spec)
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(3):
            updates, state = update(gradients(step), state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], expected, rtol=1e-6, atol=1e-7)  # √v is float32


@pytest.mark.parametrize("optimizer", [fg.fgsgd, fg.rsgd])
def test_it_reaches_the_minimum_of_a_linear_function(optimizer):
    # The least of ⟨c, x⟩ on the ellipsoid is at x = −W⁻¹c/‖W⁻¹c‖.
    with jax.enable_x64(True):
        params, spec = start(Rotated(), scheme="kernel")
        c = gradients(0)
        tx = optimizer(0.2, spec, momentum=0.5)
        state, update = tx.init(params), jax.jit(tx.update)
        for _ in range(300):
            updates, state = update(c, state, params)
            params = optax.apply_updates(params, updates)
        lowest = np.asarray(c["w"]) / WEIGHTS.reshape(3, 1, 1, 1)
        lowest = -lowest / np.sqrt(np.asarray(weighted(lowest, lowest)))
        np.testing.assert_allclose(params["w"], lowest, atol=1e-8)


@pytest.mark.slow
def test_defaults_follow_from_the_verbs_it_has():
    manifold, key = Ellipsoid(), jax.random.key(0)
    x = manifold.random(key, (3, 2, 5))
    np.testing.assert_allclose(weighted(x, x), 1, rtol=1e-6)
    assert manifold.residual(x).shape == (5,)
    assert float(jnp.max(manifold.residual(x))) < 1e-6
    np.testing.assert_allclose(
        manifold.residual(2 * x), np.linalg.norm(np.asarray(x), axis=(0, 1)), rtol=1e-5
    )
    assert manifold.dimension((3, 2)) == 5
    u, v = (manifold.to_tangent(x, jax.random.normal(k, x.shape)) for k in jax.random.split(key))
    np.testing.assert_allclose(manifold.norm(x, v), np.sqrt(weighted(v, v)), rtol=1e-6)
    # In the coordinates √w·x it is a sphere, whose curvature is 1.
    np.testing.assert_allclose(manifold.sectional_curvature(x, u, v), 1, rtol=1e-4)
    huge = manifold.norm(x, 1e30 * v)
    np.testing.assert_allclose(huge, 1e30 * np.sqrt(weighted(v, v)), rtol=1e-5)


def test_its_dimension_is_not_counted_for_large_points():
    with pytest.raises(NotImplementedError, match="define `dimension`"):
        Ellipsoid().dimension((3, 1000))


@pytest.mark.slow
def test_mixed_with_other_manifolds_every_component_keeps_its_own_metric():
    with jax.enable_x64(True):
        params, spec = start((fg.Stiefel(), Rotated(), fg.Sphere()))
        tx = fg.fgsgd(0.3, spec, momentum=0.9)
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(5):
            updates, state = update(gradients(step), state, params)
            params = optax.apply_updates(params, updates)
        assert float(fg.residual(params, spec)["w"]) < 1e-12


@pytest.mark.slow
def test_without_params_the_normalizer_says_why_it_needs_them():
    params, spec = start(Ellipsoid(), dtype="float32")
    link = fg.scale_by_fgsgd(spec)
    with pytest.raises(ValueError, match="inner product"):
        link.update(params, link.init(params))


@pytest.mark.slow
def test_its_state_restarts_and_is_not_shared_with_the_weights():
    params, spec = start(Rotated(), dtype="float32")
    tx = fg.fgsgd(0.3, spec, momentum=0.9)
    state = tx.init(params)
    kept = np.array(params["w"])
    step = jax.jit(tx.update, donate_argnums=(1,))
    for _ in range(2):
        _, state = step(gradients(0, "float32"), state, params)
    np.testing.assert_array_equal(params["w"], kept)  # not donated with the state


@pytest.mark.slow
def test_it_passes_the_laws():
    report = fg.checks.check_manifold(Ellipsoid(), jax.random.key(0), shape=(3, 3, 4))
    assert report.passed, f"\n{report.failures}"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class WithoutRepresenter(Ellipsoid):
    """A metric of its own, but gradients of the Euclidean one: a mistake."""

    def representer(self, x, g, /):
        return g


@pytest.mark.sweep(fast=1)
@pytest.mark.parametrize(
    ("manifold", "passes"), [(Ellipsoid(), True), (WithoutRepresenter(), False)]
)
def test_the_gradient_check_finds_a_missing_representer(manifold, passes):
    with jax.enable_x64(True):
        x = manifold.random(jax.random.key(0), (3, 2), "float64")
        report = fg.checks.check_gradient(manifold, lambda x: jnp.sum(x**4), x, jax.random.key(1))
    assert report.passed == passes
