"""The loop of a sweep: start trials, hear of them, tell Optuna."""

import signal
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from optuna.trial import Trial

from gradgrad.sweeps.flight import Flight, Job
from gradgrad.sweeps.folder import SweepFolder
from gradgrad.sweeps.launchers import Launcher
from gradgrad.sweeps.live import Running as Shown
from gradgrad.sweeps.proof import Command
from gradgrad.sweeps.quiet import quiet
from gradgrad.sweeps.short_names import short_names, short_settings
from gradgrad.sweeps.spec import Sweep
from gradgrad.sweeps.study import Points
from gradgrad.sweeps.trial_folder import TrialFolder
from gradgrad.tracking.names import LONGEST
from gradgrad.tracking.secrets import redact_tree
from gradgrad.tracking.trial_runs import PARENT, POINT, SEED, SWEEP, TRIAL, give_up_run
from gradgrad.trial import Order

ATTEMPTS = 3  # processes that a trial may lose before it counts as failed; a guess
TICK = 0.05  # seconds between two looks


class Driver:
    """Runs a sweep until its points are tried, or it is told to stop.

    Args:
        sweep: to be run.
        folder: of the sweep, which this process holds.
        points: of the study.
        command: of the trials.
        launcher: open already.
        parent: id of the run that stands for the sweep.
        show: called with what is running, several times a second.
        say: called with a line for the user.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: SweepFolder,
        points: Points,
        command: Command,
        launcher: Launcher,
        parent: str,
        show: Callable[[list[Shown]], None],
        say: Callable[[str], None],
    ) -> None:
        self.sweep, self.folder, self.points, self.command = sweep, folder, points, command
        self.launcher, self.parent, self.show, self.say = launcher, parent, show, say
        self.names = short_names(sweep.space.keys)
        self.waiting: deque[Job] = deque()
        self.flights: list[Flight] = []
        self.attempts: dict[int, int] = {}
        self.failures = 0  # points in a row
        self.stopping = ""
        self.sentence = ""  # why it ended before its time
        self.interrupted = self.failed = False
        self._interrupts = 0  # by Ctrl-C
        self._dry = False  # no further point is to be had
        self._deadline = time.monotonic() + (sweep.timeout or float("inf"))

    def run(self) -> None:
        """Run the sweep; whatever ends it, nothing goes on alone."""
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self._loop()
        finally:
            signal.signal(signal.SIGINT, before)
            for flight in self.flights:
                flight.running.stop()

    def _loop(self) -> None:
        self._take_up()
        while True:
            self._land()
            self._hear()
            self._obey()
            if not self.stopping:
                self._launch()
            self.show([self._shown(flight) for flight in self.flights])
            if not self.flights and (self.stopping or not self.waiting):
                break
            time.sleep(TICK)

    def stop(self, how: str, sentence: str = "") -> None:
        """Start no more trials.

        Args:
            how: ``finish`` what runs, or stop it ``now``.
            sentence: why.
        """
        self.sentence = self.sentence or sentence
        if how == "now" and self.stopping != "now":
            for flight in self.flights:
                flight.running.stop()
        self.stopping = "now" if "now" in (how, self.stopping) else how

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Remember Ctrl-C: an exception in the middle of telling Optuna something would lose it."""
        self._interrupts += 1

    def _take_up(self) -> None:
        """Go on with the points that an earlier process was running."""
        for point in self.points.interrupted():
            if "settings" in point.user_attrs or self.points.settle(point):
                self._enqueue(point)

    def _enqueue(self, point: Trial) -> None:
        settings = point.user_attrs["settings"]
        for index, seed in enumerate(self.sweep.seeds):
            number = point.number * len(self.sweep.seeds) + index
            self.waiting.append(Job(point, settings, seed, number, TrialFolder(self.folder.trial(number))))
        ended = [job for job in self.waiting if job.point.number == point.number and job.folder.result is not None]
        for job in ended:  # before this process began
            self.waiting.remove(job)
            self._conclude(job)
        if ended:
            self._tell(ended[-1])

    def _launch(self) -> None:
        while len(self.flights) < self.sweep.parallel and time.monotonic() < self._deadline:
            if not self.stopping and not any(map(self._may_start, self.waiting)) and not self._dry:
                point = self.points.next()
                self._dry = point is None
                if point is not None:
                    self._enqueue(point)
                    continue
            job = next(filter(self._may_start, self.waiting), None)
            if job is None:
                break
            self.waiting.remove(job)
            self._start(job)
        if time.monotonic() >= self._deadline and not self.stopping and (self.waiting or self.points.more()):
            self.stop("finish", f"timeout of {self.sweep.timeout:g} s: no more trials are started")

    def _may_start(self, job: Job) -> bool:
        """With a pruner, the first seed of a point decides whether the others are run at all."""
        first = self.sweep.seeds[0]
        return not self.sweep.prunes or job.seed == first or self.points.status(job.point, first) == "finished"

    def _start(self, job: Job) -> None:
        sweep, slot = self.sweep, min(set(range(self.sweep.parallel)) - {flight.slot for flight in self.flights})
        order = Order(
            folder=str(job.folder.path),
            cwd=str(self.folder.path.parents[2]),
            arguments=self.command.arguments(job.settings, job.seed),
            metric=sweep.objective.metric,
            direction=sweep.objective.direction,
            at=sweep.objective.at,
            tags=self._tags(job),
            name=f"{short_settings(redact_tree(job.settings), self.names)} seed={job.seed}"[:LONGEST],
        )
        job.folder.prepare(order)
        self.points.note(job.point, job.seed, status="running")
        self.flights.append(Flight(job, slot, self.launcher.launch(order, slot)))

    def _tags(self, job: Job) -> dict[str, str]:
        numbers = {TRIAL: str(job.number), POINT: str(job.point.number), SEED: str(job.seed)}
        return {SWEEP: self.folder.name, PARENT: self.parent, **numbers}

    def _hear(self) -> None:
        """Let the pruner see the values of first seeds, which are compared with one another."""
        for flight in self.flights:
            job, timeout = flight.job, self.sweep.trial_timeout
            if timeout and flight.seconds > timeout and not flight.overdue:
                flight.overdue = True
                flight.running.stop()
            if not self.sweep.prunes or job.seed != self.sweep.seeds[0]:
                continue
            values = job.folder.values
            for number, value in enumerate(values[flight.reported :], flight.reported + 1):
                with quiet():
                    job.point.report(value, number)
            if len(values) > flight.reported:
                flight.reported = len(values)
                if job.point.should_prune():
                    job.folder.prune()

    def _obey(self) -> None:
        """Ctrl-C once: finish what runs; twice: stop it."""
        if self._interrupts and not self.interrupted:
            self.interrupted = True
            self.say("finishing what runs; Ctrl-C once more stops it")
            self.stop("finish", "interrupted")
        if self._interrupts > 1 and self.stopping != "now":
            self.say("stopping what runs: each trial saves a checkpoint first")
            self.stop("now")
        asked = self.folder.stop_asked
        if asked and asked != self.stopping:
            self.stop(asked, "stopped by `gradgrad sweep stop`")

    def _land(self) -> None:
        for flight in [flight for flight in self.flights if flight.running.done()]:
            self.flights.remove(flight)
            job = flight.job
            if job.folder.result is not None:
                self._conclude(job)
            elif flight.overdue:
                self._lose(job, f"took more than {self.sweep.trial_timeout:g} s", flight.seconds)
            elif self.stopping == "now":
                self.points.note(job.point, job.seed, status="waiting", reason="stopped; the sweep goes on with it")
            else:
                self._again(job, flight.seconds)
            self._tell(job)

    def _again(self, job: Job, seconds: float) -> None:
        """A process is gone without a word: its training goes on from its last checkpoint, but not for ever."""
        self.attempts[job.number] = self.attempts.get(job.number, 0) + 1
        reason = job.folder.interruption or "its process ended without a word: killed, out of memory, or a full disk"
        if self.attempts[job.number] < ATTEMPTS:
            self.points.note(job.point, job.seed, status="waiting", reason=reason)
            self.waiting.appendleft(job)
        else:
            self._lose(job, f"{ATTEMPTS} times interrupted: {reason}", seconds)

    def _lose(self, job: Job, reason: str, seconds: float) -> None:
        """No process of the trial is there any more to say how it ended."""
        self.points.note(job.point, job.seed, status="failed", reason=reason, seconds=seconds)
        give_up_run(self._tags(job), reason)

    def _conclude(self, job: Job) -> None:
        """Note how a trial ended."""
        result = job.folder.result
        assert result is not None
        facts = ("status", "run_id", "value", "step", "reason", "seconds")
        self.points.note(job.point, job.seed, **{key: result.get(key) for key in facts})
        if result["status"] == "failed" and result.get("run_id"):
            give_up_run(self._tags(job), result["reason"])
        if result.get("unlogged"):
            self.failed = True
            self.stop("finish", f"objective: {result['reason']}")

    def _tell(self, job: Job) -> None:
        """Tell Optuna of a point, once none of its trials runs and either all have ended or one decides for all."""
        point, runs = job.point, job.point.user_attrs["runs"]
        bad = [(seed, run) for seed, run in runs.items() if run["status"] in ("failed", "pruned")]
        if bad:  # what has not begun of this point never will
            self.waiting = deque(other for other in self.waiting if other.point.number != point.number)
        if any(flight.job.point.number == point.number for flight in self.flights):
            return
        values = {seed: runs.get(str(seed), {}).get("value") for seed in self.sweep.seeds}
        done = [seed for seed in self.sweep.seeds if runs.get(str(seed), {}).get("status") == "finished"]
        if any(run["status"] == "failed" for _, run in bad):
            seed, run = next(each for each in bad if each[1]["status"] == "failed")
            self.points.give_up(point, f"seed {seed}: {run['reason']}", pruned=False)
            self._count_failure(job, run["reason"])
        elif bad:
            self.points.give_up(point, "other points did better at the same step", pruned=True)
            self.failures = 0
        elif len(done) == len(self.sweep.seeds):
            self.points.finish(point, values)
            self.failures = 0

    def _count_failure(self, job: Job, reason: str) -> None:
        self.failures += 1
        if self.failures >= self.sweep.max_failures:
            self.failed = True
            log = job.folder.path.relative_to(self.folder.path.parents[2]) / "log.txt"
            self.stop(
                "finish",
                f"{self.failures} point{'s' * (self.failures > 1)} in a row failed, the last one: {reason.splitlines()[0]}\n"
                f"look at:  {log}\n"
                f"write:    gradgrad sweep resume {self.folder.name} --retry_failed, once the reason is mended",
            )

    def _shown(self, flight: Flight) -> Shown:
        job, values = flight.job, flight.job.folder.values
        return Shown(job.point.number, job.seed, job.settings, values[-1] if values else None, flight.seconds)
