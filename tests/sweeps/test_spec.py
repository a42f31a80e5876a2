"""The sweep file and its sentences."""

from pathlib import Path

import pytest
import yaml

from gradgrad.errors import UsageError
from gradgrad.sweeps.proof import Command
from gradgrad.sweeps.spec import read_sweep
from gradgrad.sweeps.study import Points
from sweeps.test_driver import BASE

LR = "model.optimizer.init_args.lr"
SWEEP = {"base": "base.yaml", "space": {LR: [0.1, 0.2]}, "objective": {"metric": "val/rmse"}, "sampler": "grid"}


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)

    def write(*arguments, **changes):
        tree = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
        Path("s.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        return read_sweep(["-c", "s.yaml", *arguments])[0]

    return write


def test_defaults(written):
    sweep = written()
    assert (sweep.name, sweep.trials, sweep.seeds, sweep.parallel, sweep.max_failures) == ("s", 2, [0], 1, 3)
    assert sweep.base == [str(Path("base.yaml").absolute())]
    assert sweep.objective == ("val/rmse", "minimize", "best")
    assert not sweep.prunes


def test_a_base_is_relative_to_the_file(written, tmp_path, monkeypatch):
    written()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sweep, _ = read_sweep(["-c", "../s.yaml"])
    assert sweep.base == [str(tmp_path / "base.yaml")]


def test_the_command_line_overrides(written):
    sweep = written("--parallel=3", "--seeds=[4, 5]", "--objective.direction=maximize", "--overrides={trainer.max_epochs: 2}")
    assert (sweep.parallel, sweep.seeds, sweep.objective.direction) == (3, [4, 5], "maximize")
    assert sweep.overrides == {"trainer.max_epochs": 2}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spaec": 3}, "s.yaml:9: unknown key spaec\ngot:      spaec.*\nexpected: .*\nwrite:    space"),
        (
            {"overides": {"trainer.max_epochs": 2}},
            r"s.yaml:\d+: unknown key overides\ngot:      overides\nexpected: .*\nwrite:    overrides",
        ),
        ({"base": None}, "s.yaml: missing key base\nexpected: a config file of `gradgrad fit`"),
        ({"base": "bsae.yaml"}, "no such file\ngot:      bsae.yaml\nexpected: .*\nwrite:    base.yaml"),
        ({"space": None}, "s.yaml: space is empty."),
        ({"space": 3}, r"s.yaml:\d: wrong value for space\ngot:      3\nexpected: mapping of keys to values$"),
        *(
            (
                {"objective": given},
                "s.yaml: missing key objective\nexpected: a metric that is logged\nwrite:    objective: {metric: val/rmse}$",
            )
            for given in (None, {}, "val/rmse")
        ),
        ({"parallel": 0}, r"s.yaml:\d: wrong value for parallel\ngot:      0\nexpected: a number >0$"),
        ({"sampler": {"init_args": {}}}, "s.yaml: sampler has no class_path.\nexpected: one of grid, random, tpe, gp, qmc, or"),
        (
            {"sampler": "tpee"},
            "s.yaml: sampler is tpee.\nexpected: one of grid, random, tpe, gp, qmc, or .*\nwrite:    sampler: tpe",
        ),
        (
            {"sampler": "tpe"},
            "s.yaml: trials: nothing is said.\nexpected: how many points to try\nwrite:    trials: 20, or sampler: grid",
        ),
        ({"sampler": {"class_path": "optuna.samplers.TPESamplr"}, "trials": 2}, "write:    optuna.samplers.TPESampler"),
        (
            {"sampler": {"class_path": "tpe", "init_args": {"n_startup": 3}}, "trials": 2},
            "unknown key sampler.n_startup\ngot:      .*\nexpected: .*\nwrite:    n_startup_trials",
        ),
        ({"pruner": "medain"}, "s.yaml: pruner is medain.\n.*\nwrite:    pruner: median"),
        (
            {"launcher": "rya"},
            "s.yaml: launcher is rya.\nexpected: one of local, ray, or class_path and init_args\nwrite:    launcher: ray",
        ),
        ({"trials": 0}, "s.yaml:9: wrong value for trials\ngot:      0\nexpected: a number >0"),
        ({"trials": "many"}, "s.yaml:9: wrong value for trials\ngot:      many\nexpected: a number$"),
        ({"seeds": [1, 1]}, r"s.yaml: seeds is \[1, 1\].\nexpected: at least one, none twice"),
        ({"overrides": {"seed_everything": 1}}, "s.yaml: overrides.seed_everything: each trial has a seed of its own."),
        (
            {"objective": {"metric": "val/rmse", "directoin": "maximize"}},
            "unknown key objective.directoin\n(.*\n)+write:    direction",
        ),
    ],
)
def test_sentences(written, changes, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        written(**changes)
    assert len(str(caught.value).splitlines()) <= 5
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"overrides": {"trainer.max_epoch": 3}},
            "^s.yaml, overrides: unknown key trainer.max_epoch\n(.*\n)+write:    max_epochs",
        ),
        (
            {"space": {"model.optimizer.init_args.lrr": [1, 2]}},
            "^s.yaml, space: unknown key model.optimizer.lrr\n(.*\n)+write:    lr",
        ),
        ({"space": {"model.network.init_args.hidden": [[4], [8], "x"]}}, "^s.yaml, space: wrong value for model.network.hidden"),
        (
            {"space": {"trainer.max_epochs": [1.0, 3.0]}},
            "^s.yaml, space: wrong value for trainer.max_epochs\ngot:      1.0",
        ),
        ({"space": {"trainer.callbacks.0.init_args.x": [1, 2]}}, "^s.yaml, space: there is no trainer.callbacks.0.init_args.x"),
    ],
)
def test_keys_and_bounds_are_proved_before_anything_starts(written, changes, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        Command(written(**changes), "s").prove()
    assert len(str(caught.value).splitlines()) <= 5


def test_a_base_with_another_logger(written):
    Path("base.yaml").write_text(BASE + "trainer: {logger: false}\n")
    with pytest.raises(UsageError, match=r"^base: its trainer.logger is not ours.\nexpected: gradgrad.tracking.MLflowLogger"):
        Command(written(), "s").prove()


def test_the_command_of_a_trial(written):
    command = Command(written(overrides={"trainer.max_epochs": 2}), "s")
    command.prove()
    assert command.arguments({LR: 1e-05, "model.network": {"a": None}}, 3) == [
        *("-c", str(Path("base.yaml").absolute()), "--trainer.max_epochs=2", f"--{LR}=1.0e-05", "--model.network={a: null}"),
        *("--seed_everything=3", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        "--trainer.logger.init_args.experiment_name=s",
    ]
    assert command.shown({LR: "null"}, 3) == [
        *("gradgrad", "fit", "-c", "base.yaml", "--trainer.max_epochs=2", f"--{LR}='null'", "--seed_everything=3")
    ]


def test_a_storage_that_cannot_be_reached(written, tmp_path):
    from gradgrad.sweeps.storage import open_storage

    with pytest.raises(UsageError, match=r"^storage nonsense://x cannot be reached: .*\nwrite:    another storage, or none"):
        open_storage("nonsense://x", tmp_path)
    with pytest.raises(UsageError, match=r"^storage sqlite:///.*no/folder.db cannot be reached") as caught:
        open_storage("sqlite:////no/such/no/folder.db", tmp_path)
    assert len(str(caught.value).splitlines()) <= 5


def test_a_study_belongs_to_one_folder(written, tmp_path):
    from gradgrad.sweeps.storage import open_storage

    sweep = written("--storage=sqlite:///study.db")
    points = Points(sweep, "s", open_storage(sweep.storage, tmp_path))
    points.begin({"space": 1}, "one:/folder")
    with pytest.raises(UsageError, match=r"^sweep s is in this storage already, begun in another folder: one:/folder.\n"):
        points.begin({"space": 1}, "another:/folder")


def test_what_is_inside_another_key_comes_behind_it(written):
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
    command = Command(written(space={LR: [0.1, 0.2], "model.optimizer": [sgd]}), "1e-3")
    command.prove()  # an experiment's name that looks like a number stays a text
    found = [command.config(settings, 0)["model"]["init_args"]["optimizer"] for settings in command.sweep.space.grid()]
    assert [optimizer["init_args"]["lr"] for optimizer in found] == [0.1, 0.2]
    assert {optimizer["class_path"] for optimizer in found} == {"torch.optim.SGD"}
    with pytest.raises(UsageError, match=r"wrong value for trainer.precision\ngot:      17\n"):
        Command(written(space={"trainer.precision": [16, 17, 32]}), "s").prove()


def test_a_key_without_value(written):
    written()
    with Path("s.yaml").open("a") as file:
        file.write("launcher:\n")
    with pytest.raises(UsageError, match=r"^s.yaml: launcher is None.\nexpected: one of local, ray, or class_path"):
        read_sweep(["-c", "s.yaml"])
