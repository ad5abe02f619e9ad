"""Diagnostics against formulas in NumPy, as measures in a chain, and as a report."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_helpers import tangent, to_slices

import fgsgd_jax as fg
from fgsgd_jax import diagnostics

SHAPE = (3, 3, 3, 4)
S = 0.25
RATE = 0.5


def kernel(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(size * rng.standard_normal(SHAPE), jnp.float32)


@pytest.fixture(scope="module")
def step():
    """One step of FG-SGD with momentum at a scale, and the diagnostics of it."""
    params = {"conv": kernel(0), "bias": jnp.ones(3)}
    spec = fg.collection(params, ("conv", fg.pom("PO", fg.Oblique())), default=None, scale=S)
    params = fg.project(params, spec)
    gradients = {"conv": kernel(1, 2.0), "bias": jnp.ones(3)}
    tx = fg.fgsgd(RATE, spec, momentum=0.9)
    updates, state = tx.update(gradients, tx.init(params), params)
    return params, spec, gradients, updates, state


@pytest.mark.slow
def test_a_diagnosis_is_what_the_formulas_say(step):
    params, spec, gradients, updates, _ = step
    found = diagnostics.diagnose(params, spec, gradients=gradients, updates=updates)
    assert list(found) == ["conv"]
    one = found["conv"]
    w, g, u = (to_slices(tree["conv"]) for tree in (params, gradients, updates))
    v = tangent("oblique", w / S, S * g)
    norms = np.sqrt(np.sum(v**2, (0, 2, 3)))
    np.testing.assert_allclose(one.gradient_norm, norms, rtol=1e-5)
    np.testing.assert_allclose(one.tau, np.maximum(1, norms * (2 + norms)), rtol=1e-5)
    assert one.normal == pytest.approx(np.linalg.norm(S * g - v) / np.linalg.norm(S * g), rel=1e-5)
    before, after = (a.reshape(3, 4, 9) for a in (w, w + u))
    cosine = np.sum(before * after, -1) / (
        np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    )
    np.testing.assert_allclose(one.angle, np.arccos(cosine), rtol=1e-4)
    np.testing.assert_array_equal(one.scale, S)
    assert one.drift < 1e-6
    # The components of one output channel side by side: 3×9.
    side_by_side = np.moveaxis(w, 1, 0).transpose(0, 2, 1, 3).reshape(4, 3, 9)
    np.testing.assert_allclose(one.norms.frobenius, S * np.sqrt(3 * 3), rtol=1e-5)
    np.testing.assert_allclose(one.norms.spectral, np.linalg.norm(side_by_side, 2, (1, 2)), 1e-5)


@pytest.mark.slow
def test_the_numbers_of_a_step_are_those_that_the_normalizer_saw(step):
    params, spec, gradients, updates, state = step
    moved = optax.apply_updates(params, updates)
    tx = fg.fgsgd(RATE, spec, momentum=0.9)
    _, after = tx.update(gradients, state, moved)
    trace = optax.tree.get(after, "trace")
    one = diagnostics.diagnose(moved, spec, gradients=gradients, trace=trace)["conv"]
    norms = np.sqrt(np.sum(to_slices(trace["conv"]) ** 2, (0, 2, 3)))
    np.testing.assert_allclose(one.gradient_norm, norms, rtol=1e-5)
    plain = diagnostics.diagnose(moved, spec, gradients=gradients)["conv"]
    assert np.all(one.gradient_norm != plain.gradient_norm)


@pytest.mark.slow
def test_rho_and_curvature_enter_tau(step):
    params, spec, gradients, *_ = step
    rho, c = 0.2, 3.0
    one = diagnostics.diagnose(
        params, spec, gradients=gradients, rho=rho, curvature=fg.per_group(lambda group: c)
    )["conv"]
    g = np.asarray(one.gradient_norm, np.float64)
    square = g**2 * np.maximum((2 * rho + g) ** 2, 1 + c * (rho + g))
    np.testing.assert_allclose(one.tau, np.sqrt(np.maximum(1, square)), rtol=1e-5)


def test_measures_in_a_chain_keep_what_diagnose_finds(step):
    params, spec, gradients, *_ = step
    tx = optax.chain(
        optax.monitor({"of gradients": diagnostics.of_gradients(spec)}),
        fg.fgsgd(RATE, spec),
        optax.monitor({"of updates": diagnostics.of_updates(spec)}),
    )
    updates, state = jax.jit(tx.update)(gradients, tx.init(params), params)
    found = diagnostics.diagnose(params, spec, gradients=gradients, updates=updates)
    numbers = diagnostics.summary(found)
    for name in ("drift", "normal", "gradient_norm", "tau", "normalized_share", "angle"):
        np.testing.assert_allclose(optax.tree.get(state, name), numbers[name], rtol=1e-4, atol=1e-7)
    mean = float(jnp.mean(found["conv"].angle))
    assert float(optax.tree.get(state, "mean_angle")) == pytest.approx(mean, rel=1e-4)
    # Measures follow re-scaling like the links they stand beside.
    state = fg.set_feature_std(state, {"conv": np.array([0.5, 1.0, 2.0])})
    moved = optax.apply_updates(params, updates)
    updates, state = jax.jit(tx.update)(gradients, state, moved)
    _, state = jax.jit(tx.update)(gradients, state, optax.apply_updates(moved, updates))
    assert optax.tree.get(state, "drift") < 1e-6


def test_a_report_shows_all_and_says_where_norms_exceed_1(step, tmp_path):
    params, spec, gradients, updates, _ = step
    table = str(fg.report(params, spec, gradients=gradients, updates=updates)).splitlines()
    assert table[0].split()[0] == "weight"
    assert "angle" in table[0]
    assert table[1].startswith("conv ")
    assert table[-2] == "Frobenius norms of groups above 1: none."
    # Twelve columns of length 1/4 in one group of 0.25·√36 = 1.5.
    layer = fg.collection(params, ("conv", fg.pom("layer", fg.Oblique())), default=None, scale=S)
    shown = fg.report(params, layer)
    assert "conv (1 of 1 groups, up to 1.5)" in str(shown)
    assert "angle" not in str(shown)
    figure = shown.draw(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 5000
    assert len(figure.axes) == 2


def test_nothing_on_manifolds_is_said(step):
    params, *_ = step
    spec = fg.collection(params, default=None)
    assert str(fg.report(params, spec)) == "No weight is on a manifold."


def test_trees_of_others_are_refused(step):
    params, spec, gradients, *_ = step
    with pytest.raises(ValueError, match="updates have no leaf 'conv'"):
        diagnostics.diagnose(params, spec, updates={"bias": gradients["bias"]})
    with pytest.raises(ValueError, match="'conv' has shape"):
        diagnostics.diagnose(params, spec, gradients={"conv": jnp.ones((3, 3, 2, 2))})
    with pytest.raises(ValueError, match="coordinates of a step"):
        diagnostics.diagnose(params, spec, coordinates="natural")
