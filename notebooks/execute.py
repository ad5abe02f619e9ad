"""Writes the executed notebooks from their sources: `python notebooks/execute.py [name …]`."""

import sys
import tempfile
from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).parent


def execute(source: Path) -> None:
    """Executes a text source in a fresh kernel and writes the notebook next to `src/`."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # not random, so that versions compare
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook,
            timeout=300,
            record_timing=False,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
        ).execute()
    nbformat.write(notebook, FOLDER / f"{source.stem}.ipynb")


if __name__ == "__main__":
    names = sys.argv[1:] or ["*"]
    for path in sorted(path for name in names for path in FOLDER.glob(f"src/{name}.py")):
        print(path.stem)
        execute(path)
