"""Linear algebra on lanes: many small matrices at once, without a loop and without LAPACK.

An array of shape `(rows, columns, *lanes)` holds one matrix per lane. A number per matrix, such as
⟨x, y⟩, has shape `(*lanes)`, a number per column `(columns, *lanes)`; both broadcast against the
matrices as they are, so nothing here needs `keepdims`, `vmap` or a transposition.

No function here calls LAPACK: on small matrices it costs 30 to 300 times the arithmetic, it
cannot be sharded, and a batched QR or Cholesky inside a jitted function deadlocks on the CPU with
JAX 0.10.0 to 0.11.0.
"""

from fgsgd_jax.linalg._entries import Entries as Entries
from fgsgd_jax.linalg._norms import column_norm as column_norm
from fgsgd_jax.linalg._norms import divisor as divisor
from fgsgd_jax.linalg._norms import finite_or_nan as finite_or_nan
from fgsgd_jax.linalg._norms import magnitude as magnitude
from fgsgd_jax.linalg._norms import norm as norm
from fgsgd_jax.linalg._norms import safe_sqrt as safe_sqrt
from fgsgd_jax.linalg._norms import shorten as shorten
from fgsgd_jax.linalg._norms import square_norm as square_norm
from fgsgd_jax.linalg._orthonormal import LONGEST_STEP as LONGEST_STEP
from fgsgd_jax.linalg._orthonormal import SQUARABLE_STEP as SQUARABLE_STEP
from fgsgd_jax.linalg._orthonormal import gram_error as gram_error
from fgsgd_jax.linalg._orthonormal import gram_schmidt as gram_schmidt
from fgsgd_jax.linalg._orthonormal import polar_step as polar_step
from fgsgd_jax.linalg._orthonormal import polish as polish
from fgsgd_jax.linalg._polar import msign as msign
from fgsgd_jax.linalg._polar import polar as polar
from fgsgd_jax.linalg._polar import solve_lyapunov as solve_lyapunov
from fgsgd_jax.linalg._polar import unit as unit
from fgsgd_jax.linalg._products import UNROLLED_SIZE as UNROLLED_SIZE
from fgsgd_jax.linalg._products import column_inner as column_inner
from fgsgd_jax.linalg._products import entries as entries
from fgsgd_jax.linalg._products import gram as gram
from fgsgd_jax.linalg._products import identity as identity
from fgsgd_jax.linalg._products import in_working_dtype as in_working_dtype
from fgsgd_jax.linalg._products import inner as inner
from fgsgd_jax.linalg._products import is_small as is_small
from fgsgd_jax.linalg._products import matmul as matmul
from fgsgd_jax.linalg._products import rounded as rounded
from fgsgd_jax.linalg._products import skew as skew
from fgsgd_jax.linalg._products import symmetric as symmetric
from fgsgd_jax.linalg._products import times as times
from fgsgd_jax.linalg._products import total as total
from fgsgd_jax.linalg._products import transpose as transpose
from fgsgd_jax.linalg._products import working_dtype as working_dtype
from fgsgd_jax.linalg._rotations import axis_3x3 as axis_3x3
from fgsgd_jax.linalg._rotations import is_polishable_3x3 as is_polishable_3x3
from fgsgd_jax.linalg._rotations import rotation_3x3 as rotation_3x3
from fgsgd_jax.linalg._rotations import times_hat as times_hat
from fgsgd_jax.linalg._rotations import turned_3x3 as turned_3x3
from fgsgd_jax.linalg._solvers import expm as expm
from fgsgd_jax.linalg._solvers import solve as solve
