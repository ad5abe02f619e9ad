"""The notebooks: each agrees with its text source, has been executed, and runs."""

from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("src/*.py"))
TIMEOUT = 300  # seconds for one cell; a whole notebook takes under a minute

# Jupyter's own packages warn of their own future; the notebooks' warnings show in their outputs.
pytestmark = pytest.mark.filterwarnings("default")

each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def executed(source: Path):
    """The notebook that belongs to a source, with its outputs."""
    return nbformat.read(FOLDER / f"{source.stem}.ipynb", as_version=4)


def outputs(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def complaints(notebook) -> list[str]:
    """Errors, and whatever was written to stderr, such as warnings and progress bars."""
    return [
        output.get("text") or output.get("evalue")
        for output in outputs(notebook)
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def has_image(notebook) -> bool:
    return any("image/png" in output.get("data", ()) for output in outputs(notebook))


def test_every_notebook_has_a_source():
    names = [path.stem for path in SOURCES]
    assert names == sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    assert names


@each_source
def test_notebook_agrees_with_its_source(source):
    text, notebook = jupytext.read(source), executed(source)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in text.cells
    ], f"run: python notebooks/execute.py {source.stem}"


@each_source
def test_notebook_has_been_executed(source):
    notebook = executed(source)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # once, from top to bottom
    assert complaints(notebook) == []
    assert has_image(notebook)


@each_source
def test_notebook_asks_for_nothing_that_cannot_be_installed(source):
    """The package is on no index, and the repository has no public address."""
    text = source.read_text()
    assert "colab" not in text
    assert "git+" not in text
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert installs == [
        '# To run it: `pip install -e ".[notebooks]"` in a clone of the repository.'
    ]


@pytest.mark.slow
@each_source
def test_notebook_runs(source, tmp_path, monkeypatch):
    # The kernel chooses the backend that shows figures in the notebook; one set here would win.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = executed(source)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT,
        startup_timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    assert complaints(notebook) == []
    assert has_image(notebook)
