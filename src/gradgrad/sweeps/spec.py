"""The sweep file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from jsonargparse.typing import NonNegativeInt, Path_fr, PositiveFloat, PositiveInt
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from gradgrad.arguments import config_files, join_values
from gradgrad.errors import UsageError
from gradgrad.parser import Parser
from gradgrad.sweeps.launchers import Launcher
from gradgrad.sweeps.named import LAUNCHERS, PRUNERS, SAMPLERS, Class, named, plain
from gradgrad.sweeps.space import Space
from gradgrad.sweeps.space_file import parse_space
from gradgrad.tracking.secrets import redact_tree
from gradgrad.written import Written


class Objective(NamedTuple):
    """What a sweep searches for.

    Attributes:
        metric: as it is logged.
        direction: ``minimize`` or ``maximize``.
        at: ``best`` or ``last`` of its values over a training.
    """

    metric: str
    direction: Literal["minimize", "maximize"] = "minimize"
    at: Literal["best", "last"] = "best"


class Sweep(NamedTuple):
    """A sweep file, read.

    Attributes:
        name: of the file.
        file: as it was named.
        base: config files, absolute.
        overrides: value by dotted key, for every trial.
        space: what is varied.
        objective: what is searched for.
        sampler: ``grid``, or class_path and init_args of an Optuna sampler.
        pruner: class_path and init_args.
        trials: number of points; None means all of a grid.
        seeds: that each point is run with.
        seed: of the sampler.
        parallel: processes at once.
        launcher: class_path and init_args.
        storage: address of Optuna's; None means a journal file in the sweep's folder.
        timeout: seconds after which no trial is started; None means never.
        trial_timeout: seconds that one trial may take; None means any.
        max_failures: points in a row that may fail.
    """

    name: str
    file: Path
    base: list[str]
    overrides: dict[str, Any]
    space: Space
    objective: Objective
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    trials: int | None
    seeds: list[int]
    seed: int
    parallel: int
    launcher: dict[str, Any]
    storage: str | None
    timeout: float | None
    trial_timeout: float | None
    max_failures: int

    @property
    def is_grid(self) -> bool:
        """Whether all points are listed beforehand."""
        return bool(self.sampler["class_path"] == "grid")

    @property
    def prunes(self) -> bool:
        """Whether a training may be stopped early."""
        return bool(self.pruner["class_path"] != PRUNERS["none"])


def mapping(written: Any) -> dict[str, Any]:
    """Take a mapping as it is: jsonargparse's ``Any`` would complete what looks like a class, which is another config's affair.

    Args:
        written: a mapping, or its text.

    Returns:
        The mapping.

    Raises:
        ValueError: it is none, in jsonargparse's words.
    """
    tree = yaml.safe_load(written) if isinstance(written, str) else written
    if not isinstance(tree, dict):
        raise ValueError(f"Expected a mapping of keys to values. Got value: {written}")
    return {str(key): value for key, value in tree.items()}


def sweep_parser() -> Parser:
    """Make the parser of ``gradgrad sweep run``.

    Returns:
        It, with every key of a sweep file.
    """
    # "--trial" is a mistake, not an abbreviation
    parser = Parser(prog="gradgrad sweep run", description="Search over keys of the command line.", allow_abbrev=False)
    add = parser.add_argument
    add("-c", "--config", action="config", help="the sweep file")
    add("--base", type=Path_fr | list[Path_fr], help="config file of `gradgrad fit`, or several; relative to the sweep file")
    add("--overrides", type=mapping, default={}, help="value by key, for every trial")
    add("--space", type=mapping, help="what is varied: by key a list, {uniform: [low, high]}, {log_uniform: ...}, ...")
    add("--objective.metric", type=str | None, default=None, help="as it is logged, for example val/rmse")
    add("--objective.direction", type=Literal["minimize", "maximize"], default="minimize")
    add("--objective.at", type=Literal["best", "last"], default="best", help="which of a training's values")
    add("--sampler", type=Class, default="tpe", help="grid, random, tpe, gp, qmc, or class_path and init_args of Optuna's")
    add("--pruner", type=Class, default="none", help="none, median, asha, hyperband, or class_path and init_args of Optuna's")
    add("--trials", type=PositiveInt | None, default=None, help="number of points; a grid has all if nothing is said")
    add("--seeds", type=list[NonNegativeInt], default=[0], help="each point runs once with each; the objective is the mean")
    add("--seed", type=NonNegativeInt, default=0, help="of the sampler")
    add("--parallel", type=PositiveInt, default=1, help="trials at once")
    add("--launcher", type=Class, default="local", help="local, ray, or class_path and init_args")
    help_ = "Optuna's, for example postgresql://...; default: a file in mlruns/sweeps"
    add("--storage", type=str | None, default=None, help=help_)
    add("--timeout", type=PositiveFloat | None, default=None, help="seconds after which no trial is started")
    add("--trial_timeout", type=PositiveFloat | None, default=None, help="seconds that one trial may take")
    add("--max_failures", type=PositiveInt, default=3, help="points in a row that may fail")
    add("--dry-run", action="store_true", help="print the trials and start none")
    add("--new", action="store_true", help="begin another study of this name beside those that are there")
    add("--retry_failed", action="store_true", help="run the points once more that have failed")
    return parser


class Flags(NamedTuple):
    """What is said of this command and not of the sweep.

    Attributes:
        dry_run: print the trials only.
        new: begin another study.
        retry_failed: once more.
    """

    dry_run: bool
    new: bool
    retry_failed: bool


def read_sweep(arguments: Sequence[str]) -> tuple[Sweep, Flags]:
    """Read a sweep file and what the command line overrides of it.

    Args:
        arguments: what follows ``gradgrad sweep run``.

    Returns:
        The sweep, whose keys and bounds are not proved yet, and the flags.

    Raises:
        UsageError: it is no sweep.
    """
    arguments = join_values(arguments)
    files = config_files(arguments)
    if len(files) != 1 and not {"-h", "--help"} & set(arguments):
        example = "gradgrad sweep run -c configs/sweeps/penalty_weight.yaml"
        raise UsageError(f"got {len(files)} sweep files; expected one.\nwrite:    {example}")
    written = Written.read(arguments)
    Parser.written = written._replace(files={file: text for file, text in written.files.items() if file in files})
    config = sweep_parser().parse_args(arguments)
    if not config.base:
        raise UsageError(f"{files[0]}: missing key base\nexpected: a config file of `gradgrad fit`\nwrite:    base: <file>")
    try:
        return _sweep(files[0], config), Flags(config.dry_run, config.new, config.retry_failed)
    except UsageError as error:
        raise UsageError(_in(files[0], str(error))) from error.__cause__


def _in(file: Path, sentence: str) -> str:
    """Say which file; a sentence of the parser's begins with a place already."""
    sentence = sentence.removeprefix("command line: ")
    return sentence if sentence.startswith(str(file)) else f"{file}: {sentence}"


