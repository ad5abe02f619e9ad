"""Temporary: the former address of `linalg`."""

from fgsgd_jax._xla_cpu import MATERIALIZED_SIZE as STAGED_SIZE  # noqa: F401
from fgsgd_jax._xla_cpu import _opaque_true as true_after  # noqa: F401
from fgsgd_jax._xla_cpu import completion_token as done  # noqa: F401
from fgsgd_jax._xla_cpu import materialize as _materialize
from fgsgd_jax.linalg import *  # noqa: F403


def stage(function, like, *, after=None):
    return _materialize(function, like, after=after)


def on_one_cpu():
    import jax

    return jax.default_backend() == "cpu" and jax.device_count() == 1
