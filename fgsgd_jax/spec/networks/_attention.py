"""The weights of an attention layer, by their names and the weights beside them."""

import re
from collections.abc import Iterable, Mapping

from fgsgd_jax.spec._components import Component
from fgsgd_jax.spec._spelling import axis_called
from fgsgd_jax.spec.networks._kinds import kind_of
from fgsgd_jax.spec.networks._names import keys_of, module_and_name, words_of

Shape = tuple[int, ...]

_OUTPUTS = {"o", "out", "output", "wo"}
PLAIN = {"proj", "projection", "to", "w", "c", "in", "attn", "attention", "linear", "dense"}
PLAIN |= {"general", "einsum", "layer", "fused", "self", "cross", "mha", "weight", "kernel"}
PLAIN |= {"fc", "net", "vec", "att", "receptance"}  # RWKV's name for a query
_KEYS = {"q", "k", "v", "key", "value"}  # alone they may mean something else
_QUERIES = {"query", "qkv", "kv", "wq", "wk", "wv", "wqkv", "wkv"}
_PROJECTS = {"proj", "projection", "w", "to"}
PARTS = {"qkv": 3, "wqkv": 3, "kv": 2, "wkv": 2}


def is_attention_output(path: str, paths: Iterable[str]) -> bool:
    """Whether a weight is the output of an attention layer, by its path and the paths beside it.

    Example:
        >>> is_attention_output("attn/out/kernel", [])
        True
        >>> is_attention_output("mixer/out/kernel", ["mixer/query/kernel", "mixer/out/kernel"])
        True
    """
    if kind_of(path) not in ("attention", "dense", "") or may_be_fused(path):
        return False
    _, name = module_and_name(path)
    words, inside = _words_in_module(path), is_in_attention(path)
    if inside and words & _OUTPUTS:
        return True
    if words - _OUTPUTS - PLAIN:
        return False
    if inside and words & {"proj", "projection", "vec"} and not words & {"in", "to"}:
        return True
    named = name == "proj" or words & _OUTPUTS or inside
    return bool(named) and any(
        kind_of(other) == "query" or may_be_fused(other) for other in beside(path, paths)
    )


def is_in_attention(path: str) -> bool:
    """Whether a weight stands in an attention layer itself, and not in a layer inside of it."""
    kind, (module, name) = kind_of(path), module_and_name(path)
    return kind in ("attention", "dense") and "attention" in {
        kind,
        *map(kind_of, (*_without_output(module)[-1:], name)),
    }


def seems_of_attention(path: str, paths: Iterable[str]) -> bool:
    """Whether a weight called as queries, keys or values are is one of them.

    A `value` may as well be the head of a critic: unless a name is that of no other weight, the
    weight has to stand in an attention layer, or beside others called so.
    """
    words = set(words_of(module_and_name(path)[1]))
    projects = words & _PROJECTS and not words - _PROJECTS - _KEYS
    in_attention = bool(words & _QUERIES or projects) or any(
        kind_of(key) == "attention" for key in keys_of(path)
    )
    feeds_forward = kind_of("/".join(module_and_name(path)[0])) == "dense"  # as in RWKV
    return in_attention or any(
        kind_of(other) == "query" or may_be_fused(other)
        for other in beside(path, () if feeds_forward else paths)
    )


def queries_beside(path: str, shapes: Mapping[str, Shape]) -> list[Shape]:
    """The shapes of the queries, keys and values in the module of a weight."""
    return [shapes[other] for other in beside(path, shapes) if kind_of(other) == "query"]


def may_be_any_projection(path: str, shape: Shape) -> bool:
    """Whether a weight is a query, key, value or output, all of which are cut alike.

    A square matrix is, in an attention layer, if its name says nothing of something else.
    """
    return len(shape) == 2 and shape[0] == shape[1] and not _words_in_module(path) - PLAIN


def parts_of(path: str) -> int:
    """How many matrices a name such as `qkv` stands for; 0 for all other names."""
    words = words_of(module_and_name(path)[1])
    return next((count for word, count in PARTS.items() if word in words), 0)


def check_heads(
    path: str, component: Component, shapes: Mapping[str, Shape], *, keeps_variance: bool
) -> None:
    """Raises if a cut that names an axis `heads` cannot count the heads of a weight as it does.

    In the output of an attention layer, heads come before their size, and what they give is added.

    Args:
        path: The path of the weight.
        component: Its cut.
        shapes: The shapes of all leaves.
        keeps_variance: Whether the scale is to keep the variance of features.

    Raises:
        ValueError: The message lacks its subject, the path of the weight, for the caller to add.
    """
    axis = axis_called("heads", component.name)
    if axis is None or not is_attention_output(path, shapes):
        return
    queries = queries_beside(path, shapes)
    shape, first = shapes[path], len(shapes[path]) - 3
    if (
        axis != first
        and first not in component.stack  # layers, of which there may be as many as heads
        and not component.split
        and any(len(its) > 2 and its[-2:] == shape[-3:-1] for its in queries)
    ):
        raise ValueError(
            f"has shape {shape}, with {shape[first]} heads on axis {first} as the output of an "
            f"attention layer, but its component {component.name!r} names axis {axis} heads. Give "
            f"it a rule of its own, before this one, such as component='{'layers ' * first}"
            "heads:rows size:rows out:columns'"
        )
    if keeps_variance and axis in component.stack:
        cut = re.sub(r"\bheads(=\d+)?(:stack)?", r"heads\1:inputs", component.name)
        raise ValueError(
            "is the output of an attention layer, which adds up what its heads give, so to keep "
            f"the variance they count as inputs: write component={cut!r}"
        )


def _without_output(module: tuple[str, ...]) -> tuple[str, ...]:
    """A module without the last keys that name an output, as in `attention/output/dense`."""
    while module and module[-1] in ("out", "output"):
        module = module[:-1]
    return module


def _words_in_module(path: str) -> set[str]:
    """The words of a weight's name, and `output` where it stands in a module of this name."""
    module, name = module_and_name(path)
    return {*words_of(name), *module[len(_without_output(module)) :]}


def may_be_fused(path: str) -> bool:
    """Whether a name may mean several matrices: `c_attn`, or `in_proj` in an attention layer."""
    module, name = module_and_name(path)
    of_attention = any(kind_of(key) == "attention" for key in module[-1:])
    return name in ("c_attn", "att_proj", "attn_proj") or (
        name in ("in_proj", "in_proj_weight") and of_attention
    )


def beside(path: str, paths: Iterable[str]) -> Iterable[str]:
    """The other paths in the module of a weight."""
    module, _ = module_and_name(path)
    return (other for other in paths if other != path and module_and_name(other)[0] == module)
