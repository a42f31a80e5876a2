"""A comparison as a table: for the terminal, Markdown, LaTeX with booktabs, and CSV."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradgrad.tracking.comparison import Group

NOTHING = "\u2013"  # a dash
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    NOTHING: "--",
    "[": "{[}",  # `\\` at the end of a row takes what follows in brackets, or a star, for its own
    "]": "{]}",
    "*": "{*}",
}


class Comparison(NamedTuple):
    """Compared groups.

    Attributes:
        metric: which was compared.
        names: of the groups' values, short.
        keys: of the same, as on the command line.
        table: of :func:`gradgrad.tracking.comparison.compare_groups`.
        runs: one row per run that counts, with ``group, pair, value``.
        baseline: what the others are compared with; None where nothing is.
        correction: name of the correction of p.
        caption: sentences on what the numbers are.
        notes: sentences on what was left out, and on what to doubt.
    """

    metric: str
    names: Sequence[str]
    keys: Sequence[str]
    table: pd.DataFrame
    runs: pd.DataFrame
    baseline: str | None
    correction: str
    caption: Sequence[str]
    notes: Sequence[str]

    @property
    def groups(self) -> list[Group]:
        """In the order of the table."""
        return list(self.table["group"])


def number_format(table: pd.DataFrame) -> Callable[[float], str]:
    """Choose how many digits to show: two of a standard error that is small among them.

    Args:
        table: of the comparison.

    Returns:
        A function that writes a number, or a dash where there is none.
    """
    errors = table["error"][table["error"] > 0]
    places = 1 - math.floor(math.log10(errors.quantile(0.25))) if len(errors) else None
    form = ".4g" if places is None or not -4 <= places <= 6 else f".{max(places, 0)}f"
    return lambda value: NOTHING if math.isnan(value) else re.sub(r"^-(0\.?0*)$", r"\1", f"{value:{form}}")


def head(comparison: Comparison) -> list[str]:
    """Name the columns.

    Args:
        comparison: to be shown.

    Returns:
        Those of the groups' values first.
    """
    columns = [*comparison.names, "n", "mean", "standard error", "95 % interval"]
    if comparison.baseline is None:
        return columns
    adjusted = [] if comparison.correction == "none" else [f"p ({comparison.correction})"]
    return [*columns, "difference", "95 % interval", "wins/losses/ties", "p", *adjusted]


def body(comparison: Comparison) -> list[list[str]]:
    """Write the cells.

    Args:
        comparison: to be shown.

    Returns:
        Rows of as many texts as there are columns.
    """
    number = number_format(comparison.table)
    rows = []
    for row in comparison.table.to_dict("records"):
        values = [" ".join(value.split()) for value in row["group"]]
        cells = [*values, str(row["n"]), number(row["mean"]), number(row["error"]), _interval(number, row["low"], row["high"])]
        if comparison.baseline is not None:
            score = NOTHING if pd.isna(row["wins"]) else f"{row['wins']}/{row['losses']}/{row['ties']}"
            interval = _interval(number, row["difference_low"], row["difference_high"])
            cells += [number(row["difference"]), interval, score, _p(row["p"])]
            cells += [] if comparison.correction == "none" else [_p(row["p_corrected"])]
        rows.append(cells)
    return rows


def _interval(number: Callable[[float], str], low: float, high: float) -> str:
    return NOTHING if math.isnan(low) or math.isnan(high) else f"[{number(low)}, {number(high)}]"


def _p(value: float) -> str:
    return NOTHING if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def print_table(comparison: Comparison) -> None:
    """Print it on the terminal, as wide as it is where that is none.

    Args:
        comparison: to be shown.
    """
    console = Console()
    console = console if console.is_terminal else Console(width=1000)
    table = Table()
    for position, title in enumerate(head(comparison)):
        table.add_column(escape(title), justify="left" if position < len(comparison.names) else "right")
    for cells, best in zip(body(comparison), comparison.table["best"], strict=True):
        shown = [escape(cell) for cell in cells]
        shown[len(comparison.names) + 1] += " *" if best else ""
        table.add_row(*shown, style="bold" if best else None)
    console.print(table)
    text = " ".join(comparison.caption).replace("Bold:", "*:")
    Console(soft_wrap=True).print(text, highlight=False, markup=False)


def markdown(comparison: Comparison) -> str:
    """Write it in Markdown.

    Args:
        comparison: to be shown.

    Returns:
        A table with the best mean in bold, its caption, and the notes.
    """
    first = len(comparison.names)
    titles = head(comparison)
    rows = [[_escaped_markdown(cell) for cell in cells] for cells in body(comparison)]
    for cells, best in zip(rows, comparison.table["best"], strict=True):
        cells[first + 1] = f"**{cells[first + 1]}**" if best else cells[first + 1]
    rule = ["---" if position < first else "---:" for position in range(len(titles))]
    lines = ["| " + " | ".join(cells) + " |" for cells in ([_escaped_markdown(title) for title in titles], rule, *rows)]
    notes = [f"- {_escaped_markdown(note)}" for note in comparison.notes]
    return "\n".join([*lines, "", _escaped_markdown(" ".join(comparison.caption)), *([""] if notes else []), *notes, ""])


def latex(comparison: Comparison) -> str:
    r"""Write it for LaTeX.

    Args:
        comparison: to be shown.

    Returns:
        A ``table`` for a document with ``\usepackage{booktabs}``, the best mean in bold, the notes in its caption.
    """
    first, rows = len(comparison.names), [[_escaped_latex(cell) for cell in cells] for cells in body(comparison)]
    rows = [[*cells[:first], *(re.sub(r"-(?=\d)", "$-$", cell) for cell in cells[first:])] for cells in rows]
    for cells, best in zip(rows, comparison.table["best"], strict=True):
        cells[first + 1] = f"\\textbf{{{cells[first + 1]}}}" if best else cells[first + 1]
    titles = [_escaped_latex(title) for title in head(comparison)]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{_escaped_latex(' '.join([*comparison.caption, *(f'Note: {note}.' for note in comparison.notes)]))}}}",
        f"  \\begin{{tabular}}{{{'l' * first}{'r' * (len(titles) - first)}}}",
        r"    \toprule",
        f"    {' & '.join(titles)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(cells)} \\\\" for cells in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _escaped_markdown(text: str) -> str:
    return re.sub(r"([\\|*_<`])", r"\\\1", text)


def _escaped_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def csv(comparison: Comparison) -> str:
    """Write all digits.

    Args:
        comparison: to be shown.

    Returns:
        One line per group; empty where there is no number.
    """
    return _with_values(comparison, comparison.table).to_csv(index=False)


def runs_csv(comparison: Comparison) -> str:
    """Write what was aggregated.

    Args:
        comparison: to be shown.

    Returns:
        One line per run.
    """
    runs = comparison.runs[["group", "pair", "value"]].rename_axis("run_id").reset_index()
    return _with_values(comparison, runs).to_csv(index=False)


def _with_values(comparison: Comparison, table: pd.DataFrame) -> pd.DataFrame:
    values: list[Any] = list(table["group"])
    columns = pd.DataFrame(values, table.index, list(comparison.keys))
    return pd.concat([columns, table.drop(columns="group")], axis=1)
