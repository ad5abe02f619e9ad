"""The documents: short enough to read, and no link to a file that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("notebooks/src/*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "tests/benchmarks/RESULTS.md"]
DOCUMENTS += [*sorted(ROOT.glob("fgsgd_jax/**/*.md")), *SOURCES]


def test_the_readme_is_at_most_180_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_point_to_files(document):
    # A notebook lies one folder above its source.
    folder = document.parents[1] if document in SOURCES else document.parent
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not target.startswith(("http", "#")):
            assert (folder / target).exists(), target
