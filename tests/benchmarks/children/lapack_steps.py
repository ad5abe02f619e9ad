"""JAX's QR and singular value decompositions, in a process with its own number of BLAS threads.

They are called outside `jax.jit`, because a batched QR inside a jitted function deadlocks on the
CPU with JAX 0.10.0 to 0.11.0. If one deadlocks outside, too, its process is killed.
"""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
from serving import serve


def prepare(kind, shape, threads):
    """One step on matrices `(number, rows, columns)` or `(rows, columns)`.

    Args:
        kind: `"qr"` or `"svd"` for the decomposition alone; `"qr step"` or `"svd step"` for the
            projection of a gradient onto the tangent space as well.
        shape: The shape of the matrices.
        threads: Unused: BLAS reads the number of threads from the environment.
    """
    del threads
    numbers = np.random.default_rng(0)
    x = jnp.asarray(np.linalg.qr(numbers.standard_normal(shape))[0], jnp.float32)
    g = jnp.asarray(numbers.standard_normal(shape), jnp.float32)

    @jax.jit
    def moved(x, g):
        xg = jnp.matmul(jnp.swapaxes(x, -1, -2), g)
        return x - 1e-3 * (g - jnp.matmul(x, xg + jnp.swapaxes(xg, -1, -2)) / 2)

    @jax.jit
    def signed(q, r):
        return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]

    def qr(y):
        decompose = jax.vmap(jnp.linalg.qr) if y.ndim > 2 else jnp.linalg.qr
        return signed(*decompose(y))

    @jax.jit
    def product(u, vt):
        return jnp.matmul(u, vt)

    def svd(y):
        u, _, vt = jnp.linalg.svd(y, full_matrices=False)
        return product(u, vt)

    decomposition = {"qr": qr, "svd": svd}[kind.removesuffix(" step")]
    y = moved(x, g)
    carried = [x]

    def alone():
        decomposition(y).block_until_ready()

    def step():
        carried[0] = decomposition(moved(carried[0], g)).block_until_ready()

    steps = {kind: step if kind.endswith(" step") else alone}
    return steps, {"versions": {"jax": importlib.metadata.version("jax")}}


if __name__ == "__main__":
    serve(prepare)
