"""XLA's CPU compiler still needs each workaround of `_xla_cpu`: a small program for each.

A test that fails here says that a workaround is no longer needed with this version of JAX.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType, PartitionSpec

import fgsgd_jax as fg
from fgsgd_jax import _xla_cpu

SHAPE = (3, 3, 64, 128)
KEYS = jax.random.split(jax.random.key(0))
X, G = (jax.random.normal(key, SHAPE) for key in KEYS)


def optimized(function, *arguments, **options) -> str:
    return jax.jit(function, **options).lower(*arguments).compile().as_text()


def multiplications(program: str) -> int:
    """How many products of whole points a program computes."""
    return len(re.findall(r"f32\[3,3,64,128\]\S* multiply\(", program))


def dot(x, g):
    return sum(x[i, j] * g[i, j] for i in range(3) for j in range(3))


def entries_per_loop(program: str) -> int:
    """The largest number of products of single entries in a loop over all entries of the points.

    There the number of a point is computed once per entry.
    """
    bodies = re.findall(r"%\S*fused\S* \(.*?\n}", program, re.DOTALL)
    loops = [body for body in bodies if re.search(r"ROOT \S+ = f32\[3,3,64,128\]", body)]
    return max(len(re.findall(r" multiply\(", body)) for body in loops)


def test_a_number_per_point_is_computed_once_per_entry_unless_it_is_materialized():
    def plain(x, g):
        return g - dot(x, g) * x

    def barrier(x, g):
        return g - lax.optimization_barrier(dot(x, g)) * x

    def materialized(x, g):
        return g - _xla_cpu.materialize(lambda: dot(x, g), x) * x

    # Nine products of entries for ⟨x, g⟩, and the one with x.
    assert entries_per_loop(optimized(plain, X, G)) == 10
    # From 0.12 on a barrier is enough: when that is the oldest version supported, use barriers.
    ignored = jax.__version_info__ < (0, 12)
    assert entries_per_loop(optimized(barrier, X, G)) == (10 if ignored else 1)
    assert entries_per_loop(optimized(materialized, X, G)) == 1
    np.testing.assert_array_equal(jax.jit(plain)(X, G), jax.jit(materialized)(X, G))


@pytest.mark.slow
def test_updates_of_several_weights_need_memory_for_all_of_them_unless_they_are_ordered():
    weights = {str(i): jnp.copy(X) for i in range(6)}
    spec = fg.collection(weights, ("*", fg.pom("PO", fg.Stiefel())))
    weights = fg.project(weights, spec)
    tx = fg.fgsgd(0.1, spec)
    arguments = weights, tx.init(weights), weights

    def temporary():
        jax.clear_caches()
        compiled = jax.jit(tx.update).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    ordered = temporary()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_xla_cpu, "completion_token", lambda *arrays: None)
        assert temporary() > 1.5 * ordered


def test_arrays_that_stay_in_the_cache_are_left_alone():
    small = jnp.ones((3, 3, 4, 8))
    assert small.size < _xla_cpu.MATERIALIZED_SIZE
    traced = jax.make_jaxpr(lambda x: _xla_cpu.materialize(lambda: dot(x, x), x))(small)
    assert "cond" not in str(traced)


def test_one_materialized_function_inside_another_adds_nothing():
    def nested(x, g):
        inside = lambda: _xla_cpu.materialize(lambda: dot(x, g), x)  # noqa: E731
        return _xla_cpu.materialize(inside, x)

    def single(x, g):
        return _xla_cpu.materialize(lambda: dot(x, g), x)

    count = [str(jax.make_jaxpr(f)(X, G)).count("cond[") for f in (nested, single)]
    assert count[0] == count[1] > 0


# --- the choice is made at lowering --------------------------------------------------------------


MANIFOLDS = {
    "sphere": fg.Sphere(),
    "oblique": fg.Oblique(),
    "stiefel": fg.Stiefel(),
    "cayley": fg.Stiefel(retraction="cayley"),
    "mixture": (fg.Sphere(), fg.Oblique(), fg.Stiefel()),
}


def exported(manifold, platforms, momentum=0.9) -> str:
    params = {"w": X}
    spec = fg.collection(params, ("w", fg.pom("PIO", manifold)))
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec, momentum=momentum)
    arguments = params, tx.init(params), params
    return export.export(jax.jit(tx.update), platforms=platforms)(*arguments).mlir_module()


@pytest.mark.slow
@pytest.mark.parametrize("manifold", MANIFOLDS)
@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_a_program_exported_for_an_accelerator_has_none_of_it(platform, manifold):
    program = exported(MANIFOLDS[manifold], [platform])
    # One barrier keeps the squares that drawn groups are summed from, and on a GPU another divides
    # the two passes over spheres and oblique manifolds.
    passes = platform != "tpu" and manifold in ("sphere", "oblique")
    assert program.count("stablehlo.optimization_barrier") == 1 + passes
    # Neither LAPACK nor any other library is called for small points.
    assert re.findall(r"custom_call @(\w+)", program) == []


def test_a_program_for_several_platforms_has_both():
    assert "optimization_barrier" in exported(fg.Sphere(), ["cpu"])
    both = exported(fg.Sphere(), ["cpu", "cuda"])
    assert "optimization_barrier" in both


def test_path_sgd_exported_for_an_accelerator_multiplies_whole_matrices():
    def network(params, x):
        return jax.nn.relu(x @ params[0]) @ params[1]

    params = [jnp.ones((512, 512)), jnp.ones((512, 4))]
    tx = fg.path_sgd(0.1, network, input_shape=(512,))
    arguments = params, tx.init(params), params
    programs = {
        platform: export.export(jax.jit(tx.update), platforms=[platform])(*arguments).mlir_module()
        for platform in ("cpu", "cuda")
    }
    assert "optimization_barrier" not in programs["cuda"]
    loops = {platform: program.count("stablehlo.while") for platform, program in programs.items()}
    assert loops["cuda"] <= loops["cpu"]


# --- what transformations of JAX make of it ------------------------------------------------------


def test_it_is_differentiable_and_maps_over_batches():
    def function(x):
        return jnp.sum(_xla_cpu.materialize(lambda: dot(x, x), x) ** 2)

    expected = 4 * dot(X, X) * X
    np.testing.assert_allclose(jax.jit(jax.grad(function))(X), expected, rtol=1e-5)
    both = jax.jit(jax.vmap(function))(jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(both[1], 16 * both[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [(8, 16), (64, 128)])
def test_a_step_inside_shard_map_is_that_outside(lanes):
    params = {"w": jax.random.normal(KEYS[0], (3, 3, *lanes))}
    spec = fg.collection(params, ("w", fg.pom("PO", (fg.Sphere(), fg.Stiefel()))))
    params = fg.project(params, spec)
    tx = fg.fgsgd(0.1, spec, momentum=0.9)
    state = tx.init(params)
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
    split = PartitionSpec(None, None, None, "x")

    def spec_of(leaf):
        return split if leaf.shape[-2:] == lanes and leaf.ndim == 4 else PartitionSpec()

    # The drawn manifolds, (inputs, outputs), are split with the weights.
    specs = jax.tree.map(
        lambda leaf: PartitionSpec(None, "x") if leaf.shape == lanes else spec_of(leaf), state
    )
    weights = {"w": split}
    inside = jax.jit(
        jax.shard_map(
            tx.update, mesh=mesh, in_specs=(weights, specs, weights), out_specs=(weights, specs)
        )
    )
    updates, _ = jax.jit(tx.update)(params, state, params)
    np.testing.assert_allclose(inside(params, state, params)[0]["w"], updates["w"], atol=1e-6)


def test_an_array_that_waits_is_unchanged():
    token = jax.jit(lambda: _xla_cpu.completion_token(X))
    if token() is None:
        pytest.skip("there are several devices")
    waited = jax.jit(lambda g: _xla_cpu.wait(g, _xla_cpu.completion_token(X)))(G)
    np.testing.assert_array_equal(waited, G)
    flags = jax.jit(lambda g: _xla_cpu.wait(g > 0, _xla_cpu.completion_token(X)))(G)
    np.testing.assert_array_equal(flags, G > 0)
