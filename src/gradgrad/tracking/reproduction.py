"""The commands that bring a recorded run back, and what they cannot bring."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gradgrad.errors import UsageError, some
from gradgrad.tracking.code_state import git
from gradgrad.tracking.environment import SET_BY_LIBRARIES, VARIABLE, machine, packages
from gradgrad.tracking.flatten import flatten
from gradgrad.tracking.provenance import PROVENANCE
from gradgrad.tracking.recorded import RecordedRun
from gradgrad.tracking.secrets import HIDDEN
from gradgrad.tracking.store import database_file

REPRODUCES = "reproduces"  # the tag that names the recorded run
OF_THIS_MACHINE = ("CUDA_VISIBLE_DEVICES", "GRADGRAD_DATA", "OMP_NUM_THREADS")  # not taken over as they were, or told otherwise
MOST_COPIES = 50  # untracked files that are copied, and the bytes that they may have in all: guesses
LARGEST_COPY = 100_000_000


class Reproduction(NamedTuple):
    """How to bring a run back.

    Attributes:
        commands: for a POSIX shell, each by itself.
        remarks: what will not be as it was.
        obstacles: why the commands alone do not suffice.
    """

    commands: list[str]
    remarks: list[str]
    obstacles: list[str]


def reproduction(run: RecordedRun, folder: Path, uri: str) -> Reproduction:
    """Plan to bring a run back.

    Args:
        run: the recorded one.
        folder: for code, environment and config; absolute, empty or not there.
        uri: address of the store that the new run goes to.

    Returns:
        The plan.

    Raises:
        UsageError: the commit is in no repository at hand.
    """
    plan = Reproduction([], [], [])
    plan.commands.append(shlex.join(["mkdir", "-p", str(folder)]))
    if run.remote:
        for name in ("config.yaml", PROVENANCE):
            fetch = ["artifacts", "download", "--run-id", run.id, "--artifact-path", name, "--dst-path", str(folder)]
            plan.commands.append(shlex.join([sys.executable, "-m", "mlflow", *fetch]))
    else:
        plan.commands.append(
            shlex.join(["cp", "-R", *(str(run.artifacts / name) for name in ("config.yaml", PROVENANCE)), str(folder)])
        )
    home, path = _code(run, folder, plan)
    python = _python(run, folder, home, plan)
    _data(run, home, plan)
    _machine(run, plan)
    if hidden := [key for key, value in flatten(run.config) if HIDDEN in value]:
        plan.obstacles.append(f"config.yaml has {HIDDEN} for secrets: {some(hidden, 3)}")
    started = ["env", *_variables(run, uri, path), python, "-m", "gradgrad", run.verb, "-c", str(folder / "config.yaml")]
    plan.commands.append(f"(cd {shlex.quote(str(home))} && {shlex.join([*started, *_overrides(run, folder)])})")
    return plan


def _code(run: RecordedRun, folder: Path, plan: Reproduction) -> tuple[Path, str]:
    """Bring the code back; give the folder to start in, and PYTHONPATH."""
    commit, kept = run.tags.get("git.commit"), run.tags.get("git.patch", "none")
    code, places = folder / "code", run.environment["code"]
    inside = not Path(places["folder"]).is_absolute()
    home = code / places["folder"] if inside else folder / "work"
    path = os.pathsep.join(str(code / entry) for entry in places["python_path"])  # an absolute entry stays as it is
    if commit:
        at = shlex.join(["git", "-C", str(code)])
        repository = _repository(run, commit)
        plan.commands.append(
            shlex.join(["git", "-C", str(repository), "worktree", "add", "--force", "--detach", str(code), commit])
        )
        if kept.startswith("whole"):
            patch = shlex.quote(str(folder / PROVENANCE / "diff.patch"))
            plan.commands.append(f"{at} apply --index --whitespace=nowarn {patch}")
        elif kept != "none":
            plan.obstacles.append(f"diff.patch was {kept}")
        if git(repository, "ls-tree", commit, "--", ".gitmodules"):
            plan.commands.append(f"{at} submodule update --init --recursive")
        _untracked(run, code, plan)
    else:
        plan.remarks.append("no git commit was recorded: the code is that of today")
    if outside := [entry for entry in places["python_path"] if Path(entry).is_absolute()]:
        plan.remarks.append(f"modules outside of the repository are taken as they are today: {some(outside, 3)}")
    plan.commands.append(shlex.join(["mkdir", "-p", str(home)]))
    return home, path


def _repository(run: RecordedRun, commit: str) -> Path:
    for candidate in (Path.cwd(), run.root):
        try:
            if candidate is not None:
                git(candidate, "cat-file", "-e", f"{commit}^{{commit}}")
                return Path(git(candidate, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
        except OSError:
            continue
    raise UsageError(
        f"commit {commit[:12]} of run {run.id} is in no repository at hand.\n"
        "expected: to stand in a clone of the run's repository that has the commit\n"
        "write:    git fetch --all, or go to such a clone and set MLFLOW_TRACKING_URI to the run's store"
    )


def _untracked(run: RecordedRun, code: Path, plan: Reproduction) -> None:
    """Copy the untracked files that nobody has touched since the run began; name the others."""
    root, size = run.root or Path(), 0
    copies: list[str] = []
    lost: list[str] = []
    for name in run.untracked:
        file = root / name
        old = file.is_file() and file.stat().st_mtime * 1000 < run.run.info.start_time
        if old and len(copies) < MOST_COPIES and size + file.stat().st_size <= LARGEST_COPY:
            copies.append(name)
            size += file.stat().st_size
        else:
            lost.append(name)
    if copies:
        plan.commands.append(
            f"{shlex.join(['tar', '-C', str(root), '-cf', '-', '--', *copies])} | tar -C {shlex.quote(str(code))} -xf -"
        )
        plan.remarks.append(f"untracked files are copied, because none has changed since: {some(copies, 3)}")
    if lost:
        plan.remarks.append(f"untracked files are not brought back, being gone, changed, many or large: {some(lost, 3)}")


def _python(run: RecordedRun, folder: Path, home: Path, plan: Reproduction) -> str:
    """Give the interpreter; make one where the installed packages are not the recorded ones."""
    then, now = set(run.requirements), set(packages(run.root).splitlines())
    version, today = run.environment["python"]["version"], sys.version.split()[0]
    if then == now and version == today:
        return sys.executable
    differ = [f"Python {version} then, {today} now"] if version != today else []
    differ += [f"{line.partition('  #')[0]} then" for line in sorted(then - now)]
    differ += [f"{line.partition('  #')[0]} now" for line in sorted(now - then)]
    plan.remarks.append(f"the environment is made anew, because {len(differ)} packages differ: {some(differ, 4)}")
    if builds := [line for line in run.requirements if "+" in line.partition("==")[2].partition(" ")[0]]:
        plan.remarks.append(f"{some(builds, 2)}: a build of its own; pip needs PIP_EXTRA_INDEX_URL, where it came from")
    python = folder / "venv" / "bin" / "python"
    plan.commands.append(shlex.join([f"python{version.rpartition('.')[0]}", "-m", "venv", str(folder / "venv")]))
    # No resolving: the list is whole. From the code's folder, because editable installations are named relative to it.
    install = shlex.join([str(python), "-m", "pip", "install", "--no-deps", "-r", str(folder / PROVENANCE / "requirements.txt")])
    start = folder / "code" if "git.commit" in run.tags else home
    plan.commands.append(f"(cd {shlex.quote(str(start))} && {install})")
    return str(python)


def _data(run: RecordedRun, home: Path, plan: Reproduction) -> None:
    """Link the data that the config names relative to the folder of the run and that git does not keep."""
    named = {key: run.config.get(key) for key in ("data", "model", "ckpt_path")}
    for _, value in flatten(named):
        if len(value) > 1000 or "\n" in value or Path(value).is_absolute() or value in (".", ""):
            continue
        if (run.folder / value).exists():
            link = shlex.quote(str(home / value))
            above = shlex.quote(str((home / value).parent))
            plan.commands.append(f"[ -e {link} ] || (mkdir -p {above} && ln -s {shlex.quote(str(run.folder / value))} {link})")


def _machine(run: RecordedRun, plan: Reproduction) -> None:
    then, now = run.environment["machine"], machine()
    differ = [
        f"{key} {then.get(key)} then, {now[key]} now" for key in ("architecture", "cpu", "gpus") if then.get(key) != now[key]
    ]
    if differ:
        plan.remarks.append(f"another machine, so that the last digits may differ: {'; '.join(differ)}")
    seed = run.config.get("seed_everything")
    if seed is None or seed is False:  # 0 is a seed
        plan.remarks.append("the run had no seed: the numbers will differ")


def _variables(run: RecordedRun, uri: str, path: str) -> Iterator[str]:
    """Write the arguments of ``env`` that make the variables of this shell those of the run."""
    then: dict[str, str] = run.environment["variables"]
    for key in sorted(os.environ):
        if VARIABLE.match(key) and key not in (*then, *SET_BY_LIBRARIES, *OF_THIS_MACHINE):
            yield f"--unset={key}"
    for key, value in then.items():
        if os.environ.get(key) != value and key not in OF_THIS_MACHINE and HIDDEN not in value:
            yield f"{key}={value}"
    if data := os.environ.get("GRADGRAD_DATA") or then.get("GRADGRAD_DATA"):
        start = Path.cwd() if "GRADGRAD_DATA" in os.environ else run.folder
        yield f"GRADGRAD_DATA={(start / data).absolute()}"
    if run.config.get("threads") is None:
        yield f"OMP_NUM_THREADS={run.environment['torch']['threads']}"
    if (database := database_file(uri)) is not None:
        yield f"MLFLOW_TRACKING_URI=sqlite:///{database}"
    yield f"MLFLOW_RUN_CONTEXT={json.dumps({REPRODUCES: run.id})}"
    yield f"PYTHONPATH={path}"


def _overrides(run: RecordedRun, folder: Path) -> Iterator[str]:
    """Keep the new run out of the recorded one's files: its run, its folders."""
    for key, value in flatten(run.config.get("trainer") or {}, "trainer"):
        if key.endswith(".dirpath") and Path(value).is_absolute():
            yield f"--{key}={folder / 'checkpoints'}"
        if key.endswith("logger.init_args.run_id") and value != "null":
            yield f"--{key}=null"
