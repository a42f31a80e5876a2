"""What the terminal shows while a sweep runs."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live as Display
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradgrad.sweeps.points import OPEN, Point
from gradgrad.sweeps.short_names import short_settings
from gradgrad.sweeps.standing import Standing, best_line, counts_line, duration, standing, writable
from gradgrad.tracking.secrets import redact_tree

if TYPE_CHECKING:
    from optuna.study import Study

OTHER_LINES = 9  # of the picture and of the prompt, beside the trials that run


class Running(NamedTuple):
    """A trial that runs.

    Attributes:
        point: Optuna's number.
        seed: of the training.
        settings: by dotted key.
        last: the newest value of the objective's metric, if there is one.
        seconds: since it was started.
    """

    point: int
    seed: int
    settings: Mapping[str, Any]
    last: float | None
    seconds: float


class Live:
    """Shows a sweep: on a terminal a table of what runs, the best point and a bar; elsewhere one line for each trial that ends.

    Args:
        study: with the attributes that a sweep writes.
        total: points that are to be tried, where that is known.
        console: None means standard output.
    """

    def __init__(self, study: "Study", total: int | None = None, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        self._study, self._total = study, total
        self._known: dict[int, Point] = {}
        self._said: set[tuple[int, int]] = set()
        self._at_once = 1
        on_terminal = self.console.is_terminal and self.console.is_interactive and not self.console.is_dumb_terminal
        self._display = (
            Display(console=self.console, auto_refresh=False) if on_terminal else None
        )  # no thread: a fork copies none

    def __enter__(self) -> "Live":
        self._said = {(point.number, seed) for point in standing(self._study, self._known).points for seed in _ended(point)}
        if self._display is not None:
            self._display.start()
            self.update([])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.update([])
        if self._display is not None:
            self._display.stop()

    def update(self, running: Sequence[Running]) -> None:
        """Show how it stands.

        Args:
            running: the trials that run now.
        """
        now = standing(self._study, self._known)
        self._at_once = max(self._at_once, len(running))
        if self._display is not None:
            self._display.update(self._picture(now, running), refresh=True)
            return
        for point in now.points:
            for seed in _ended(point):
                if (point.number, seed) not in self._said:
                    self._said.add((point.number, seed))
                    self.say(self._line(now, point, seed))

    def say(self, text: str) -> None:
        """Print something that stays.

        Args:
            text: redacted.
        """
        self.console.print(writable(text, self.console), highlight=False, markup=False, soft_wrap=True)

    def _line(self, now: Standing, point: Point, seed: int) -> str:
        run = point.runs[seed]
        result = (
            f"{now.metric} {run['value']:.6g}" if run["status"] == "finished" else f"{run['status']}: {_first(run['reason'])}"
        )
        done = f"{now.ended_runs} of {self._runs(now)} runs" if self._total else f"{now.ended_runs} runs"
        settings = short_settings(point.settings, now.names)
        return f"point {point.number} seed {seed} ({settings}): {result} ({duration(run.get('seconds') or 0.0)}; {done})"

    def _runs(self, now: Standing) -> int:
        return max(self._total or 0, len(now.counted)) * now.seeds

    def _picture(self, now: Standing, running: Sequence[Running]) -> RenderableType:
        shown = running[: max(1, self.console.height - OTHER_LINES)]
        table = Table(expand=False)
        for title in ("point", "seed", "settings", now.metric, "time"):
            table.add_column(title, no_wrap=True, overflow="ellipsis", justify="left" if title == "settings" else "right")
        for trial in shown:
            settings = short_settings(redact_tree(dict(trial.settings)), now.names)
            last = "" if trial.last is None else f"{trial.last:.5g}"
            cells = (str(trial.point), str(trial.seed), settings, last, duration(trial.seconds))
            table.add_row(*(Text(writable(cell, self.console)) for cell in cells))
        more = [f"and {len(running) - len(shown)} more"] if len(running) > len(shown) else []
        lines = [*more, best_line(now), counts_line(now, self._total)]
        texts = [Text(writable(line, self.console), no_wrap=True, overflow="ellipsis") for line in lines]
        parts: list[RenderableType] = [table] if shown else []
        return Group(*parts, *texts, self._bar(now, running))

    def _bar(self, now: Standing, running: Sequence[Running]) -> RenderableType:
        done = now.ended_runs
        if not self._total:
            return Text(f"{done} runs")
        total = self._runs(now)
        left = "" if done >= total else self._left(now, running, total - done)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(total=total, completed=done, width=30), Text(f"{done} of {total} runs{left}", no_wrap=True))
        return grid

    def _left(self, now: Standing, running: Sequence[Running], runs: int) -> str:
        """From what the runs that have ended cost; those that never began of an ended point cost nothing."""
        costs = [run.get("seconds") or 0.0 for point in now.counted for run in point.runs.values() if run["status"] not in OPEN]
        if not any(costs):
            return ""
        mean = sum(costs) / now.ended_runs
        begun = sum(min(trial.seconds, mean) for trial in running)
        return f", about {duration(max(0.0, runs * mean - begun) / self._at_once)} left"


def _ended(point: Point) -> list[int]:
    return [seed for seed, run in point.runs.items() if run["status"] not in (*OPEN, "skipped")]


def _first(text: str) -> str:
    return text.strip().partition("\n")[0]
