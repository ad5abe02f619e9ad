"""Given in place of parameters by mistake: what it is, and where the parameters are."""

from collections.abc import Mapping
from typing import Any

import jax

from fgsgd_jax._trees import is_nnx_module

# Collections of variables beside the parameters of a Flax Linen module, and classes of variables
# beside the parameters of a Flax NNX module.
_LINEN = {"batch_stats", "cache", "intermediates", "losses", "perturbations"}
_NNX = ("BatchStat", "Cache", "Intermediate", "RngState", "Perturbation")


def require_tree_of_arrays(tree: Any) -> None:
    """Raises if a spec, a module, a training state, an optimizer or its state was given.

    Classes of Flax and Optax are recognized by name, so that Flax need not be imported.

    Raises:
        TypeError: The message says what was given, and where the parameters are.
    """
    advice = _advice(tree)
    if advice:
        raise TypeError(
            f"`params` must be the parameters, a tree of arrays, but {type(tree).__name__} was "
            f"given: {advice}."
        )


def _advice(tree: Any) -> str:
    """Where the parameters are; "" if nothing speaks against a tree of parameters."""
    if _is_a(tree, "Collection", "fgsgd_jax"):
        return "give the parameters that this spec was built from"
    if _is_a(tree, "Manifold", "fgsgd_jax"):
        return "give the parameters that are to lie on manifolds"
    if is_nnx_module(tree):
        return "nnx.state(module, nnx.Param) are the parameters of a Flax NNX module"
    if _is_a(tree, "Module", "flax.linen"):
        return "a Flax module holds no parameters; they are module.init(key, inputs)['params']"
    if _is_a(tree, "Optimizer", "flax.nnx"):
        return "it holds an optimizer state; the parameters are nnx.state(model, nnx.Param)"
    if _is_a(tree, "TrainState", ""):
        return "the parameters of a training state are state.params"
    if _is_a(tree, "GradientTransformation", "optax"):
        return "it is an optimizer; give the parameters that it is to change"
    if isinstance(tree, Mapping) and "params" in tree and _LINEN & set(tree):
        return "it has the variables of a Flax module; its parameters are variables['params']"
    if jax.tree_util.all_leaves([tree]) and not hasattr(tree, "shape"):
        return "give a dictionary of arrays, or what your framework holds as parameters"
    if any(map(_is_no_parameter, jax.tree.leaves(tree, is_leaf=_is_no_parameter))):
        return "it holds variables that are not trained; take nnx.state(model, nnx.Param)"
    states = jax.tree.leaves(tree, is_leaf=_is_optimizer_state)
    if any(map(_is_optimizer_state, states)):
        return "it holds the state of an optimizer; give the parameters that it was made for"
    return ""


def _is_no_parameter(node: Any) -> bool:
    return any(_is_a(node, name, "flax.nnx") for name in _NNX)


def _is_optimizer_state(node: Any) -> bool:
    return _is_a(node, "State", "optax") or _is_a(node, "State", "fgsgd_jax")


def _is_a(node: Any, name: str, package: str) -> bool:
    """Whether a class of an object, or one it inherits from, has a name that ends so."""
    return any(
        cls.__name__.endswith(name) and cls.__module__.startswith(package)
        for cls in type(node).__mro__
    )
