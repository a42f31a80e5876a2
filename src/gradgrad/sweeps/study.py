"""What a sweep tries next, and what it has learnt: an Optuna study that survives the process."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import islice
from statistics import fmean
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, QMCSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from gradgrad.errors import UsageError
from gradgrad.sweeps.named import instance
from gradgrad.sweeps.quiet import quiet
from gradgrad.sweeps.space import encoded, identity
from gradgrad.sweeps.spec import Sweep
from gradgrad.tracking.drift import changes

PATIENT = 100  # proposals in a row that were all tried before, after which the space counts as used up; a guess


class Points:
    """Asks Optuna for points and tells it their values.

    Args:
        sweep: to be run.
        name: of the study.
        storage: where it is kept.
    """

    def __init__(self, sweep: Sweep, name: str, storage: BaseStorage) -> None:
        self.sweep = sweep
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with quiet():
            direction = sweep.objective.direction
            self.study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
            self.study.sampler = self._sampler()
            self.study._thread_local.in_optimize_loop = True  # else a sampler that has no more points may not say so
            self.study.pruner = instance(sweep.pruner, "pruner", BasePruner)

    def _sampler(self) -> BaseSampler:
        """The same seed would propose the same points again after a resume; a sequence that is in the storage goes on itself."""
        sweep, asked = self.sweep, len(self.all())
        if sweep.is_grid:
            return optuna.samplers.RandomSampler(sweep.seed)  # never asked
        given = sweep.sampler["init_args"].get("seed", sweep.seed)
        seed = given if asked == 0 else int(sha256(f"{given} {asked}".encode()).hexdigest()[:8], 16)
        sampler: BaseSampler = instance(sweep.sampler, "sampler", BaseSampler, seed=seed)
        if isinstance(sampler, QMCSampler):
            sampler = instance(sweep.sampler, "sampler", BaseSampler, seed=given)
        elif "seed" in sweep.sampler["init_args"]:
            written = {**sweep.sampler["init_args"], "seed": seed}
            sampler = instance({**sweep.sampler, "init_args": written}, "sampler", BaseSampler)
        return sampler

    def all(self) -> list[FrozenTrial]:
        """List all points that were ever asked for.

        Returns:
            Optuna's trials.
        """
        return self.study.get_trials(deepcopy=False)

    def begin(self, fingerprint: Mapping[str, Any], folder: str) -> None:
        """Insist that a study which exists is about the same; else write down what this one is about.

        Args:
            fingerprint: of the sweep.
            folder: that its trials are in; a study has one, else two machines could run it at once.

        Raises:
            UsageError: it is about something else, or its trials are elsewhere.
        """
        self.study.set_user_attr("trials", self.sweep.trials)
        known = self.study.user_attrs.get("fingerprint")
        if known is None:
            sweep = self.sweep
            facts = {"metric": sweep.objective.metric, "at": sweep.objective.at, "seeds": sweep.seeds, "keys": sweep.space.keys}
            for key, value in {**facts, "folder": folder, "fingerprint": dict(fingerprint)}.items():
                self.study.set_user_attr(key, value)
            return
        if self.study.user_attrs["folder"] != folder and self.sweep.storage is not None:
            elsewhere = self.study.user_attrs["folder"]
            raise UsageError(
                f"sweep {self.study.study_name} is in this storage already, begun in another folder: {elsewhere}.\n"
                "expected: one folder for a study, on a file system that all machines share\n"
                "write:    the command in that folder, or a sweep file of another name"
            )
        different = list(changes(known, fingerprint))
        if different:
            key, old, new = different[0]
            more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
            raise UsageError(
                f"sweep {self.study.study_name} is about something else: {key} is now {new}, was {old}{more}.\n"
                "expected: the same base, overrides, space, objective and seeds; else its values cannot be compared\n"
                "write:    --new for another study beside it"
            )

    def interrupted(self) -> Iterator[Trial]:
        """List the points that were being run.

        Yields:
            Optuna's trials, the oldest first.
        """
        for frozen in self.all():
            if frozen.state == TrialState.RUNNING:
                yield Trial(self.study, frozen._trial_id)

    def next(self) -> Trial | None:
        """Ask for a new point.

        Returns:
            The trial, whose settings are in its attribute ``settings``; None when there is none any more.
        """
        for _ in range(PATIENT):
            if self.study._stop_flag or not self.more():
                return None
            with quiet():
                trial = self.study.ask()
            if self.settle(trial):
                return trial
        return None

    def settle(self, trial: Trial) -> bool:
        """Let the sampler choose the settings; a point that was chosen before takes over what is known of it.

        Args:
            trial: asked for.

        Returns:
            Whether it is to be run.
        """
        with quiet():
            settings = self.sweep.space.suggest(trial)
        trial.set_user_attr("settings", settings)
        again = "retry_of" in trial.user_attrs
        before = [other for other in self.all() if other.number < trial.number and "settings" in other.user_attrs]
        same = [other for other in before if identity(other.user_attrs["settings"]) == identity(settings)]
        if not same or again:
            return True
        first = same[-1]
        trial.set_user_attr("duplicate_of", first.user_attrs.get("duplicate_of", first.number))
        if first.state == TrialState.COMPLETE and first.value is not None:
            self.study.tell(trial, first.value)
        else:
            trial.set_user_attr("reason", f"is point {first.number}, which has no value")
            self.study.tell(trial, state=TrialState.FAIL)
        return False

    def more(self) -> bool:
        """Tell whether a point is left to be tried; the next of a grid is put where Optuna takes it from.

        Returns:
            False too where a sampler was asked for as many as it may be.
        """
        points = self.all()
        if any(point.state == TrialState.WAITING for point in points):
            return True
        if self.sweep.is_grid:
            known = {identity(point.user_attrs["settings"]) for point in points if "settings" in point.user_attrs}
            wanted = islice(self.sweep.space.grid(), self.sweep.trials)
            settings = next((settings for settings in wanted if identity(settings) not in known), None)
            if settings is not None:
                self.study.enqueue_trial({key: encoded(value) for key, value in settings.items()})
            return settings is not None
        tried = sum("duplicate_of" not in point.user_attrs and "retry_of" not in point.user_attrs for point in points)
        return tried < (self.sweep.trials or 0)

    def retry(self) -> int:
        """Have the points that failed run once more.

        Returns:
            How many.
        """
        points = self.all()
        retried = {point.user_attrs.get("retry_of") for point in points}
        own = [point for point in points if "duplicate_of" not in point.user_attrs]
        failed = [point for point in own if point.state == TrialState.FAIL and point.number not in retried]
        for point in failed:
            self.study.enqueue_trial(point.params, user_attrs={"retry_of": point.number})
        return len(failed)

    def note(self, trial: Trial, seed: int, **facts: Any) -> None:
        """Write down what is known of a point's run.

        Args:
            trial: the point.
            seed: of the run.
            facts: ``status, run_id, value, step, reason, seconds``; what is not among them stays.
        """
        runs = dict(trial.user_attrs.get("runs", {}))
        empty = {"run_id": None, "value": None, "step": None, "reason": "", "seconds": 0.0}
        runs[str(seed)] = {**empty, **runs.get(str(seed), {}), **facts}
        trial.set_user_attr("runs", runs)

    def status(self, trial: Trial, seed: int) -> str:
        """Tell how a point's run stands.

        Args:
            trial: the point.
            seed: of the run.

        Returns:
            ``waiting``, ``running``, ``finished``, ``pruned`` or ``failed``.
        """
        return str(trial.user_attrs.get("runs", {}).get(str(seed), {}).get("status", "waiting"))

    def finish(self, trial: Trial, values: Mapping[int, float]) -> None:
        """Tell the value of a point.

        Args:
            trial: which was run.
            values: by seed.
        """
        self.study.tell(trial, fmean(values.values()))

    def give_up(self, trial: Trial, reason: str, *, pruned: bool) -> None:
        """Tell that a point has no value.

        Args:
            trial: which was run.
            reason: why.
            pruned: whether it was stopped because others do better; else it failed.
        """
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def best(self) -> FrozenTrial | None:
        """Find the best point.

        Returns:
            None where none has a value.
        """
        done = [p for p in self.all() if p.state == TrialState.COMPLETE and "duplicate_of" not in p.user_attrs]
        sign = 1 if self.sweep.objective.direction == "minimize" else -1
        return min(done, key=lambda point: sign * (point.value or 0.0), default=None)
