"""`check_optimizer`: what an optimizer on manifolds promises."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # Optax has no public name for it

from fgsgd_jax._keys import require_key
from fgsgd_jax._numbers import require_count
from fgsgd_jax._text import shown
from fgsgd_jax.checks._laws import LawTable, always
from fgsgd_jax.checks._report import Report
from fgsgd_jax.checks._run import Run
from fgsgd_jax.spec import Collection, require_collection, require_weights
from fgsgd_jax.transforms import SpecState, key_of, require_transformation

LAWS = LawTable()

# The residual of a Stiefel point sums the round-off of a Gram matrix; in float16 and bfloat16 every
# entry of a weight is rounded.
ON_MANIFOLD = {2: 2e-2, 4: 1e-5, 8: 1e-12}


def check_optimizer(
    tx: optax.GradientTransformation,
    params: Any,
    spec: Collection | None = None,
    *,
    key: jax.Array | None = None,
    steps: int = 20,
    extra_args: Mapping[str, Any] | None = None,
    laws: str | Iterable[str] | None = None,
    tolerances: Mapping[str, float] | None = None,
) -> Report:
    """Measures what an optimizer on manifolds promises.

    Args:
        tx: The optimizer.
        params: Parameters on their manifolds.
        spec: Their spec. Without it, laws about how far steps leave the manifolds are left out.
        key: A PRNG key for random gradients.
        steps: How many steps with random gradients to take.
        extra_args: Keyword arguments for every update, which some transformations need, such as
            `{"value": 1.0}` for `optax.contrib.reduce_on_plateau`.
        laws: The names of the laws to measure, as a report shows them; None measures all that
            apply.
        tolerances: Tolerances that replace the default ones, by name of the law.

    Returns:
        A report. A law that holds or does not hold is measured as 0 or 1.

    Raises:
        TypeError: If an argument is of the wrong type, or an update needs arguments that
            `extra_args` does not have.
        ValueError: If `params` are not those of the spec, there is no law of a given name, or it
            does not apply; or if a link of the chain refuses known values, such as
            `retract_updates` a step that is not tangent.

    Example:
        >>> import jax, optax
        >>> import fgsgd_jax as fg
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 2, 4))}
        >>> spec = fg.collection(params)
        >>> params = fg.project(params, spec)
        >>> check_optimizer(fg.fgsgd(0.1, spec, momentum=0.9), params, spec).passed
        True
    """
    key = jax.random.key(0) if key is None else key
    require_key(key)
    require_transformation(tx)
    require_count("steps", steps, lowest=1)
    if spec is not None:
        require_collection(spec)
        require_weights(params, spec)
    if not (extra_args is None or isinstance(extra_args, Mapping)):
        raise TypeError(
            "`extra_args` are keyword arguments by name, such as {'value': 1.0}, got "
            f"{shown(extra_args)}."
        )
    run = Run(tx, params, spec, key, steps, dict(extra_args or {}))
    run.require_arguments()
    selected = LAWS.select("check_optimizer", run, laws, tolerances)
    measured = {name: LAWS[name].measure(run) for name in selected}
    return LAWS.report(measured, tolerances, run.item_size)


def _promise(name: str, obstacle: Callable[[Run], str | None] = always) -> Callable:
    """Enters a function that returns whether a law holds, to be reported as 0 or 1."""

    def enter(holds: Callable[[Run], bool]) -> Callable[[Run], bool]:
        LAWS.law(name, 0.0, obstacle)(lambda run: 0.0 if holds(run) else 1.0)
        return holds

    return enter


def _no_spec(run: Run) -> str | None:
    return "it needs a spec, which was not given" if run.spec is None else None


def _all(test: Callable[[jax.Array], jax.Array], tree: Any) -> bool:
    return all(bool(jnp.all(test(leaf))) for leaf in jax.tree.leaves(tree))


def _have_same_structure(tree: Any, other: Any) -> bool:
    """Whether two trees have the same structure, shapes and dtypes."""

    def shapes(tree):
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype), tree)

    return shapes(tree) == shapes(other)


@_promise("a zero gradient moves nothing")
def _zero_gradient(run: Run) -> bool:
    updates, _ = run.update(run.zero, run.state, run.params)
    return _all(lambda leaf: leaf == 0, updates)


@_promise("the first step goes downhill")
def _first_step_descends(run: Run) -> bool:
    # A gradient so small that what a retraction adds to the step is far below the step itself; it
    # goes uphill where a chain lacks the minus sign of its learning rate.
    gradient = run.gradients(0, 1e-3)
    updates, _ = run.update(gradient, run.state, run.params)
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(gradient), strict=True)
    slope = sum(float(jnp.sum(u.astype(float) * g.astype(float))) for u, g in pairs)
    return not slope > 0


@_promise("steps are finite")
def _finite_steps(run: Run) -> bool:
    return _all(jnp.isfinite, run.walk.params)


@_promise("updates have the structure and dtypes of the parameters")
def _updates_are_like_params(run: Run) -> bool:
    return _have_same_structure(run.walk.updates, run.params)


@_promise("all parts of the state belong to the spec", _no_spec)
def _state_is_of_spec(run: Run) -> bool:
    def is_part(node):
        return isinstance(node, SpecState)

    parts = filter(is_part, jax.tree.leaves(run.state, is_leaf=is_part))
    return all(part.fingerprint.keys() == {key_of(run.spec)} for part in parts)


@_promise("the state keeps its structure and dtypes")
def _state_keeps_structure(run: Run) -> bool:
    return _have_same_structure(run.walk.state, run.state)


@LAWS.law("steps stay on the manifolds", ON_MANIFOLD, _no_spec)
def _steps_stay(run: Run) -> float:
    return run.walk.drift


def _enter_laws_of_size(size: float, item_sizes: tuple[int, ...]) -> None:
    """Laws about gradients of a size that dtypes of these item sizes can represent."""

    def not_for_dtype(run: Run) -> str | None:
        if run.item_size in item_sizes:
            return None
        return f"it is not meant for parameters with {run.item_size} bytes per entry"

    def obstacle(run: Run) -> str | None:
        return not_for_dtype(run) or _no_spec(run)

    @_promise(f"gradients of size {size:g} give finite steps", not_for_dtype)
    def finite(run: Run) -> bool:
        return _all(jnp.isfinite, run.after(size))

    @LAWS.law(f"steps with gradients of size {size:g} stay on the manifolds", ON_MANIFOLD, obstacle)
    def stays(run: Run) -> float:
        return run.drift(run.after(size))


for _size in (1e-30, 1e30):
    _enter_laws_of_size(_size, (4, 8))
for _size in (1e-4, 1e4):
    _enter_laws_of_size(_size, (2,))


@_promise("a NaN gradient stays visible")
def _nan_gradient(run: Run) -> bool:
    nan = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), run.params)
    updates, _ = run.update(nan, run.state, run.params)
    return _all(jnp.isnan, updates)


@_promise("unknown extra arguments are ignored")
def _extra_arguments(run: Run) -> bool:
    # With gradients and known values, so that `retract_updates` sees whether steps are tangent.
    gradients = run.gradients(0)
    try:
        run.plain_update(gradients, run.state, run.params, an_unexpected_argument=jnp.ones(()))
    except TypeError:
        return False
    return True


@_promise("update without params says what is missing")
def _missing_params(run: Run) -> bool:
    try:
        run.plain_update(run.zero, run.state)
    except ValueError as error:
        return NO_PARAMS_MSG in str(error)
    return False
