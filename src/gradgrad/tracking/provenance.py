"""What a run needs to be understood and repeated later: config, code, packages, machine."""

import json
import logging
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

import gradgrad
from gradgrad.tracking.code_state import CodeState, code_state, untracked_text
from gradgrad.tracking.config_diff import config_diff
from gradgrad.tracking.environment import environment, packages, python_path
from gradgrad.tracking.run import TrackedRun
from gradgrad.tracking.secrets import redact

PROVENANCE = "provenance"  # the artifact folder
log = logging.getLogger(__name__)


def record_provenance(
    run: TrackedRun, trainer: Trainer, shipped: Callable[[], Mapping[str, Any]], config: Mapping[str, Any]
) -> None:
    """Record where a run comes from; what cannot be found out is named in one line and in a tag, and stops nothing.

    Args:
        run: just opened.
        trainer: Lightning's, on rank zero.
        shipped: gives the config that the config files alone make.
        config: of this run.
    """
    folder = Path.cwd()
    code = code_state(folder, Path(__file__).parent)
    files: dict[str, Callable[[], str]] = {
        "config.diff": lambda: config_diff(shipped(), config),
        "diff.patch": lambda: code.patch,
        "untracked.txt": lambda: untracked_text(code.untracked),
        "requirements.txt": lambda: packages(code.root),
        "environment.json": lambda: json.dumps({**environment(trainer), "code": _places(code, folder)}, indent=1) + "\n",
    }
    missing = list(code.missing)
    for name, write in files.items():
        try:
            text = write()
        except Exception as error:  # whatever this machine has in store: a run is worth more than its papers
            said = str(error).splitlines() or [type(error).__name__]
            missing.append(f"{name}: {said[0]}")
        else:
            run.log_text(text, f"{PROVENANCE}/{name}")
    tags = {"git.commit": code.commit, "git.dirty": str(code.dirty).lower(), "git.patch": code.kept} if code.root else {}
    if missing:
        sentence = redact("; ".join(missing))
        tags["provenance.missing"] = sentence
        log.warning("not recorded of run %s: %s", run.id, sentence)
    run.log_tags({**tags, **versions()})


def _places(code: CodeState, folder: Path) -> dict[str, Any]:
    """Tell where the code was, and from where in it the run was started."""
    inside = code.root is not None and folder.is_relative_to(code.root)
    return {
        "root": str(code.root) if code.root else None,
        "folder": folder.relative_to(code.root).as_posix() if code.root and inside else str(folder),
        "python_path": python_path(code.root),
    }


def versions() -> dict[str, str]:
    """Tell what a run was started with.

    Returns:
        Versions of Python, gradgrad, torch, lightning and mlflow.
    """
    import lightning
    import mlflow
    import torch

    return {
        "version.python": platform.python_version(),
        "version.gradgrad": gradgrad.__version__,
        "version.torch": torch.__version__,
        "version.lightning": lightning.__version__,
        "version.mlflow": mlflow.__version__,
    }
