"""`gradgrad compare`: groups of runs over seeds, with intervals and paired tests."""

import re
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gradgrad.errors import UsageError
from gradgrad.tracking import comparison_tables as tables
from gradgrad.tracking.compared_runs import COMPARISON, Selected, select
from gradgrad.tracking.comparison import CORRECTIONS
from gradgrad.tracking.comparison_figure import comparison_figure
from gradgrad.tracking.comparison_tables import Comparison
from gradgrad.tracking.run_comparison import SEEDS, compare_runs
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.verb import Parser

FORMATS = {"markdown": tables.markdown, "latex": tables.latex, "csv": tables.csv}
FILES = ("comparison.md", "comparison.tex", "comparison.csv", "runs.csv", "comparison.png", "comparison.pdf")
EXPECTED = "gradgrad compare [--sweep NAME | --experiment NAME | --runs ID ...] --by KEY ... --metric NAME [--against VALUE ...]"
LONGEST_NOTE = 5000  # characters; what every MLflow server takes for the value of a tag


def compare(arguments: Sequence[str]) -> int:
    """Compare groups of runs.

    Args:
        arguments: what follows the verb; ``--help`` lists them.

    Returns:
        0.

    Raises:
        UsageError: the runs cannot be compared in this way, or the outputs not be written.
    """
    options = _parser().parse_args(arguments)
    output: Path | None = options.output
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file.\nwrite: --output <a folder>")
    selected = select(options.sweep, options.experiment, options.runs)
    comparison = compare_runs(selected, options)
    if options.format == "table":
        tables.print_table(comparison)
    else:
        print(FORMATS[options.format](comparison), end="")  # noqa: T201
    sys.stdout.flush()
    for note in comparison.notes:
        print(f"note: {note}", file=sys.stderr)  # noqa: T201
    if output is not None:
        try:
            write(comparison, output)
        except OSError as error:
            raise UsageError(f"--output {output} cannot be written: {error.strerror}\nwrite: another folder") from error
        print(f"written to {output}: {', '.join(FILES)}", file=sys.stderr)  # noqa: T201
    if options.log:
        print(log(comparison, selected), file=sys.stderr)  # noqa: T201
    return 0


def _parser() -> Parser:
    parser = Parser("gradgrad compare", EXPECTED, "Compare groups of runs: mean, interval and paired differences over seeds.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sweep", metavar="NAME", help="runs of a sweep")
    which.add_argument("--experiment", metavar="NAME", help="runs of an experiment; default: the only one")
    which.add_argument("--runs", metavar="ID", nargs="+", help="certain runs")
    keys = "as on the command line (model.penalties.0.weight), or tags"
    parser.add_argument("--by", metavar="KEY", nargs="+", help=f"what makes groups: keys {keys}; default in a sweep: its space")
    parser.add_argument("--metric", metavar="NAME", required=True, help="for example test/rmse or best/loss")
    help_ = "the group that the others are compared with: weight=0, or 0; where several fit, each group has its own"
    parser.add_argument("--against", metavar="VALUE", nargs="+", help=help_)
    help_ = f"what pairs runs of two groups; default: {SEEDS[0]}"
    parser.add_argument("--pair", metavar="KEY", nargs="+", help=help_)
    parser.add_argument("--interval", choices=("t", "bootstrap"), default="t", help="95 %% interval; default: t (Student)")
    parser.add_argument("--test", choices=("t", "wilcoxon"), default="t", help="paired, two-sided; default: t")
    help_ = f"of p for the number of comparisons, one of {', '.join(CORRECTIONS)}; default: {CORRECTIONS[0]}"
    parser.add_argument("--correction", metavar="NAME", choices=CORRECTIONS, default=CORRECTIONS[0], help=help_)
    help_ = "default: by the metric's name"
    parser.add_argument("--direction", choices=("minimize", "maximize"), default=None, help=help_)
    parser.add_argument("--all", action="store_true", help="take in runs that are not FINISHED")
    help_ = "what to print; default: table"
    parser.add_argument("--format", choices=("table", *FORMATS), default="table", help=help_)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"write there: {', '.join(FILES)}")
    help_ = "keep the same files as artifacts of the sweep's parent run, else of a new run in the experiment"
    parser.add_argument("--log", action="store_true", help=help_)
    return parser


def write(comparison: Comparison, folder: Path) -> None:
    """Write all outputs.

    Args:
        comparison: to be shown.
        folder: made where there is none; files of an earlier comparison are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in zip(FILES, (*FORMATS.values(), tables.runs_csv), strict=False):
        (folder / name).write_text(make(comparison), encoding="utf-8")
    figure = comparison_figure(comparison)
    for name in FILES[-2:]:
        figure.savefig(folder / name)


def log(comparison: Comparison, selected: Selected) -> str:
    """Keep all outputs as artifacts.

    Args:
        comparison: to be shown.
        selected: whose store and parent run it belongs to; a new run is made where there is no parent.

    Returns:
        Where they are.

    Raises:
        UsageError: the store does not take them.
    """
    from mlflow.exceptions import MlflowException

    title = f"{comparison.metric} by {', '.join(comparison.names)}"
    place = f"comparison/{re.sub(r'[^A-Za-z0-9.]+', '_', title)[:100]}"
    client, run = selected.client, selected.parent
    try:
        run = run or client.create_run(selected.experiment_id, tags={COMPARISON: title[:500]}, run_name=title[:200])
        with tempfile.TemporaryDirectory() as folder:
            write(comparison, Path(folder))
            for name in FILES:
                client.log_artifact(run.info.run_id, str(Path(folder) / name), place)
        if run is not selected.parent:
            if len(text := tables.markdown(comparison)) <= LONGEST_NOTE:
                client.set_tag(run.info.run_id, "mlflow.note.content", text)
            client.set_terminated(run.info.run_id)
    except (MlflowException, OSError) as error:
        if run is not None and run is not selected.parent:
            with suppress(MlflowException):
                client.set_terminated(run.info.run_id, "FAILED")
        reason = redact(str(error).splitlines()[0])
        raise UsageError(
            f"--log: the store does not take the comparison: {reason}\nwrite: --output <a folder> instead"
        ) from error
    return f"logged to {place} of run {run.info.run_id}"
