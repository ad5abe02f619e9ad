"""How words of the command line are read, and the arguments that several commands share.

Each command has a dataclass in its `config.py`: its fields are the arguments, the texts under them
are the help.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import CoercionError, Group, Parameter, Token

from fgsgd_jax.experiments.cli import spelled
from fgsgd_jax.experiments.data import NAMES, ImageData, Name, load
from fgsgd_jax.experiments.mistakes import closest, must_be
from fgsgd_jax.spec import SCHEMES
from fgsgd_jax.spec import Scheme as Scheme

MANIFOLDS = {"sphere": "sp", "oblique": "ob", "stiefel": "st", "euclidean": "euc"}


def heading(name: str) -> Parameter:
    """The arguments under a heading of --help; headings are in the order of their creation."""
    return Parameter(group=Group.create_ordered(name))


DATA, METHOD, RUN = map(heading, ("Data", "Method", "Run"))


def read_by(
    parse: Callable[[str], Any],
    needed: str,
    suggest: Callable[[str], str | None] = lambda word: None,
    **settings: Any,
) -> Parameter:
    """An argument whose words are read by a function.

    Args:
        parse: The value of a word; raises `ValueError` or `KeyError` if it has none.
        needed: What a word has to be, for the message if it has no value.
        suggest: What a wrong word probably means.
        **settings: Further settings of `Parameter`; `n_tokens=-1` reads a tuple of values.
    """

    def read(token: Token) -> Any:
        try:
            return parse(token.value)
        except (ValueError, KeyError):
            said = must_be(needed, token.value, suggest(token.value))
            raise CoercionError(msg=said, token=token) from None

    def convert(kind: Any, tokens: Sequence[Token]) -> Any:
        values = tuple(map(read, tokens))
        return values if settings.get("n_tokens") == -1 else values[0]

    return Parameter(converter=convert, **settings)


def _within(kind: Callable[[str], float], accepts: Callable[[float], bool]) -> Callable:
    """The function from a word to its number; it raises `ValueError` outside of a range."""

    def parse(word: str) -> float:
        number = kind(word)
        if not accepts(number):  # also NaN
            raise ValueError
        return number

    return parse


def whole(least: int, below: float = math.inf) -> Parameter:
    """A whole number, at least `least` and less than `below`."""
    needed = f"a whole number of at least {least}"
    end = f" and below {below}" if below < math.inf else ""
    parse = _within(int, lambda number: least <= number < below)
    return read_by(parse, needed + end, _with_spaces)


def real(least: float, below: float = math.inf) -> Parameter:
    """A finite number, at least `least` and less than `below`."""
    finite, end = ("", f" and below {below:g}") if below < math.inf else ("finite ", "")
    needed = f"a {finite}number of at least {least:g}{end}"
    return read_by(_within(float, lambda number: least <= number < below), needed, _with_spaces)


def _with_spaces(word: str) -> str | None:
    """Several numbers as they are separated on the command line, by spaces."""
    return word.replace(",", " ").strip() if "," in word else None


def one_of(names: Iterable[str]) -> Parameter:
    """One of some names, in upper or lower case."""
    known = {name.lower(): name for name in names}
    needed = f"one of {', '.join(known.values())}"
    return read_by(
        lambda word: known[word.lower()], needed, lambda word: closest(word, known.values())
    )


_positive = _within(float, lambda number: 0 < number < math.inf)
POSITIVE = read_by(_positive, "a finite number above 0")


def number_or(names: Iterable[str]) -> Parameter:
    """A finite number above 0, or one of some names."""
    known = {name.lower(): name for name in names}
    return read_by(
        lambda word: known.get(word.lower()) or _positive(word),
        f"a finite number above 0 or one of {', '.join(known.values())}",
        lambda word: closest(word, known.values()),
    )


_FULL_NAMES = {name: name for name in MANIFOLDS} | {
    short: name for name, short in MANIFOLDS.items()
}


def _parts(word: str) -> list[str]:
    return [part.strip().lower() for part in word.replace(",", "+").split("+")]


def _closest_sum(word: str) -> str | None:
    names = [closest(part, _FULL_NAMES) for part in _parts(word)]
    return "+".join(filter(None, names)) if all(names) else None


def mixture(**settings: Any) -> Parameter:
    """Names of manifolds joined by +, each in full or in its short form."""
    forms = ", ".join(f"{name} ({short})" for name, short in MANIFOLDS.items())
    return read_by(
        lambda word: tuple(_FULL_NAMES[part] for part in _parts(word)),
        f"one name or several joined by +, out of {forms}",
        _closest_sum,
        **settings,
    )


Count = Annotated[int, whole(1)]
Positive = Annotated[float, POSITIVE]
DataName = Annotated[Name, one_of(NAMES)]
SchemeName = Annotated[Scheme, one_of(SCHEMES)]
Manifolds = Annotated[tuple[str, ...], mixture(n_tokens=1, show_default=spelled)]
SeveralManifolds = Annotated[tuple[tuple[str, ...], ...], mixture(n_tokens=-1)]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The images of a command, and where they are read."""

    data: Annotated[DataName, DATA] = "digits"
    """digits come with scikit-learn, the others from --data-dir"""

    data_dir: Annotated[Path | None, DATA] = None
    """the folder with the data, in a format that `train` reads; nothing is downloaded"""

    train_size: Annotated[int | None, whole(1), DATA] = None
    """use only this many of the training images, including those held out for validation (default:
    all)"""

    cache_dir: Annotated[Path | None, DATA] = None
    """cache decoded pictures here for later runs (default: decode every time)"""

    quiet: Annotated[bool, RUN] = False
    """print only the path of the run folder"""

    def load(self) -> ImageData:
        """Loads the images.

        Raises:
            UsageError: If files are missing or damaged.
        """
        return load(
            self.data,
            self.data_dir,
            train_size=self.train_size,
            cache_dir=self.cache_dir,
            quiet=self.quiet,
        )