def _sweep(file: Path, config: Any) -> Sweep:
    if not getattr(config.objective, "metric", None):  # it may be a text
        raise UsageError("missing key objective\nexpected: a metric that is logged\nwrite:    objective: {metric: val/rmse}")
    bases = config.base if isinstance(config.base, list) else [config.base]
    overrides: dict[str, Any] = plain(config.overrides)
    seeds = [int(seed) for seed in config.seeds]  # jsonargparse's own kind of int is none for YAML
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds is {seeds}.\nexpected: at least one, none twice\nwrite:    seeds: [0, 1, 2]")
    if "seed_everything" in overrides:
        raise UsageError("overrides.seed_everything: each trial has a seed of its own.\nwrite:    seeds: [0, 1, 2]")
    sampler = named(config.sampler, "sampler", SAMPLERS, BaseSampler)
    trials, space = config.trials and int(config.trials), parse_space(plain(config.space) or {}, list(overrides))
    if sampler["class_path"] == "grid":
        space_size = sum(1 for _ in space.grid())
        trials = min(trials or space_size, space_size)
    elif trials is None:
        raise UsageError("trials: nothing is said.\nexpected: how many points to try\nwrite:    trials: 20, or sampler: grid")
    return Sweep(
        name=file.stem,
        file=file,
        base=[os.path.abspath(base.absolute) for base in bases],  # noqa: PTH100  # resolve() would follow links
        overrides=overrides,
        space=space,
        objective=Objective(config.objective.metric, config.objective.direction, config.objective.at),
        sampler=sampler,
        pruner=named(config.pruner, "pruner", PRUNERS, BasePruner),
        trials=trials,
        seeds=seeds,
        seed=int(config.seed),
        parallel=int(config.parallel),
        launcher=named(config.launcher, "launcher", LAUNCHERS, Launcher),
        storage=config.storage,
        timeout=config.timeout and float(config.timeout),
        trial_timeout=config.trial_timeout and float(config.trial_timeout),
        max_failures=int(config.max_failures),
    )


def fingerprint(sweep: Sweep, base: dict[str, Any]) -> dict[str, Any]:
    """Tell what must stay the same for results to be comparable.

    Args:
        sweep: to be run.
        base: its base config, resolved, with the overrides.

    Returns:
        A nested mapping.
    """
    space = {
        axis.key: {**({"values": axis.choices} if axis.choices is not None else axis.distribution.__dict__), "when": axis.when}
        for axis in sweep.space
    }
    tree = redact_tree({"base": base, "space": space, "objective": sweep.objective._asdict(), "seeds": sweep.seeds})
    same: dict[str, Any] = yaml.safe_load(yaml.safe_dump(tree))
    return same
