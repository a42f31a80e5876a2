"""The study of meta-learners: its README says what its results say, and nothing that has no bound looks as if it had one."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import yaml

from conftest import REPOSITORY

FOLDER = REPOSITORY / "experiments" / "sinusoid"


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("meta_report", REPOSITORY / "experiments" / "meta_report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plan():
    return yaml.safe_load((FOLDER / "study.yaml").read_text())


def test_the_readme_has_the_table_of_the_results(report, plan):
    results = pd.read_csv(FOLDER / "results.csv")
    assert report.table(results, plan) in (FOLDER / "README.md").read_text()


def test_a_seed_that_diverges_makes_the_mean_diverge(report):
    curve = {"row": "a", "steps": [0, 1], "loss_median": 0.5, "loss_ci95": 0.1, "diverged": 0}
    results = pd.concat([pd.DataFrame({**curve, "seed": seed, "loss": [1.0, last]}) for seed, last in enumerate([0.2, np.nan])])
    plan = {"rows": [{"name": "a"}, {"name": "not run"}], "shown_steps": [0, 1], "drawn": ["a"], "label": "loss"}
    assert report.table(results, plan).splitlines()[2:] == [
        "| a | - | 1.000 ± 0.100 (0.000) | diverges, median 0.500 | 2 | 0, 0 |"
    ]
    lines = report.figure(results, plan).axes[0].get_lines()
    assert [list(line.get_xdata()) for line in lines] == [[0], [0, 1]]  # the mean where there is one, the median everywhere


def test_every_row_names_a_config(plan):
    for row in plan["rows"]:
        assert (REPOSITORY / row["config"]).is_file()
