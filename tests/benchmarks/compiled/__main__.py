"""The command `python -m tests.benchmarks.compiled`."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from fgsgd_jax.experiments import cli
from fgsgd_jax.experiments.arguments import one_of
from fgsgd_jax.experiments.bench import sections
from fgsgd_jax.experiments.cli import UsageError
from fgsgd_jax.experiments.files import write_text

from .. import console
from . import __doc__ as description
from . import table
from .devices import DEVICES, Device, environment

PROGRAM = "python -m tests.benchmarks.compiled"
REPOSITORY = Path(__file__).resolve().parents[3]
ENVIRONMENTS = REPOSITORY / ".venv-compiled"


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles as the arguments say, prints a table, and returns the exit code."""
    return console.run(PROGRAM, str(description), _compare, argv)


def _compare(
    *,
    devices: tuple[Annotated[str, one_of(DEVICES)], ...] = tuple(DEVICES),
    only: tuple[str, ...] = (),
    environments: Path = ENVIRONMENTS,
    write: bool = False,
) -> int:
    """Compiles updates, prints what they cost, and compares with the committed table.

    Args:
        devices: The devices to compile for.
        only: Compile the updates whose heading and name contain all of these.
        environments: The folder of the environments with the compilers.
        write: Replace the lines of the committed table by what was counted.
    """
    rows = [row for name in devices for row in _counted(name, only, environments)]
    if not rows:
        raise UsageError(f"--only {' '.join(only)}: no update has a name that contains this.")
    before = table.read()
    console = sections.new_console()
    for shown in table.tables(rows, before):
        console.print(shown)
    worse = table.worse(rows, before)
    if write:
        table.write(rows, _headline())
    for line in worse:
        console.print(line)
    return 1 if worse and not write else 0


def _versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in ("jax", "optax")}


def _headline() -> str:
    versions = _versions()
    return f"compiled by JAX {versions['jax']} with Optax {versions['optax']}, no device used"


def _counted(name: str, only: Sequence[str], environments: Path) -> Iterator[dict[str, Any]]:
    """The rows of a device, as its process prints them."""
    device = DEVICES[name]
    python = _python(name, device, environments)
    command = [str(python), "-m", "tests.benchmarks.compiled.worker", name, *only]
    with (
        subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(device), stdout=subprocess.PIPE, text=True
        ) as process,
        tqdm(desc=device.title, unit=" updates", disable=None) as bar,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
            bar.update()
    if process.returncode:
        raise UsageError(f"{' '.join(command)} ended with exit code {process.returncode}.")


def _python(name: str, device: Device, environments: Path) -> Path:
    """The interpreter of the environment of a device, which is made if it does not exist."""
    folder = environments / name
    python, done = folder / "bin" / "python", folder / "complete"
    versions = _versions()
    wanted = json.dumps(versions)
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"Installing the compiler for {device.title} in {folder} …", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    for options, packages in (
        ([], device.packages),
        (["--no-deps"], device.without_dependencies),
    ):
        if packages:
            exact = [package.format(**versions) for package in packages]
            command = [str(python), "-m", "pip", "install", "--quiet", *options, *exact]
            if subprocess.run(command, check=False).returncode:
                raise UsageError(
                    f"{' '.join(exact)} could not be installed; see the message of pip above."
                )
    write_text(done, wanted)
    return python


if __name__ == "__main__":
    cli.exit_after(main)
