"""ρ and c: numbers, schedules, or functions of the group."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import optax

from fgsgd_jax._functions import takes
from fgsgd_jax._numbers import checked_schedule, require_finite
from fgsgd_jax.spec import LeafSpec

WANTED = "a number, a schedule, or a function of the group marked by fgsgd_jax.per_group"


class Group(NamedTuple):
    """Static facts about the groups of one weight.

    Attributes:
        path: The path of the weight.
        leaf_spec: How it is cut, grouped and placed.
        components: The (mean) number of components in a group.

    Example:
        >>> import jax.numpy as jnp
        >>> import fgsgd_jax as fg
        >>> params = {"conv": jnp.ones((3, 3, 4, 8))}
        >>> spec = fg.collection(params, ("conv", fg.pom("PO", fg.Sphere())))
        >>> fg.Group("conv", spec["conv"], components=4.0).components  # slices of an output channel
        4.0
    """

    path: str
    leaf_spec: LeafSpec
    components: float

    @property
    def layer(self) -> LeafSpec:
        """The same as `leaf_spec`, its former name."""
        return self.leaf_spec


@dataclasses.dataclass(frozen=True)
class PerGroup:
    """A number that depends on the group. Made by `per_group`."""

    # Not callable itself: `optax.inject_hyperparams` treats every callable as a schedule.
    function: Callable[[Group], float]


def per_group(function: Callable[[Group], float]) -> PerGroup:
    """Marks a function of the group, for `rho` and `curvature`; bare callables are schedules.

    Args:
        function: Takes a `Group` and returns a number. It is called once for every weight, when an
            update is traced.

    Returns:
        What `rho` and `curvature` of `fgsgd` and `scale_by_fgsgd` take.

    Raises:
        TypeError: If it is no function of one argument.

    Example:
        A bound of the distance that grows with the diameter of a product of spheres:

        >>> import math
        >>> rho = per_group(lambda group: math.pi * math.sqrt(group.components))

    References:
        Ozay, 2019, Theorem 1: ρ and c are those of the product manifold of a group.
    """
    if not callable(function) or not takes(function, 1):
        raise TypeError(
            f"per_group takes a function of a Group, got {function!r}. Give numbers without it."
        )
    return PerGroup(function)


ScalarOrScheduleOrGroup = optax.ScalarOrSchedule | PerGroup
Rho = ScalarOrScheduleOrGroup | Literal["travelled"]


def checked_rho(rho: Any) -> Any:
    """ρ, which raises where it is known to be no distance; `TypeError` if it is of another form."""
    return rho if is_travelled(rho) else _checked("rho", rho, lowest=0.0)


def checked_curvature(curvature: Any) -> Any:
    """c, as `checked_rho`. It may be negative."""
    return _checked("curvature", curvature, lowest=-math.inf)


def is_travelled(rho: Any) -> bool:
    """Whether ρ is the distance travelled."""
    return isinstance(rho, str) and rho == "travelled"


def group_of(path: str, leaf_spec: LeafSpec, *, per_component: bool) -> Group:
    """Static facts about the groups of a weight."""
    groups = leaf_spec.components if per_component else leaf_spec.groups * leaf_spec.stacked
    return Group(path, leaf_spec, leaf_spec.components / groups)


def value_at(number: Rho, count: jax.Array, group: Group):
    """The value of a number, schedule or function of the group at a step."""
    if isinstance(number, PerGroup):
        return number.function(group)
    if not callable(number):
        return number
    try:
        return number(count)
    except AttributeError as error:
        raise TypeError(
            "A function given as rho or curvature is a schedule, called with the step count, where "
            f"it failed: {error}. Mark a function of the group by fgsgd_jax.per_group(…)."
        ) from error


def _checked(name: str, number: Any, lowest: float) -> Any:
    """A number, schedule or function of the group that raises where it makes no sense."""
    if isinstance(number, PerGroup):

        def of_group(group: Group):
            value = number.function(group)
            require_finite(f"{name} of {group.path!r}", value, lowest=lowest)
            return value

        return PerGroup(of_group)
    if not callable(number):
        require_finite(name, number, WANTED, lowest=lowest)
    return checked_schedule(name, number, lowest)
