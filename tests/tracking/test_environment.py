"""Installed packages of every origin, the folders of modules, the machine."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from gradgrad.tracking.environment import environment, packages, python_path

FILE = "file://"


def install(folder, name, origin=None, metadata="Name: {}\nVersion: 1.2\n\nVersion: 9\n"):
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(metadata.format(name))
    if origin is not None:
        (info / "direct_url.json").write_text(origin if isinstance(origin, str) else json.dumps(origin))


def test_packages(tmp_path, monkeypatch):
    site, root, other = tmp_path / "site", tmp_path / "my project", tmp_path / "other"
    for folder in (root / "sub", other):
        folder.mkdir(parents=True)
    (tmp_path / "wheel.whl").touch()
    editable = {"editable": True}
    install(site, "Plain_One")
    install(site, "remains", metadata="")
    install(site, "broken", origin="{")
    install(
        site, "vcs", {"url": "https://me:s3cr3t@host/vcs", "vcs_info": {"vcs": "git", "commit_id": "abc"}, "subdirectory": "d"}
    )
    install(site, "wheel", {"url": f"{FILE}{tmp_path}/wheel.whl", "archive_info": {}})
    install(site, "gone", {"url": f"{FILE}{tmp_path}/gone.whl", "archive_info": {}})
    install(site, "remote", {"url": "https://token@host/remote.whl", "archive_info": {}})
    install(site, "mine", {"url": (root / "sub").as_uri(), "dir_info": editable})
    install(site, "top", {"url": root.as_uri(), "dir_info": editable})
    install(site, "theirs", {"url": other.as_uri(), "dir_info": editable})
    install(site, "copied", {"url": (root / "sub").as_uri(), "dir_info": {}})
    install(tmp_path / "first", "mine")  # the folder of an editable one, which is searched first
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(site)])
    assert packages(root).splitlines() == [
        "broken==1.2",
        "./sub  # copied==1.2",
        "gone==1.2",
        "-e ./sub  # mine==1.2",
        "Plain_One==1.2",
        "remote @ https://host/remote.whl",
        f"-e {other}  # theirs==1.2",
        "-e .  # top==1.2",
        "vcs @ git+https://host/vcs@abc#subdirectory=d",
        f"wheel @ {FILE}{tmp_path}/wheel.whl",
    ]
    assert f"-e '{root}'  # top==1.2" in packages(None)


def test_the_packages_of_this_interpreter():
    lines = packages(None).splitlines()
    assert f"torch=={version('torch')}" in lines
    assert len(lines) > 50


def test_python_path(tmp_path, monkeypatch):
    (tmp_path / "root" / "src").mkdir(parents=True)
    standard = [entry for entry in sys.path if entry.endswith(("site-packages", "lib-dynload"))]
    assert standard
    monkeypatch.chdir(tmp_path / "root")
    mine = ["", str(tmp_path / "root" / "src"), str(tmp_path), str(tmp_path / "gone"), str(Path(sys.executable).parent)]
    monkeypatch.setattr(sys, "path", [*mine, *standard, str(tmp_path / "root")])
    assert python_path(tmp_path / "root") == [".", "src", str(tmp_path)]


def test_environment(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("GRADGRAD_TOKEN", "abcdefgh")
    monkeypatch.setenv("HOME_OF_NOTHING", "1")
    told = environment(Trainer(accelerator="cpu", devices=1, precision="bf16-mixed", logger=False))
    assert told["trainer"] == {
        "accelerator": "CPUAccelerator",
        "strategy": "SingleDeviceStrategy",
        "devices": 1,
        "nodes": 1,
        "processes": 1,
        "precision": "bf16-mixed",
    }
    assert told["torch"]["threads"] == torch.get_num_threads()
    assert told["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert told["variables"]["GRADGRAD_TOKEN"] == "***"
    assert "HOME_OF_NOTHING" not in told["variables"]
    assert told["machine"]["memory_gib"] > 0
    assert told["machine"]["cpu"]
    json.dumps(told)
