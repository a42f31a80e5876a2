"""Lightning's logger interface onto MLflow: buffered, and truthful about how the run ended."""

import atexit
import math
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from gradgrad.errors import UsageError
from gradgrad.tracking.description import describe
from gradgrad.tracking.flatten import flatten
from gradgrad.tracking.secrets import redact, redact_tree
from gradgrad.tracking.store import find_experiment, local_folder, open_store, tracking_uri
from gradgrad.tracking.verdict import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunInfo

METRICS_PER_REQUEST = 1000  # MLflow's limits for one log_batch
PARAMS_PER_REQUEST = 100


class MLflowLogger(Logger):
    """Log to MLflow.

    Metrics wait in a buffer; one request carries all that came within ``flush_seconds`` (MLflow's own logger sends one per
    call). They are sent earlier when an epoch's validation arrives late enough, at the end of a stage, and when Python exits.
    A metric named ``val/x`` is logged again as ``best/x`` at the step of the best checkpoint, once, at the end.

    Args:
        experiment_name: of the experiment; None means the config file's name on the command line, else ``gradgrad``.
        run_name: None means the experiment's name and what the command line overrode.
        run_id: an existing run to go on with.
        tags: added to the run.
        flush_seconds: how long a metric may wait. 5 keeps a page of the MLflow UI (refreshed every 30 s) fresh, at a
            cost of one request of about 10 ms plus 0.1 ms per value (2-core laptop-class machine, SQLite).
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
        self.experiment_name = experiment_name or "gradgrad"
        self.run_name = run_name
        self.tags = dict(tags or {})
        self.flush_seconds = flush_seconds
        self.resumed = run_id is not None
        self._before: RunInfo | None = None  # how a resumed run stood
        self._run_id = run_id
        self._first_step = self._last_step = 0
        self._client: MlflowClient | None = None
        self._buffer: list[Metric] = []
        self._flushed_at = time.monotonic()
        self._held = False
        self._running = False
        self._epoch: float | None = None
        self._validation: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._checkpoints: dict[str, str] = {}
        self._config_logged = False

    # -- the run -------------------------------------------------------------------------------------------------------

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient":
        """MLflow's client; asking for it opens the run."""
        if self._client is None:
            uri = tracking_uri()
            self._client = client = open_store(uri)
            if self._run_id is None:
                from mlflow.tracking.context.registry import resolve_tags

                experiment_id = find_experiment(client, self.experiment_name, uri)
                tags = {key: redact(str(value)) for key, value in resolve_tags(self.tags).items()}
                name = redact(self.run_name or self.experiment_name)
                self._run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
                self._running = True
            else:
                run = client.get_run(self._run_id)
                self._before = run.info
                self._first_step = max(self._first_step, int(run.data.tags.get("steps", 0)))
            atexit.register(self._at_exit)
        return self._client

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment_name

    @property
    def version(self) -> str | None:
        """The run's id, once there is a run."""
        return self._run_id

    @property
    def run_id(self) -> str | None:
        """The run's id; asking for it opens the run. None on ranks above zero."""
        _ = self.experiment
        return self._run_id

    @property
    def artifact_dir(self) -> Path | None:
        """The run's artifact folder, where it is a folder of this machine; else None."""
        if self.run_id is None:
            return None
        return local_folder(self.experiment.get_run(self._run_id).info.artifact_uri)

    def attach(self, run_id: str, step: int = 0) -> None:
        """Log into a run that exists, instead of a new one; how that one ended stays as it is.

        Args:
            run_id: MLflow's.
            step: of the checkpoint at hand. A new process counts from 0, but MLflow takes the value of the largest step for
                the latest one, so what is logged now must not stand before what was logged then.
        """
        self._run_id, self.resumed, self._first_step = run_id, True, step

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
            self.flush()
        else:
            self._close(None if status in ("success", "finished") else sys.exc_info()[1] or RuntimeError(status))

    @rank_zero_only
    def _close(self, error: BaseException | None) -> None:
        if self._client is None and not self._buffer:
            return  # nothing was ever logged: there is no run
        client, run_id, end = self.experiment, self._run_id, verdict(error)
        if self._best:
            step = int(self._best.pop("step"))
            self.log_metrics({f"best/{key}": value for key, value in self._best.items()}, step)
            self._best = {}
        self.flush()
        if error is not None and end.status == "FAILED":
            self.log_tags({"exception": end.reason})
            name = f"traceback-{int(time.time())}.txt" if self.resumed else "traceback.txt"  # an earlier one is never lost
            self.log_text("".join(traceback.format_exception(error)), name)
        elif end.reason:
            self.log_tags({"signal": end.reason})
        self._upload_checkpoints()
        self.log_tags({"steps": str(self._last_step)})
        self._describe()
        if self._before is None:
            client.set_terminated(run_id, end.status)
        elif self._before.status != "RUNNING":  # a later test does not change how the fit ended
            client.set_terminated(run_id, self._before.status, self._before.end_time)
        self._running = False

    def _at_exit(self) -> None:
        """End a run that nobody ended: the last thing that Python lets us see."""
        if self._running or self._buffer:
            self._close(getattr(sys, "last_value", None))

    def _describe(self) -> None:
        client, run_id = self.experiment, self._run_id
        run = client.get_run(run_id)
        tags, results = run.data.tags, run.data.metrics
        data = run.inputs.dataset_inputs[0].dataset if run.inputs and run.inputs.dataset_inputs else None
        dirty = " (with uncommitted changes)" if tags.get("git.dirty") == "true" else ""
        facts = {
            "data": f"{data.name}, training part {data.digest}" if data else "",
            "seed": run.data.params.get("seed_everything", ""),
            "code": f"{tags['git.commit'][:12]}{dirty}" if "git.commit" in tags else "",
            "ended by": tags.get("exception", tags.get("signal", "")),
        }
        commands = [tags[key] for verb in ("fit", "validate", "test", "predict") if (key := f"command.{verb}") in tags]
        final = {key: results[key] for key in sorted(results) if key.startswith(("best/", "test/"))}
        client.set_tag(run_id, "mlflow.note.content", describe(commands, facts, final))

    # -- what is logged ------------------------------------------------------------------------------------------------

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Buffer metrics.

        Args:
            metrics: by name; Lightning's own ``epoch`` is kept only where it changes, as ``train/epoch``.
            step: optimizer steps done so far.

        Raises:
            UsageError: a name that MLflow would refuse.
        """
        from mlflow.entities import Metric

        now, step = int(time.time() * 1000), self._first_step + (step or 0)
        self._last_step = max(self._last_step, step)
        values = {key: float(value) for key, value in metrics.items()}
        epoch = values.pop("epoch", self._epoch)
        if epoch is not None and epoch != self._epoch:
            self._epoch = values["train/epoch"] = epoch
        validation = {key.removeprefix("val/"): value for key, value in values.items() if key.startswith("val/")}
        if validation:
            self._validation = {**validation, "step": float(step)}
        for key, value in values.items():
            if not set(key) <= _ALLOWED:
                raise UsageError(
                    f"metric {key!r} cannot be stored by MLflow.\n"
                    "expected: letters, digits and _ - . / space, for example val/rmse"
                )
            self._buffer.append(Metric(key, value, now, step))
        waited = time.monotonic() - self._flushed_at
        if waited >= self.flush_seconds or (validation and waited >= self.flush_seconds / 5):
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Send what waits; nothing leaves the buffer before MLflow has it, and a value that is sent twice is stored once.

        It is not ``save``, because Lightning calls that after every step.
        """
        if self._buffer and not self._running:  # a stage after the end, for example a test of a finished fit
            self.experiment.update_run(self.run_id, status="RUNNING")
            self._running = True
        while self._buffer:
            sent = self._buffer[:METRICS_PER_REQUEST]
            self.experiment.log_batch(self.run_id, metrics=sent)
            del self._buffer[: len(sent)]
        self._flushed_at = time.monotonic()

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
    def log_config(self, config: dict[str, Any], text: str) -> None:
        """Log the resolved config: each key as a parameter, the whole as ``config.yaml``.

        Args:
            config: as nested plain values.
            text: the same as YAML, with a header.
        """
        self._log_params(config)
        self.log_text(text, "config.yaml")
        self._config_logged = True

    def _log_params(self, tree: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in flatten(redact_tree(tree))]
        for start in range(0, len(params), PARAMS_PER_REQUEST):
            self.experiment.log_batch(self.run_id, params=params[start : start + PARAMS_PER_REQUEST])

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags.

        Args:
            tags: by name.
        """
        from mlflow.entities import RunTag

        self.experiment.log_batch(self.run_id, tags=[RunTag(key, redact(value)) for key, value in tags.items()])

    @rank_zero_only
    def log_text(self, text: str, path: str) -> None:
        """Store a text, redacted, as an artifact.

        Args:
            text: the content.
            path: name inside the run's artifacts.
        """
        self.experiment.log_text(self.run_id, redact(text), path)

    @rank_zero_only
    def log_figure(self, figure: "Figure", path: str) -> None:
        """Store a figure as an artifact.

        Args:
            figure: a matplotlib figure.
            path: name inside the run's artifacts, ends in ``.png``, ``.svg`` or ``.pdf``.
        """
        self.experiment.log_figure(self.run_id, figure, path)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Remember which checkpoint is the best and which the last, and what the validation said at the best.

        Args:
            checkpoint_callback: the callback that has just saved.
        """
        monitored = checkpoint_callback.monitor is not None
        if monitored and checkpoint_callback.current_score != checkpoint_callback.best_model_score:
            return
        path = checkpoint_callback.best_model_path
        kind = "best" if monitored else "last"
        if monitored:
            self._best = {k: v for k, v in self._validation.items() if not math.isnan(v)}
        if self._checkpoints.get(kind) != path:
            self._checkpoints[kind] = path
            self.log_tags({f"checkpoint.{kind}": self._inside(path) or path})

    def _inside(self, path: str) -> str | None:
        folder = self.artifact_dir
        return Path(path).relative_to(folder).as_posix() if folder and Path(path).is_relative_to(folder) else None

    def _upload_checkpoints(self) -> None:
        for kind, path in self._checkpoints.items():
            if self._inside(path) is None and Path(path).is_file():
                self.experiment.log_artifact(self.run_id, path, "checkpoints")
                self.log_tags({f"checkpoint.{kind}": f"checkpoints/{Path(path).name}"})


_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./ ")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | tuple | dict)
