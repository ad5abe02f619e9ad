"""The house: what is public, what is documented, and that imports go down the floors."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import fgsgd_jax as fg

PACKAGE = pathlib.Path(fg.__file__).parent
ROOT = PACKAGE.parent

PUBLIC = {
    "Collection", "Component", "Euclidean", "Group", "Layer", "LeafSpec", "Manifold", "Oblique",
    "Pom", "Product", "Sphere", "Stiefel", "apply_gradients", "average_on_manifolds", "balance",
    "bounds", "checked", "checks", "collection", "diagnostics", "fgsgd", "get_average",
    "get_feature_std", "initialize", "keep_on_manifolds", "land_updates", "manifold_muon",
    "norms", "on_manifold", "path_norm", "path_scales", "path_sgd", "per_group", "pom",
    "project", "project_to_tangent", "rdog", "report", "residual", "retract_updates",
    "riemannian_adam", "robbins_monro", "rsgd", "scale_by_fgsgd", "scale_by_manifold_muon",
    "scale_by_path", "scale_by_rdog", "scale_by_riemannian_adam", "set_feature_std",
    "trace_on_manifold", "unbalance", "with_master_weights",
}  # fmt: skip

MODULES = {"bounds", "checks", "diagnostics", "norms"}

# Floors from the ground up; an import may go down or stay, never up.
FLOORS = [
    "_text", "_trees", "_arrays", "_functions", "_numbers", "_keys", "_jaxpr",
    "_xla_cpu", "linalg", "geometry", "spec", "kernels", "pathsgd", "norms",
    "transforms", "optimizers", "bounds", "diagnostics", "checks", "features", "linen", "nnx",
    "experiments",
]  # fmt: skip
# `checks` looks down at everything and is looked at by no transform; the top module re-exports.


def modules():
    return [
        path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"
    ]


def floor_of(dotted: str) -> str:
    return dotted.split(".")[1]


def test_the_public_names_are_these():
    public = {
        name
        for name, value in vars(fg).items()
        if not name.startswith("_") and (not inspect.ismodule(value) or name in MODULES)
    }
    assert public == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - MODULES))
def test_every_public_name_is_documented(name):
    documentation = inspect.getdoc(getattr(fg, name))
    assert documentation
    assert documentation[0].isupper()
    if inspect.isfunction(getattr(fg, name)):
        parameters = inspect.signature(getattr(fg, name)).parameters
        for parameter in parameters:
            assert re.search(rf"\b{parameter}\b.*:", documentation), (
                f"{name} does not say {parameter}"
            )


def test_imports_go_down_the_floors():
    for path in modules():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__main__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            imported = node.module if isinstance(node, ast.ImportFrom) else None
            if imported is None or not imported.startswith("fgsgd_jax."):
                continue
            other = floor_of(imported)
            assert FLOORS.index(other) <= FLOORS.index(own), f"{path} imports {imported}"


def test_private_files_of_a_room_are_imported_by_that_room_only():
    for path in modules():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "fgsgd_jax."
            ):
                continue
            room, *files = node.module.split(".")[1:]
            names = [*files, *(alias.name for alias in node.names)] if room != own else []
            private = [name for name in names if name.startswith("_")]
            assert not private, f"{path} imports {private} of {room}; use what {room} exports"


@pytest.mark.slow
def test_importing_the_library_imports_no_flax_and_no_extra():
    program = (
        "import sys, fgsgd_jax; "
        "print([m for m in ('flax', 'matplotlib', 'sklearn', 'orbax', 'rich', 'tqdm', 'chex') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_quick_start_of_the_readme_is_two_commands():
    readme = (ROOT / "README.md").read_text()
    section = readme.split("## Quick start")[1]
    block = re.search(r"```\w*\n(.*?)```", section, re.DOTALL)
    assert block is not None
    assert block.group(1).strip().splitlines() == [
        "uv run --extra train python -m fgsgd_jax train",
        "uv run --extra dev pytest",
    ]


def readme_examples():
    text = (ROOT / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_the_python_blocks_of_the_readme_run():
    blocks = readme_examples()
    assert len(blocks) >= 2
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert "fg" in namespace


@pytest.mark.slow
def test_optimizers_pass_their_own_check():
    import jax

    params = {
        "conv": {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 4, 6))},
        "head": {"kernel": jax.random.normal(jax.random.key(1), (8, 4))},
    }
    spec = fg.collection(params)
    params = fg.project(params, spec)
    for tx in (fg.fgsgd(0.5, spec, momentum=0.9, nesterov=True), fg.rsgd(0.1, spec, momentum=0.9)):
        report = fg.checks.check_optimizer(tx, params, spec)
        assert report.passed, f"\n{report.failures}"


@pytest.mark.slow
def test_the_optimizer_check_finds_a_link_after_the_retraction():
    import jax
    import optax

    params = {"conv": jax.random.normal(jax.random.key(0), (3, 3, 4, 6))}
    spec = fg.collection(params)
    params = fg.project(params, spec)
    report = fg.checks.check_optimizer(
        optax.chain(fg.rsgd(0.1, spec), optax.scale(0.5)), params, spec
    )
    assert "steps stay on the manifolds" in {law.name for law in report.failures}


def test_the_optimizer_check_finds_two_specs_in_one_chain():
    import jax
    import optax

    params = {"conv": jax.random.normal(jax.random.key(0), (3, 3, 4, 6))}
    request = ("conv", fg.pom("PIO", fg.Sphere(), groups=2))
    spec, other = (fg.collection(params, request, seed=seed) for seed in (0, 1))
    params = fg.project(params, spec)
    for used in (spec, other):
        links = fg.project_to_tangent(spec), fg.scale_by_fgsgd(used), fg.retract_updates(spec)
        tx = optax.chain(*links[:2], optax.scale(-0.1), links[2])
        report = fg.checks.check_optimizer(tx, params, spec, steps=2)
        failed = "all parts of the state belong to the spec" in {
            law.name for law in report.failures
        }
        assert failed == (used is other)
