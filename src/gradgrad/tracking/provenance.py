"""What a run needs to be understood later: code, seed, versions."""

import platform
from pathlib import Path

import gradgrad


def code_state(folder: Path) -> dict[str, str]:
    """Tell which code a run was started on.

    Args:
        folder: where the user stands; its repository is asked, else the one that this package lies in.

    Returns:
        ``git.commit`` and ``git.dirty`` (``true`` also for files that git does not track yet); empty outside git.
    """
    try:
        import git  # a quarter of a second that `--help` need not spend
    except ImportError:  # GitPython finds no git executable
        return {}
    for start in (folder, Path(__file__).parent):
        try:
            repository = git.Repo(start, search_parent_directories=True)
            commit = repository.head.commit.hexsha
            dirty = repository.is_dirty(untracked_files=True)
        except (git.GitError, ValueError, OSError):
            continue  # no repository; ValueError: one without a commit
        return {"git.commit": commit, "git.dirty": str(dirty).lower()}
    return {}


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
