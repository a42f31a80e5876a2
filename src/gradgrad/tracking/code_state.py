"""Which code a run was started on: the commit, what was changed since, and the files that git does not know."""

import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from gradgrad.tracking.secrets import redact

LARGEST_PATCH = 1_000_000  # bytes; a guess: code that was typed is far smaller, data files are far larger
LONGEST_LIST = 2000  # untracked files that are named, a guess
SECONDS = 5.0  # for one git command, a guess: an index of 100,000 files takes one
# The user's own settings must not make a patch that `git apply` refuses.
PATCH = (
    *("diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "-U3", "--src-prefix=a/", "--dst-prefix=b/"),
    *("--submodule=short", "--ignore-submodules=dirty"),
)
STATUS = ("status", "--porcelain=v2", "-z")
FIELDS = {"1": 8, "2": 9, "u": 10}  # before the path, for a file that is changed, renamed, in conflict


class CodeState(NamedTuple):
    """The code of a run.

    Attributes:
        root: of the repository; None where there is none.
        commit: its full name.
        dirty: whether anything differs from the commit, untracked files included.
        patch: what ``git apply`` takes; comments only, where it could not be kept whole.
        kept: ``none`` (nothing was changed), ``whole``, or ``scrubbed`` or ``cut`` with the reason.
        untracked: paths under ``root``.
        missing: what could not be found out, and why.
    """

    root: Path | None = None
    commit: str = ""
    dirty: bool = False
    patch: str = ""
    kept: str = "none"
    untracked: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def git(folder: Path, *arguments: str, limit: int = 10_000_000) -> bytes:
    """Ask git, and never wait long for it.

    Args:
        folder: where to ask.
        arguments: of git.
        limit: bytes of output that are read.

    Returns:
        Its output; of a longer one than ``limit`` the first ``limit + 1`` bytes.

    Raises:
        OSError: there is no git, it fails, or it takes too long; the message is git's own.
    """
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}  # no lock that a commit of the user's would meet
    command = ["git", "-C", str(folder), *arguments]
    with (
        tempfile.TemporaryFile() as complaint,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaint, env=environment) as process,
    ):
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(SECONDS, end)
        timer.start()
        try:
            out = process.stdout.read(limit + 1) if process.stdout else b""
            if len(out) > limit:
                process.kill()
            process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            raise OSError(f"git {arguments[0]} takes longer than {SECONDS:g} s")
        if process.returncode and len(out) <= limit:
            complaint.seek(0)
            said = complaint.read().decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
            raise OSError(f"git {arguments[0]}: {said[0]}")
    return out


def code_state(*folders: Path) -> CodeState:
    """Tell which code a run was started on.

    Args:
        folders: the first that lies in a repository with a commit is asked.

    Returns:
        What could be found out; never an error.
    """
    missing: list[str] = []
    for folder in folders:
        try:
            said = git(folder, "rev-parse", "--show-toplevel", "HEAD").decode(errors="surrogateescape")
        except OSError as error:
            if any((above / ".git").exists() for above in (folder, *folder.parents)):
                missing.append(f"code of {folder.name}: {error}")
            continue
        root, _, commit = said.rstrip("\n").rpartition("\n")
        return _state(Path(root), commit, missing)
    return CodeState(missing=(*missing, "code: no git repository with a commit"))


def _state(root: Path, commit: str, missing: list[str]) -> CodeState:
    dirty, patch, kept = True, "", "none"
    untracked: tuple[str, ...] = ()
    try:
        tracked, untracked = _status(root, missing)
        dirty = bool(tracked or untracked)
        missing += [f"changes inside the submodule {name}" for name, changed in tracked.items() if changed]
        if tracked:
            patch, kept = _patch(root)
    except OSError as error:
        missing.append(f"changes: {error}")
        kept = "cut: git did not tell the changes"
    return CodeState(root, commit, dirty, patch, kept, untracked, tuple(missing))


def _status(root: Path, missing: list[str]) -> tuple[dict[str, bool], tuple[str, ...]]:
    """Name the changed files, and whether each is a submodule with changes inside; then the untracked ones."""
    try:
        out = git(root, *STATUS, "--untracked-files=all")
    except OSError as error:
        missing.append(f"untracked files: {error}")
        out = git(root, *STATUS, "--untracked-files=no")
    tracked: dict[str, bool] = {}
    untracked: list[str] = []
    entries = iter(out.decode(errors="backslashreplace").split("\0")[:-1])
    for entry in entries:
        kind = entry[:1]
        if kind == "?":
            untracked.append(entry[2:])
        elif kind in FIELDS:
            _, _, submodule, *_, name = entry.split(" ", FIELDS[kind])
            tracked[name] = submodule.startswith("S") and submodule[2:] != ".."
            if kind == "2":
                next(entries, None)  # a renamed file's former name
    return tracked, tuple(untracked)


def _patch(root: Path) -> tuple[str, str]:
    """Give the patch, and how it was kept."""
    out = git(root, *PATCH, limit=LARGEST_PATCH)
    reason = f"cut: the changes are larger than {LARGEST_PATCH:,} bytes" if len(out) > LARGEST_PATCH else ""
    if not reason and b"\nGIT binary patch\n" in out and (names := _binaries_with_secrets(root)):
        reason, out = f"cut: secrets stand in {', '.join(names)}", b""
    try:
        text = out.decode()
    except UnicodeDecodeError:
        reason, text = reason or "cut: the changes are not text in UTF-8", out.decode(errors="replace")
    if reason:
        comment = [f"{reason}; this is no patch and must not be applied", *text.split("\n")]
        return "".join(f"# {line}\n" for line in comment), reason
    hidden = redact(text)
    return hidden, "whole" if hidden == text else "scrubbed: secrets, or what looks like them, are *** in it"


def _binaries_with_secrets(root: Path) -> list[str]:
    """Name the changed binary files with secrets in them, before or after: the patch would hide these from every search."""
    found: list[str] = []
    for line in git(root, "diff", "HEAD", "--numstat", "-z", "--no-renames").decode(errors="surrogateescape").split("\0"):
        if line.startswith("-\t-\t"):
            name = line[4:]
            after = (root / name).read_bytes() if (root / name).is_file() else b""
            try:
                before = git(root, "show", f"HEAD:{name}")
            except OSError:  # a new file
                before = b""
            text = (before + b"\n" + after).decode("latin-1")
            if redact(text) != text:
                found.append(name)
    return found


def untracked_text(files: tuple[str, ...]) -> str:
    """List untracked files.

    Args:
        files: their paths.

    Returns:
        One a line; of very many the first ones, and how many more there are.
    """
    rest = len(files) - LONGEST_LIST
    lines = [*files[:LONGEST_LIST], *([f"... and {rest} more"] if rest > 0 else [])]
    return "".join(f"{line}\n" for line in lines)
