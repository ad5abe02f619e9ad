"""Errors of presets that place nothing, or a weight that they cannot cut: why, and what to do."""

from collections.abc import Iterable, Mapping

from fgsgd_jax._trees import listed
from fgsgd_jax.spec._layouts import DEFAULT, letters_for, stacked
from fgsgd_jax.spec._reasons import Reason
from fgsgd_jax.spec.networks._fused import OUTPUTS_MAY_COME_FIRST
from fgsgd_jax.spec.networks._heads import Leaves
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import is_called_as_in_pytorch
from fgsgd_jax.spec.networks._readings import as_rules, of_layers, readings
from fgsgd_jax.spec.networks._recurrent import holds_input_and_recurrent
from fgsgd_jax.spec.networks._stacked import Layouts

_LISTED = 8


def nothing_placed(
    preset: str,
    placements: Iterable[str],
    reasons: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
    layouts: Layouts,
    unsaid: str,
) -> str:
    """The message where a preset finds none of its weights: why each leaf is none, and what to do.

    Args:
        preset: The name of the preset.
        placements: The weights that the preset places.
        reasons: By path, why a leaf is Euclidean.
        shapes: By path, the shapes without stacked layers.
        layouts: The layout of every leaf.
        unsaid: The sentence on weights of which nothing says what they are, or "".
    """
    by_reason: dict[object, list[str]] = {}
    for path, why in reasons.items():
        if why != Reason.FEW_AXES or len(set(reasons.values())) == 1:
            by_reason.setdefault(why, []).append(path)
    whys = [f"{listed(paths, 3)} ({why})" for why, paths in by_reason.items()]
    more = f"; and {len(whys) - _LISTED} more reasons" if len(whys) > _LISTED else ""
    return (
        f"preset={preset!r} finds none of its weights ({'; '.join(placements)}): Euclidean are "
        f"{'; '.join(whys[:_LISTED])}{more}. {unsaid or _instead(preset, reasons, shapes, layouts)}"
    )


def unreadable(
    path: str, what: str, leaves: Leaves, layouts: Layouts, *, stacked_layers: bool = False
) -> str:
    """The message for a weight of a preset whose axes nothing says.

    Args:
        path: The path of the weight.
        what: What speaks against a cut of it, for the end of a sentence.
        leaves: The pairs (path, leaf).
        layouts: The layout of every leaf.
        stacked_layers: Whether it holds stacked layers, for certain.
    """
    shapes, layout = {other: tuple(leaf.shape) for other, leaf in leaves}, layouts.own[path]
    found = readings(path, shapes[path], shapes, layout)
    if stacked_layers:
        found = of_layers(shapes[path], found)
    rules = f", such as {as_rules(path, shapes[path], found, layouts.rules)}" if found else ""
    by_layout = (
        ""
        if any("S" in (its or "") for its in layouts.own.values())
        else f", or give layout={stacked(layout)!r} if its first axis "
        "and those of the leaves beside it stack layers"
    )
    return f"{path!r} has shape {shapes[path]}, {what}. Name its axes in a rule{rules}{by_layout}."


def require_nested(preset: str, paths: Iterable[str]) -> None:
    """Raises if a key is a whole path, so that no name says which leaves stand side by side."""
    keys = {path: path.rpartition("/")[2] for path in paths}
    flat = [path for path, key in keys.items() if "." in key or "', '" in key]
    if flat:
        by = ", sep='.'" if "." in keys[flat[0]] else ""
        raise ValueError(
            f"preset={preset!r} reads names of nested trees, but {flat[0]!r} is a whole path in "
            f"one key. Nest the parameters, as flax.traverse_util.unflatten_dict(params{by}) does, "
            "or place the leaves by rules."
        )


def _instead(
    preset: str,
    reasons: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
    layouts: Layouts,
) -> str:
    """What to do where a preset finds nothing."""
    if preset == "rnn" and (both := [path for path in shapes if holds_input_and_recurrent(path)]):
        return (
            f"{listed(both)} holds the input and the recurrent matrices in one weight, and a "
            "weight is on manifolds as a whole: take a cell that keeps them apart, such as "
            "haiku.GRU."
        )
    three = [path for path, its in shapes.items() if len(its) == 3 and kind_of(path) == "dense"]
    if three and layouts.of_one is None:
        return (
            f"Weights of three axes, such as {three[0]!r}, need layout='SIO' if their first axis "
            "stacks layers or networks; otherwise name their axes in rules."
        )
    matrices = [path for path, its in shapes.items() if len(its) > 1]
    named_weight = any(map(is_called_as_in_pytorch, matrices))
    doubtful = OUTPUTS_MAY_COME_FIRST in reasons.values()
    inputs_first = not (letters_for(layouts.of_one or DEFAULT, 2) or "O").startswith("O")
    ends = [why for why in reasons.values() if why in (Reason.LAST_DENSE, Reason.UNREAD)]
    if inputs_first and len(ends) > 1:
        given = f", and not as in layout={layouts.of_one!r}" if layouts.of_one else ""
        return (
            "No layer reads the output of another. If outputs come first, as in Equinox and "
            f"PyTorch{given}, give layout='OIHW'; else name the weights in rules, or choose "
            "another preset."
        )
    if layouts.of_one is None and (named_weight or doubtful):
        return (
            "If outputs come first, as in Equinox and PyTorch, give layout='OIHW'; else name the "
            "weights in rules, or choose another preset."
        )
    return "Name the weights in rules, or choose another preset."
