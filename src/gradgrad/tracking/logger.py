"""Lightning's logger interface onto MLflow."""

import atexit
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from gradgrad.errors import UsageError
from gradgrad.tracking.flatten import flatten
from gradgrad.tracking.run import TrackedRun
from gradgrad.tracking.secrets import redact_tree

if TYPE_CHECKING:
    from mlflow import MlflowClient

FINAL = ("best/", "test/", "spectrum/", "spectrum_")  # one value per run: at step 0, MLflow draws bars that compare runs
ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ ")


class MLflowLogger(Logger):
    """Log to MLflow.

    Metrics go to a file of this machine at once, and from there to MLflow by a thread: one request carries all that came within
    ``flush_seconds`` (Lightning's own MLFlowLogger waits for one per call). They are sent earlier when a validation ends late
    enough, at the end of a run, and when Python exits. A server that is down stops nothing; what it missed arrives when it is
    back, or by ``gradgrad sync``. What the validation said at the best checkpoint is logged once more at the end: ``val/x`` as
    ``best/x``, its step as ``best/step``. Like ``test/``, these are one value per run, at step 0.

    Args:
        experiment_name: of the experiment; None means the config file's name on the command line, else ``gradgrad``.
        run_name: None means the experiment's name and, on the command line, what was overridden.
        run_id: an existing run to go on with.
        tags: added to the run.
        flush_seconds: how long a metric may wait to be sent, in seconds; 0 waits for MLflow each time; 5 is a guess at what
            someone watching a run puts up with.

    Raises:
        UsageError: a negative wait.
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        run_name: str | None = None,
        run_id: str | None = None,
        tags: dict[str, str] | None = None,
        flush_seconds: float = 5.0,
    ) -> None:
        super().__init__()
        if not flush_seconds >= 0:
            raise UsageError(f"MLflowLogger got flush_seconds {flush_seconds}; write 0 (send at once) or more.")
        self.run = TrackedRun(experiment_name or "gradgrad", run_name, tags or {}, run_id, flush_seconds)
        self.flush_seconds = flush_seconds
        self._logged: set[tuple[str, int]] = set()  # by an earlier process, whose run this one goes on with
        self._final: dict[str, float] = {}  # values of that process, which a test that is repeated logs again
        self._flushed_at = time.monotonic()
        self.started = False  # whether any metric has been logged
        self._held = False
        self._last_step = 0
        self.listeners: list[Callable[[Mapping[str, float], int], None]] = []  # told of metrics and their step
        self._epoch: float | None = None
        self._validation: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._config_logged = False

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient":
        """MLflow's client; asking for it opens the run."""
        if not self.run.is_open:
            atexit.register(self._at_exit)
        return self.run.client

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.run.experiment_name

    @property
    def version(self) -> str | None:
        """The run's id, once there is a run."""
        return self.run.run_id

    @property
    def run_id(self) -> str | None:
        """The run's id; asking for it opens the run. None on ranks above zero."""
        _ = self.experiment
        return self.run.run_id

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the run open over several stages (fit, then test); only how the block ends decides how the run ended.

        Yields:
            Nothing.
        """
        self._held = True
        try:
            yield
        except BaseException as error:
            self._held = False
            self._close(error)
            raise
        self._held = False
        self._close(None)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """End a stage.

        Args:
            status: Lightning's word; after ``failed`` the exception in flight tells the rest.
        """
        if self._held:
            self.run.wake()
        else:
            self._close(None if status in ("success", "finished") else sys.exc_info()[1] or RuntimeError(status))

    @rank_zero_only
    def _close(self, error: BaseException | None) -> None:
        if not self.run.is_open:
            return  # nothing was ever logged: there is no run
        if isinstance(error, UsageError) and not self.started:
            if not self.run.attached:  # a mistake that showed only once the module was built
                self.run.withdraw() if self.run.resumed else self.run.discard()
                return
            error = None  # a later mistake says nothing of the run that it was to be logged into
        if self._best:
            self.log_metrics({f"best/{key}": value for key, value in self._best.items()}, 0)
            self._best = {}
        self.run.close(error, self._last_step)

    def _at_exit(self) -> None:
        """End a run that nobody ended: the last thing that Python lets us see."""
        if self.run.running:
            self._close(getattr(sys, "last_value", None))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record metrics.

        Args:
            metrics: by name; Lightning's own ``epoch`` is kept only where it changes, as ``train/epoch``.
            step: optimizer steps done so far.

        Raises:
            UsageError: a name that MLflow would refuse.
        """
        now, step = int(time.time() * 1000), self.run.first_step + (step or 0)
        self.started, self._last_step = True, max(self._last_step, step)
        values = {key: float(value) for key, value in metrics.items()}
        epoch = values.pop("epoch", self._epoch)
        if epoch is not None and epoch != self._epoch:
            self._epoch = values["train/epoch"] = epoch
        validation = {key.removeprefix("val/"): value for key, value in values.items() if key.startswith("val/")}
        if validation:
            self._validation = {**validation, "step": float(step)}
        for key in values:
            if not set(key) <= ALLOWED:
                sentence = "cannot be stored by MLflow.\nexpected: letters, digits and _ - . / space, for example val/rmse"
                raise UsageError(f"metric {key!r} {sentence}")
        points = [(key, value, now, 0 if key.startswith(FINAL) else step) for key, value in values.items()]
        points = [point for point in points if (point[0], point[3]) not in self._logged and self._final.get(point[0]) != point[1]]
        _ = self.experiment
        self.run.reopen()  # a stage after the end, for example a test of a finished fit
        if points:
            self.run.put("metrics", points)
        for listener in self.listeners:
            listener(values, step)
        waited = time.monotonic() - self._flushed_at
        if self.flush_seconds == 0:
            self.flush()
        elif validation and waited >= self.flush_seconds / 5:
            self.run.wake()
            self._flushed_at = time.monotonic()

    @rank_zero_only
    def flush(self) -> None:
        """Send what waits, and wait until MLflow has it, or does not answer.

        It is not ``save``, because Lightning calls that after every step.
        """
        self.run.drain()
        self._flushed_at = time.monotonic()

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run ends as an uninterrupted one."""
        return {"epoch": self._epoch, "validation": dict(self._validation), "best": dict(self._best)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what a checkpoint kept.

        Args:
            state: of :attr:`state`.
        """
        self._epoch, self._validation, self._best = state["epoch"], dict(state["validation"]), dict(state["best"])

    def resume(self, run_id: str, logged: set[tuple[str, int]], final: Mapping[str, float] | None = None) -> None:
        """Go on with an unfinished run as its owner.

        Args:
            run_id: MLflow's.
            logged: metric and step of the points that it has already; they are not logged again.
            final: the newest of its final values, which are logged again only where they differ.
        """
        self.run.resume(run_id)
        self._logged, self._final = logged, dict(final or {})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log what a module or datamodule saved by ``save_hyperparameters``, unless the whole config is there already.

        Args:
            params: by name.
            args: unused.
            kwargs: unused.
        """
        if not self._config_logged:
            plain = vars(params) if isinstance(params, Namespace) else params
            self._log_params({key: value if _is_plain(value) else str(value) for key, value in plain.items()})

    @rank_zero_only
    def log_config(self, config: dict[str, Any], header: str) -> None:
        """Log the resolved config, redacted: each key as a parameter, the whole as ``config.yaml``.

        Args:
            config: as nested plain values.
            header: a comment on top.
        """
        self._log_params(config)
        # Redacted as a tree and not as a text: it must stay YAML that can be run again.
        self.run.put("text", {"text": header + yaml.safe_dump(redact_tree(config), sort_keys=False), "path": "config.yaml"})
        self._config_logged = True

    def _log_params(self, tree: Mapping[str, Any]) -> None:
        self.run.put("params", dict(flatten(redact_tree(tree))))

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Remember which checkpoint is the best and which the last, and what the validation said at the best.

        Args:
            checkpoint_callback: the callback that has just saved.
        """
        monitored = checkpoint_callback.monitor is not None
        if monitored and checkpoint_callback.current_score != checkpoint_callback.best_model_score:
            return
        if last := getattr(checkpoint_callback, "last_model_path", ""):  # the user's own `save_last`
            self.run.log_checkpoint("last", last)
        path, kind = checkpoint_callback.best_model_path, "best" if monitored else "last"
        if monitored:
            self._best = {k: v for k, v in self._validation.items() if not math.isnan(v)}
        self.run.log_checkpoint(kind, path)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | tuple | dict)
