"""A comparison as text."""

import math
import re

import pandas as pd
import pytest

from comparisons import WEIGHT, compared, grid, run
from gradgrad.tracking import comparison_tables as tables
from gradgrad.tracking.comparison_figure import comparison_figure

TABLE = {"0.0": {0: 3.0, 1: 5.0, 2: 4.0}, "0.3": {0: 2.0, 1: 4.5, 2: 3.9}, "1.0": {0: 9.0}}
CAPTION = (
    "test/rmse of x; lower is better. {}: the lowest mean. Mean and standard error over seed_everything; intervals: 95 %,"
    " Student t. Differences: group minus weight=0.0, paired by seed_everything."
    " p: paired t-test, two-sided, corrected for 1 comparison (holm)."
)
NOTHING = "\u2013"  # a dash
COMPARED = ["difference", "95 % interval", "wins/losses/ties", "p", "p (holm)"]
HOSTILE = ["[50]", "*", r"a_b^c~d\e{f}&%$#<>|`x`", "two\nlines", "[bold]x[/bold]", "-1"]


@pytest.fixture(scope="module")
def comparison():
    return compared(grid(TABLE), against=["0"])


def hostile():
    runs = [
        run({WEIGHT: value, "seed_everything": seed}, {"a_metric%": float(seed + 1)}) for value in HOSTILE for seed in range(2)
    ]
    return compared(runs, metric="a_metric%")


def test_the_terminal(comparison, capsys):
    tables.print_table(comparison)
    table, caption = capsys.readouterr().out.split("┘\n")
    rows = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in table.splitlines() if line[0] in "┃│"]
    assert rows == [
        [
            "weight",
            "n",
            "mean",
            "standard error",
            "95 % interval",
            "difference",
            "95 % interval",
            "wins/losses/ties",
            "p",
            "p (holm)",
        ],
        ["0.0", "3", "4.00", "0.58", "[1.52, 6.48]", *[NOTHING] * 5],
        ["0.3", "3", "3.47 *", "0.75", "[0.22, 6.71]", "-0.53", "[-1.65, 0.59]", "3/0/0", "0.177", "0.177"],
        ["1.0", "1", "9.00", NOTHING, NOTHING, "6.00", NOTHING, "0/1/0", NOTHING, NOTHING],
    ]
    assert caption == CAPTION.format("*") + "\n"


def test_markdown(comparison):
    text = tables.markdown(comparison)
    assert "| 0.3 | 3 | **3.47** | 0.75 | [0.22, 6.71] | -0.53 | [-1.65, 0.59] | 3/0/0 | 0.177 | 0.177 |" in text.splitlines()
    assert CAPTION.format("Bold").replace("_", r"\_") in text.splitlines()
    assert "- weight=1.0 has one run: no standard error and no interval" in text.splitlines()


def test_latex(comparison):
    lines = [line.strip() for line in tables.latex(comparison).splitlines()]
    assert (
        r"0.3 & 3 & \textbf{3.47} & 0.75 & {[}0.22, 6.71{]} & $-$0.53 & {[}$-$1.65, 0.59{]} & 3/0/0 & 0.177 & 0.177 \\" in lines
    )
    assert r"1.0 & 1 & 9.00 & -- & -- & 6.00 & -- & 0/1/0 & -- & -- \\" in lines
    assert [line for line in lines if line.startswith(r"\begin{tab")] == [r"\begin{table}", r"\begin{tabular}{lrrrrrrrrr}"]
    assert [lines.index(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [5, 7, 11]


def test_latex_of_hostile_names():  # this table was compiled by pdflatex once
    rows = [line.strip() for line in tables.latex(hostile()).splitlines() if " & 2 & " in line]
    assert [row.partition(" & ")[0] for row in rows] == [
        "-1",
        "{*}",
        "{[}50{]}",
        "{[}bold{]}x{[}/bold{]}",
        r"a\_b\textasciicircum{}c\textasciitilde{}d\textbackslash{}e\{f\}\&\%\$\#\textless{}\textgreater{}\textbar{}`x`",
        "two lines",
    ]
    assert r"\caption{a\_metric\% of x; lower is better." in tables.latex(hostile())


def test_markdown_and_terminal_of_hostile_names(capsys):
    lines = tables.markdown(hostile()).splitlines()
    rows = [line for line in lines if " | 2 | " in line]
    assert r"| a\_b^c~d\\e{f}&%$#\<>\|\`x\` | 2 |" in rows[4]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in [lines[0], lines[1], *rows]}) == 1
    tables.print_table(hostile())
    assert "│ [bold]x[/bold] " in capsys.readouterr().out


