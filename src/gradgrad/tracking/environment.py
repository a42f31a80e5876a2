"""What a run was started with: installed packages, machine, devices, seed, variables."""

import json
import os
import platform
import re
import shlex
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import psutil
import torch
from lightning.pytorch import Trainer

from gradgrad.tracking.secrets import redact_tree

# What decides how PyTorch and Lightning compute.
VARIABLE = re.compile(
    r"(OMP|MKL|KMP|OPENBLAS|CUBLAS|CUDA|CUDNN|NVIDIA|NCCL|PYTORCH|TORCH|TORCHINDUCTOR|XLA|PL|GRADGRAD)_|PYTHONHASHSEED$"
)
SET_BY_LIBRARIES = (
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "PYTORCH_NVML_BASED_CUDA_CHECK"),
    "TORCHINDUCTOR_CACHE_DIR",
)


def packages(root: Path | None) -> str:
    """List the installed packages as ``pip install -r`` takes them.

    Args:
        root: of the run's repository; what is installed from a folder in it is named relative to it.

    Returns:
        ``name==version`` each; an address with its commit, a folder or a file where it came from there, without credentials.
    """
    found: dict[str, tuple[bool, str]] = {}
    for distribution in distributions():
        head = (distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "").partition("\n\n")[0]
        name, version = (re.search(rf"^{field}: *(\S+)", head, re.MULTILINE) for field in ("Name", "Version"))
        if name is None or version is None:
            continue  # the remains of an installation
        key = re.sub(r"[-_.]+", "-", name[1]).lower()
        origin = _origin(distribution)
        if key not in found or (origin and not found[key][0]):  # an editable one is there twice: its folder has no origin
            found[key] = bool(origin), _requirement(name[1], version[1], origin, root)
    return "".join(f"{found[key][1]}\n" for key in sorted(found))


def _origin(distribution: Distribution) -> dict[str, Any]:
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) and "url" in origin else {}


def _requirement(name: str, version: str, origin: Mapping[str, Any], root: Path | None) -> str:
    """Write one line; what came from a file that is gone is asked for by its version."""
    if not origin:
        return f"{name}=={version}"
    url = re.sub(r"://[^/@]*@", "://", origin["url"])
    inside = f"#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else ""
    if vcs := origin.get("vcs_info"):
        return f"{name} @ {vcs['vcs']}+{url}@{vcs['commit_id']}{inside}"
    parts = urlsplit(url)
    if parts.scheme != "file":
        return f"{name} @ {url}{inside}"
    path = Path(url2pathname(parts.path))
    if not path.exists():
        return f"{name}=={version}"
    if "dir_info" not in origin:
        return f"{name} @ {url}"
    here = f"./{path.relative_to(root).as_posix()}" if root is not None and path.is_relative_to(root) else str(path)
    where = here.removesuffix("/.")
    return (
        f"-e {shlex.quote(where)}  # {name}=={version}" if origin["dir_info"].get("editable") else f"{where}  # {name}=={version}"
    )


def python_path(root: Path | None) -> list[str]:
    """List the folders of modules that were not installed: the user's own.

    Args:
        root: of the run's repository.

    Returns:
        In the order in which they are searched: relative to ``root`` where they are in it, else absolute.
    """
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    found: list[str] = []
    for entry in sys.path:
        path = Path(entry or ".").resolve()
        of_python = {"site-packages", "dist-packages"} & set(path.parts) or any(path.is_relative_to(each) for each in installed)
        if path.is_dir() and not of_python:
            found.append(path.relative_to(root).as_posix() if root and path.is_relative_to(root) else str(path))
    return list(dict.fromkeys(found))


def environment(trainer: Trainer) -> dict[str, Any]:
    """Tell on what a run was started.

    Args:
        trainer: Lightning's, which has resolved ``auto``.

    Returns:
        Nested plain values, redacted.
    """
    variables = {key: value for key, value in sorted(os.environ.items()) if VARIABLE.match(key) and key not in SET_BY_LIBRARIES}
    return {
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "os": platform.platform(),
        "machine": machine(),
        "torch": {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,  # type: ignore[no-untyped-call]
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "default_dtype": str(torch.get_default_dtype()),
            "matmul_precision": torch.get_float32_matmul_precision(),
        },
        "trainer": {
            "accelerator": type(trainer.accelerator).__name__,
            "strategy": type(trainer.strategy).__name__,
            "devices": trainer.num_devices,
            "nodes": trainer.num_nodes,
            "processes": trainer.world_size,
            "precision": trainer.precision,
        },
        "seed": os.environ.get("PL_GLOBAL_SEED"),
        "variables": redact_tree(variables),
    }


def machine() -> dict[str, Any]:
    """Tell what this machine computes with.

    Returns:
        Plain values: CPU, memory in GiB, GPUs.
    """
    gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return found[1] if found else platform.processor()
