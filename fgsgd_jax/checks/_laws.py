"""Tables of laws: how each law is measured, where it applies, and which value passes."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fgsgd_jax._numbers import require_not_negative
from fgsgd_jax._text import shown
from fgsgd_jax.checks._report import Law, Report

# A number, or one for every item size (in bytes) of the dtype in which a law is measured.
Tolerance = float | Mapping[int, float]

# Round-off of a few operations on unit vectors: the tolerances of Manopt and geomstats.
ROUNDING = {4: 1e-6, 8: 1e-12}
# Through a matrix exponential, or through a logarithm found by iteration.
ITERATED = {4: 1e-4, 8: 1e-9}
# Second derivatives lose half of the digits of the function.
CURVED = {4: 1e-4, 8: 1e-10}


def always(subject: Any) -> None:
    """The obstacle of laws that always apply: none."""
    del subject


@dataclasses.dataclass(frozen=True)
class Definition:
    """A law, before it is measured.

    Attributes:
        measure: A function of what the check sampled. It returns how far the law is from holding:
            a number, or an array whose largest entry counts.
        tolerance: The largest value that passes, by default.
        obstacle: A function of the subject of the check. It returns the reason why the law does not
            apply, or None if it applies.
    """

    measure: Callable[[Any], Any]
    tolerance: Tolerance
    obstacle: Callable[[Any], str | None] = always


class LawTable(dict[str, Definition]):
    """The laws of a check, by name, in the order in which they are reported."""

    def law(
        self,
        name: str,
        tolerance: Tolerance,
        obstacle: Callable[[Any], str | None] = always,
    ) -> Callable:
        """A decorator that enters a function in the table, as the measurement of a law."""

        def enter(measure: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self[name] = Definition(measure, tolerance, obstacle)
            return measure

        return enter

    def select(
        self,
        check: str,
        subject: Any,
        laws: str | Iterable[str] | None,
        tolerances: Mapping[str, float] | None,
    ) -> tuple[str, ...]:
        """The names of the laws to measure: those asked for, or all that apply to the subject.

        Args:
            check: The name of the check, for messages.
            subject: What is checked, for the obstacles of laws.
            laws: The names that the user gave, or one name; None for all that apply.
            tolerances: The tolerances that the user gave, by name.

        Returns:
            The names, in the order of the table.

        Raises:
            TypeError: If laws or tolerances are of another kind.
            ValueError: If a name is unknown, a tolerance is negative, or a law was asked for that
                does not apply.
        """
        _require_tolerances(tolerances)
        self._require_known(check, "tolerances", tolerances or ())
        obstacles = {name: law.obstacle(subject) for name, law in self.items()}
        if laws is None:
            return tuple(name for name, obstacle in obstacles.items() if obstacle is None)
        asked = _names(laws)
        self._require_known(check, "laws", asked)
        for name in asked:
            if obstacles[name] is not None:
                raise ValueError(
                    f"{check} cannot measure the law {name!r}: {obstacles[name]}. Leave the law "
                    "out of `laws`."
                )
        return tuple(name for name in self if name in asked)

    def _require_known(self, check: str, argument: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in self:
                known = ", ".join(map(repr, self))
                raise ValueError(
                    f"{check} has no law {name!r}, given in `{argument}`. The laws it knows are "
                    f"{known}."
                )

    def report(
        self,
        measured: Mapping[str, Any],
        tolerances: Mapping[str, float] | None,
        item_size: int = 4,
    ) -> Report:
        """A report of the measured laws, in the order of the table.

        Args:
            measured: The values, by the name of the law.
            tolerances: The tolerances that replace the default ones, by name.
            item_size: The item size in bytes of the dtype of the measurement.
        """

        def tolerance(name: str) -> float:
            default = self[name].tolerance
            number = default[item_size] if isinstance(default, Mapping) else default
            return float((tolerances or {}).get(name, number))

        return Report(
            Law(name, float(measured[name]), tolerance(name)) for name in self if name in measured
        )


def _require_tolerances(tolerances: Any) -> None:
    if tolerances is None:
        return
    if not isinstance(tolerances, Mapping):
        raise TypeError(
            "`tolerances` are numbers by the name of a law, such as {'retract is smooth': 1e-4}, "
            f"or None, got {shown(tolerances)}."
        )
    for name, tolerance in tolerances.items():
        require_not_negative(f"The tolerance of {name!r}", tolerance)


def _names(laws: Any) -> tuple[str, ...]:
    """The names of the laws that the user gave, or one name."""
    if isinstance(laws, str):
        return (laws,)
    several = isinstance(laws, Iterable) and not hasattr(laws, "shape")
    names = tuple(laws) if several else ()
    if not several or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "`laws` are the names of the laws to measure, as a report shows them, or None, got "
            f"{shown(laws)}."
        )
    return names
