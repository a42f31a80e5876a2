"""The notebook, executed from its first cell to its last, and what is committed of it."""

import base64
import json
import re
import runpy

import nbformat
import pytest

from conftest import REPOSITORY

FOLDER = REPOSITORY / "experiments" / "create_graph_tour"
NOTEBOOK = FOLDER / "tour.ipynb"
PICTURE = "taylor_polynomials.png"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(notebook):
    data = [output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs]
    return [base64.b64decode(entry["image/png"]) for entry in data if "image/png" in entry]


@pytest.fixture
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_every_cell_runs_and_prints_what_is_committed(committed, tmp_path):
    before = {path: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}
    executed = runpy.run_path(str(FOLDER / "execute.py"))["execute"](tmp_path)
    assert {path: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()} == before
    for fresh, kept in zip(code_cells(executed), code_cells(committed), strict=True):
        assert fresh.source == kept.source
        assert printed(fresh) == printed(kept)
    assert "-16, 24, -24, 12, 0\n" in map(printed, code_cells(executed))
    assert pictures(executed) == [(tmp_path / PICTURE).read_bytes()]


def test_no_cell_is_left_unexecuted(committed):
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells[1:])  # the first one imports
    assert {output.get("name", "stdout") for cell in cells for output in cell.outputs} == {"stdout"}


def test_the_picture_beside_the_notebook_is_the_one_in_it(committed):
    assert pictures(committed) == [(FOLDER / PICTURE).read_bytes()]


def test_nothing_in_it_tells_of_a_machine_or_a_day(committed):
    assert committed.metadata == {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    assert not any(cell.metadata for cell in committed.cells)
    for cell in code_cells(committed):
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)  # base64 may hold any letters
    assert not re.findall(r"/(?:work|root|tmp|home|Users|usr|opt|var)\b", json.dumps(committed))
