"""Sixteen processes log at once: no error, nothing lost, nothing twice."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def writers(reliability):
    return reliability("writers")


LOAD = {"steps": 6, "keys": 5}
WELL = {"writers": 16, "points": 16 * 30, "lost": 0, "duplicated": 0, "errors": 0}


def told(writers, row):
    table = dict(zip(writers.COLUMNS, row, strict=True))
    return {name: table[name] for name in WELL}


def test_on_one_sqlite_file(writers, project):
    uri = f"sqlite:///{project / 'mlruns' / 'mlflow.db'}"
    assert told(writers, writers.examine("SQLite file", uri, project, writers.Load(**LOAD))) == WELL


def test_on_a_server_with_postgresql(writers, tmp_path):
    programs = writers.postgres_folder()
    if programs is None:
        pytest.skip("needs PostgreSQL's initdb and postgres (Debian: postgresql)")
    assert told(writers, writers.on_postgres(tmp_path, writers.Load(**LOAD), programs)) == WELL
