"""`Report`: what a check measured, law by law."""

from typing import NamedTuple

from fgsgd_jax._text import aligned


class Law(NamedTuple):
    """One line of a report.

    Attributes:
        name: The law.
        measured: How far it is from holding exactly.
        tolerance: The largest value that passes.
    """

    name: str
    measured: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the measured value is within the tolerance; NaN is not."""
        return self.measured <= self.tolerance


class Report(tuple[Law, ...]):
    """The laws that a check measured; `print` shows them as a table.

    The report on the weights of a network is another class, `fgsgd_jax.diagnostics.Report`.
    """

    @property
    def passed(self) -> bool:
        """Whether all laws hold."""
        return all(law.passed for law in self)

    @property
    def failures(self) -> "Report":
        """The laws that do not hold."""
        return Report(law for law in self if not law.passed)

    def __str__(self) -> str:
        rows = [("law", "measured", "tolerance", "verdict")]
        for name, measured, tolerance in self:
            verdict = "holds" if measured <= tolerance else "FAILS"
            rows.append((name, f"{measured:.1e}", f"{tolerance:.1e}", verdict))
        return "\n".join(aligned(rows, right=(1, 2)))
