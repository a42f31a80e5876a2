"""`--resume`: what it means, what is read, what is told."""

import pickle
import re
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from lightning.pytorch import Trainer

from gradgrad.callbacks import Resumable
from gradgrad.checkpoint_io import WholeCheckpointIO
from gradgrad.errors import UsageError
from gradgrad.origin import TOLD, Origin, check_prolonged, checked, claims, find_origin
from gradgrad.resumption import Resumption
from gradgrad.tracking.drift import Change
from gradgrad.tracking.process import this_process
from gradgrad.tracking.resume import Unfinished
from gradgrad.tracking.store import find_experiment

GOOD = {"state_dict": {"w": torch.ones(1000)}, "loops": {}, "optimizer_states": [], "lr_schedulers": [], "global_step": 3}
GOOD["gradgrad.resumable"] = {"at": "batch"}
NONE = "it is no checkpoint, or half of one"


class Code:
    def __reduce__(self):
        return print, ("executed",)


def half(file, share=0.5):
    torch.save(GOOD, file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


BAD = {
    "half": (half, f"cannot be read ({NONE})"),
    "nearly whole": (lambda file: half(file, 0.998), f"cannot be read ({NONE})"),
    "empty": (lambda file: file.write_bytes(b""), f"cannot be read ({NONE})"),
    "zeros": (lambda file: file.write_bytes(bytes(5000)), f"cannot be read ({NONE})"),
    "text": (lambda file: file.write_text("hello world"), f"cannot be read ({NONE})"),
    "folder": (lambda file: file.mkdir(), "cannot be read (Is a directory)"),
    "code": (lambda file: torch.save({**GOOD, "x": Code()}, file), "cannot be read (it holds code (print), which was not run)"),
    "pickle": (
        lambda file: file.write_bytes(pickle.dumps(Code(), protocol=2)),
        "cannot be read (it holds code (print), which was not run)",
    ),
    "tensor": (lambda file: torch.save(torch.ones(3), file), "cannot be resumed (it is no checkpoint of Lightning's)"),
    "weights": (lambda file: torch.save({"state_dict": {}}, file), "cannot be resumed (it has no loops)"),
    "another run's": (lambda file: torch.save({**GOOD, "gradgrad.run": {"run_id": "b"}}, file), "is another run's (b)"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_resumed(tmp_path, name, capsys):
    write, sentence = BAD[name]
    write(tmp_path / "x.ckpt")
    with pytest.raises(UsageError, match=f"^{re.escape(f'x.ckpt {sentence}')}$"):
        checked(tmp_path / "x.ckpt", "a")
    assert "executed" not in capsys.readouterr().out


def test_a_good_file(tmp_path):
    torch.save({**GOOD, "gradgrad.run": {"run_id": "a"}}, tmp_path / "x.ckpt")
    for run_id in ("a", None):
        assert checked(tmp_path / "x.ckpt", run_id)["global_step"] == 3


@pytest.fixture
def dead_run(project, client):
    """A run that was killed, with two checkpoints."""

    def make(last, previous, status="KILLED"):
        experiment = find_experiment(client, "exp", f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
        run = client.create_run(experiment)
        client.set_terminated(run.info.run_id, status)
        folder = Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoints"
        folder.mkdir(parents=True)
        for name, write in (("last.ckpt", last), ("previous.ckpt", previous)):
            write(folder / name)
        return run.info.run_id, folder

    return make


def good(file):
    torch.save(GOOD, file)


def test_the_previous_one_where_the_last_is_half(dead_run, caplog):
    run_id, folder = dead_run(half, good)
    for resume in ("auto", run_id):
        caplog.clear()
        with claims(), caplog.at_level("INFO"):
            origin = find_origin(resume, "exp")
            assert (origin.run.run_id, origin.checkpoint) == (run_id, str(folder / "previous.ckpt"))
        assert caplog.messages == [f"last.ckpt cannot be read ({NONE}); previous.ckpt of step 3 is taken"]


def test_a_checkpoint_that_does_not_bring_everything_back_is_told(dead_run, caplog):
    _, folder = dead_run(half, lambda file: torch.save({**GOOD, "gradgrad.resumable": {"at": "within"}}, file))
    with claims(), caplog.at_level("INFO"):
        assert find_origin("auto", "exp").checkpoint == str(folder / "previous.ckpt")
    assert (
        "previous.ckpt was saved within an epoch: the run goes on with the next one, and the rest of it is missing"
        in caplog.messages
    )


def test_no_checkpoint_that_is_whole(dead_run, caplog):
    run_id, _ = dead_run(half, half)
    said = f"last.ckpt cannot be read ({NONE}); previous.ckpt cannot be read ({NONE})"
    with caplog.at_level("INFO"):
        assert find_origin("auto", "exp") is None
    assert caplog.messages == [
        f"--resume auto: run {run_id} is passed over: no checkpoint of it can be resumed. {said}",
        "--resume auto: experiment 'exp' has no unfinished run with a checkpoint; a new run begins",
    ]
    sentence = f"--resume {run_id}: no checkpoint of that run can be resumed.\n{said}\nwrite: --resume never"
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        find_origin(run_id, "exp")


def test_a_file_of_a_run_goes_on_in_the_run(dead_run, client, project):
    run_id, folder = dead_run(half, good)
    with claims():
        origin = find_origin(str(folder / "previous.ckpt"), "exp")
        assert (origin.run.run_id, origin.checkpoint) == (run_id, str(folder / "previous.ckpt"))
    good(project / "own.ckpt")
    assert find_origin("own.ckpt", "exp") == Origin(None, "own.ckpt")
    with pytest.raises(
        UsageError, match=re.escape(f"--resume last.ckpt: last.ckpt cannot be read ({NONE})\nwrite: another file")
    ):
        find_origin(str(folder / "last.ckpt"), "exp")
    for key, value in this_process().items():
        client.set_tag(run_id, key, value)
    client.update_run(run_id, status="RUNNING")
    with pytest.raises(UsageError, match=f"^--resume {run_id}: its process lives and trains."):
        find_origin(str(folder / "previous.ckpt"), "exp")


def test_nobody_else_may_resume_it_meanwhile(dead_run, project, caplog):
    run_id, folder = dead_run(good, good)
    with FileLock(project / "mlruns" / "resuming" / f"{run_id}.lock"):
        for resume, name in ((run_id, "that run"), (str(folder / "last.ckpt"), "its run")):
            with pytest.raises(UsageError, match=f": another process resumes {name}.\nwrite: --resume never, or end it first$"):
                find_origin(resume, "exp")
        assert find_origin("auto", "exp") is None
    with claims():
        assert find_origin("auto", "exp").run.run_id == run_id
        assert find_origin("auto", "exp") is None
    with claims():
        assert find_origin("auto", "exp").run.run_id == run_id


def test_a_file_that_is_not_there(project):
    sentence = "--resume a/b: no such file.\nexpected: auto, never, the id of a run, or a checkpoint file"
    with pytest.raises(UsageError, match=f"^{sentence}$"):
        find_origin("a/b", "exp")


def test_other_ranks_take_what_rank_zero_has_found(dead_run, monkeypatch):
    dead_run(good, good)
    with claims():
        found = find_origin("auto", "exp")
        monkeypatch.setattr("gradgrad.origin.rank_zero_only.rank", 1)
        assert find_origin("auto", "exp") == found
        monkeypatch.delenv(TOLD)  # it was started by something else
        assert find_origin("auto", "exp") == found
        monkeypatch.setenv(TOLD, "[null, null]")
        assert find_origin("auto", "exp") is None
        assert find_origin("never", "exp") is None


def test_a_finished_run_needs_more_to_do():
    run = Unfinished("a", "FINISHED", [], {"trainer": {"max_epochs": 3}}, 1)
    more, other = Change("trainer.max_epochs", 3, 4), Change("model.lr", 1, 2)
    sentence = (
        "run a is FINISHED: it has trained as long as it was to (max_epochs 3).\n"
        "write: --trainer.max_epochs <more> to prolong it, or --resume never for a new run"
    )
    for drift in ([], [other]):
        with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
            check_prolonged(run, drift)
    check_prolonged(run, [other, more])
    check_prolonged(run._replace(status="FAILED"), [])
    with pytest.raises(UsageError, match=r"\(max_steps 9\)"):
        check_prolonged(run._replace(config={"trainer": {"max_epochs": -1, "max_steps": 9}}), [])


class Config(dict):
    __getattr__, __setattr__ = dict.get, dict.__setitem__


def test_two_checkpoints():
    config = Config(resume="auto", ckpt_path="last")
    with pytest.raises(UsageError, match=r"^--resume auto and --ckpt_path last name two checkpoints.\nwrite: one of them$"):
        Resumption.of(config, "exp", [])


def test_a_run_needs_its_logger():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    run = Unfinished("a", "KILLED", [], {}, 1)
    sentence = (
        "run a cannot go on without its logger, gradgrad.tracking.MLflowLogger.\n"
        "write: --resume without another --trainer.logger, or --ckpt_path <file> for a training that is not tracked"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        Resumption(Origin(run, "x.ckpt"), {}).prepare(trainer, ["fit"])
    Resumption(Origin(None, "x.ckpt"), {}).prepare(trainer, ["fit"])
    Resumption(None, {}).prepare(trainer, ["fit"])
    assert [type(callback) for callback in trainer.callbacks].count(Resumable) == 1
    assert type(trainer.strategy.checkpoint_io) is WholeCheckpointIO


class Dumping:
    def dump(self, whole, **kwargs):
        return yaml.safe_dump({"fit": dict(whole.fit)})


def test_the_command_line_is_compared_with_the_run():
    run = Unfinished("a", "KILLED", [], {"resume": "auto", "ckpt_path": None, "lr": 0.1}, 1)
    whole = Config(fit=Config(resume="auto", ckpt_path=None, lr=0.2))
    resumption = Resumption(Origin(run, "x.ckpt"), {})
    resumption.decide(whole, Dumping())
    assert resumption.drift == [Change("lr", 0.1, 0.2)]
    assert whole.fit == {"resume": "never", "ckpt_path": "x.ckpt", "lr": 0.2}
    for model, drift in (({"lr": 0.1}, [Change("model.lr", 0.1, 0.2)]), ({"lr": None}, [])):  # a file of no run
        resumption = Resumption(Origin(None, "x.ckpt"), {"model": model})
        resumption.decide(Config(fit=Config(model={"lr": 0.2})), Dumping())
        assert resumption.drift == drift
    resumption = Resumption(Origin(run._replace(config={}), "x.ckpt"), {})  # it died before it had a config
    resumption.decide(whole, Dumping())
    assert resumption.drift == []
