"""Checkpoints are data: whatever code one holds is never executed, and the refusal says so."""

import pickle
import re
from contextlib import suppress

import pytest
import torch

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.checkpoints import model_config, read_checkpoint
from gradgrad.errors import UsageError


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.marker),)


REFUSED = (
    "{path} is refused: beside numbers it holds code ({code}), and nothing of it was executed.\n"
    "expected: a checkpoint of tensors and plain values, as `gradgrad fit` writes it\n"
    "write:    another --ckpt_path"
)


def with_torch(thing, file):
    torch.save(thing, file)


def with_old_torch(thing, file):
    torch.save(thing, file, _use_new_zipfile_serialization=False)


def with_pickle(thing, file):
    file.write_bytes(pickle.dumps(thing, protocol=2))


def with_newest_pickle(thing, file):
    file.write_bytes(pickle.dumps(thing))


@pytest.fixture(params=[with_torch, with_old_torch, with_pickle, with_newest_pickle])
def planted(request, tmp_path):
    """A checkpoint that would make a folder, and the folder."""
    file, marker = tmp_path / "planted.ckpt", tmp_path / "executed"
    request.param({"state_dict": {"a": torch.ones(1)} if "torch" in request.param.__name__ else {}, "x": Planted(marker)}, file)
    return file, marker


def test_the_plant_works(planted):
    file, marker = planted
    with suppress(RuntimeError, pickle.UnpicklingError):  # torch executes a plain pickle before it finds that it is none
        torch.load(file, weights_only=False)
    assert marker.is_dir()


@pytest.mark.parametrize("read", [read_checkpoint, lambda file: read_checkpoint(file, mmap=True), model_config])
def test_code_is_never_executed(planted, read):
    file, marker = planted
    with pytest.raises(UsageError, match=r"planted\.ckpt (is refused: beside numbers it holds|cannot be read as a checkpoint: )"):
        read(str(file))
    assert not marker.exists()


@pytest.mark.parametrize("write", [with_torch, with_old_torch, with_pickle])
def test_it_is_named(tmp_path, write):
    file = tmp_path / "planted.ckpt"
    write({"x": Planted(tmp_path / "executed")}, file)
    with pytest.raises(UsageError, match=f"^{re.escape(REFUSED.format(path=file, code='posix.mkdir'))}$"):
        read_checkpoint(str(file))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["fit", "test", "validate", "predict", "spectrum"])
def test_no_verb_executes_it(project, client, run_cli, verb):
    file, marker = project / "planted.ckpt", project / "executed"
    with_torch({"state_dict": {}, "x": Planted(marker)}, file)
    quiet = QUICK[1:] if verb != "spectrum" else []
    for path in (str(file), file.as_uri()):
        code, _, said = run_cli(verb, "-c", REGRESSOR, *quiet, "--ckpt_path", path)
        told = f"gradgrad {verb}: {REFUSED.format(path=path, code='posix.mkdir')}"
        assert (code, said) == (2, told)
        assert not marker.exists()
    assert runs_of(client) == []


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", bytes(1000), b"PK\x03\x04" + bytes(50)], ids=["empty", "text", "zeros", "zip"]
)
def test_what_is_no_checkpoint(tmp_path, content):
    (tmp_path / "odd.ckpt").write_bytes(content)
    with pytest.raises(UsageError, match=r"odd\.ckpt cannot be read as a checkpoint: .+\nwrite: another --ckpt_path$"):
        read_checkpoint(str(tmp_path / "odd.ckpt"))


def test_half_a_checkpoint(tmp_path):
    file = tmp_path / "half.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1000)}}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UsageError, match=r"half\.ckpt cannot be read as a checkpoint: "):
        read_checkpoint(str(file))


def test_the_config_of_its_module(tmp_path):
    saved = {"state_dict": {}, "hyper_parameters": {"_class_path": "my.Module", "_instantiator": "x", "lr": 0.1}}
    torch.save(saved, tmp_path / "a.ckpt")
    assert model_config(str(tmp_path / "a.ckpt")) == {"model": {"class_path": "my.Module", "init_args": {"lr": 0.1}}}
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    assert model_config(str(tmp_path / "a.ckpt")) == {}
