"""What the terminal says after a run."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradgrad.tracking.logger import MLflowLogger
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.store import tracking_uri


def print_summary(logger: MLflowLogger, *, values: bool = True) -> None:
    """Print a run's final values, where it is kept and how to see it.

    Args:
        logger: of a run that has ended.
        values: False where the verb has shown its own, and those of another would only be in the way.
    """
    where = f"run {logger.version} of experiment {logger.name} in {redact(tracking_uri())}"
    if not logger.run.delivered:  # what waits, and how to send it, has been said
        Console(soft_wrap=True).print(where, highlight=False, markup=False)
        return
    run = logger.experiment.get_run(logger.run_id)
    results = run.data.metrics
    table = Table(title=escape(f"{run.info.run_name} ({run.info.status})"), title_justify="left")
    stages = [stage for stage in ("best", "test") if any(key.startswith(f"{stage}/") for key in results)]
    names = dict.fromkeys(key.partition("/")[2] for key in sorted(results) if key.partition("/")[0] in stages)
    table.add_column("metric")
    for stage in stages:
        table.add_column({"best": "validation, best epoch", "test": "test"}[stage], justify="right")
    for name in names:
        cells = [results.get(f"{stage}/{name}") for stage in stages]
        table.add_row(name, *("" if cell is None else f"{cell:.5g}" for cell in cells))
    console = Console(soft_wrap=True)
    if stages and values:
        console.print(table)
    console.print(f"{where}\nlook at it: gradgrad ui", highlight=False, markup=False)