def test_csv_has_all_digits_and_no_nan(comparison, tmp_path):
    text = tables.csv(comparison)
    assert "nan" not in text.lower()
    (tmp_path / "a.csv").write_text(text)
    read = pd.read_csv(tmp_path / "a.csv")
    assert list(read["model.penalties.0.weight"]) == [0.0, 0.3, 1.0]
    assert read["mean"][1] == (2.0 + 4.5 + 3.9) / 3
    assert list(read["wins"].dropna()) == [3, 0]
    runs = tables.runs_csv(comparison).splitlines()
    assert runs[0] == "model.penalties.0.weight,run_id,pair,value"
    assert len(runs) == 8


@pytest.mark.parametrize("correction", ["none", "fdr_bh"])
def test_the_column_of_corrected_p(correction):
    comparison = compared(grid(TABLE), against=["0"], correction=correction)
    assert tables.head(comparison)[-1] == ("p" if correction == "none" else "p (fdr_bh)")
    said = "not corrected" if correction == "none" else "corrected for 1 comparison (fdr_bh)"
    assert comparison.caption[-1] == f"p: paired t-test, two-sided, {said}."


def test_without_a_baseline_there_are_no_differences():
    comparison = compared(grid(TABLE), interval="bootstrap", direction="maximize")
    assert tables.head(comparison) == ["weight", "n", "mean", "standard error", "95 % interval"]
    assert comparison.caption == [
        "test/rmse of x; higher is better.",
        "Bold: the highest mean.",
        "Mean and standard error over seed_everything; intervals: 95 %, bootstrap, BCa, 9,999 resamples.",
    ]


@pytest.mark.parametrize(
    ("error", "value", "shown"),
    [
        (0.0123, 1.23456, "1.235"),
        (15.0, 1234.56, "1235"),
        (0.4, -0.001, "0.00"),
        (1e-9, 1.23456e-8, "1.235e-08"),
        (0.0, 0.5, "0.5"),
        (1.0, math.nan, NOTHING),
    ],
)
def test_digits_follow_the_standard_error(error, value, shown):
    assert tables.number_format(pd.DataFrame({"error": [error]}))(value) == shown


def test_a_small_p_is_no_zero():
    table = {"0": {seed: float(seed) for seed in range(9)}, "1": {seed: seed + 5 + seed % 2 / 100 for seed in range(9)}}
    assert tables.body(compared(grid(table), against=["0"]))[1][-2:] == ["<0.001", "<0.001"]


def test_the_figure_shows_means_intervals_runs_and_differences(comparison):
    figure = comparison_figure(comparison)
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["weight=0.0", "weight=0.3", "weight=1.0"]
    assert left.collections[0].get_offsets().shape == (7, 2)
    lines = [line.get_xdata() for line in left.lines]
    assert [line[0] for line in lines if len(line) == 1] == pytest.approx([4.0, 10.4 / 3, 9.0])
    assert sum(len(line) == 2 for line in lines) == 2
    assert right.get_xlabel() == "difference from\nweight=0.0"
    assert len(comparison_figure(hostile()).axes) == 1


def test_several_baselines_are_said():
    runs = [
        run({WEIGHT: weight, "data.name": name, "seed_everything": seed}, {"test/rmse": seed * 1.1 + float(weight) * seed**2})
        for weight in ("0", "1")
        for name in ("a", "b")
        for seed in range(3)
    ]
    caption = compared(runs, by=["data.name", WEIGHT], against=["weight=0"]).caption
    assert caption[1] == "Bold: the lowest mean of those that share a baseline."
    assert caption[3] == "Differences: group minus weight=0 with the same other values, paired by seed_everything."
