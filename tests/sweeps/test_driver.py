"""What a sweep does with its trials: the loop, with trials that end at once."""

import json
import re
import shutil
from pathlib import Path

import optuna
import pytest
import yaml

from conftest import runs_of
from gradgrad.sweeps.folder import SweepFolder
from sweeps.instant import WEIGHT, Instant

LR = "model.optimizer.init_args.lr"
# As little as can be parsed: that is what takes the time here.
BASE = """
model:
  class_path: gradgrad.modules.GradientNormRegressor
  init_args:
    network: {class_path: gradgrad.networks.MLP, init_args: {hidden: [4]}}
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.01}}
data: {class_path: gradgrad.datamodules.TabularRegression, init_args: {name: diabetes}}
"""


@pytest.fixture
def drawn():
    """Figures take seconds, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradgrad.sweeps.report.figures", lambda study: {})
        yield


@pytest.fixture
def sweep(project, run_cli, drawn):
    """Write a sweep file and run it."""

    def call(*arguments, launcher=None, verb="run", **changes):
        tree = {
            "base": "base.yaml",
            "space": {WEIGHT: [0.0, 0.5, 1.5]},
            "objective": {"metric": "val/rmse"},
            "sampler": "grid",
            "launcher": {"class_path": "sweeps.instant.Instant", "init_args": launcher or {}},
        }
        tree = {key: value for key, value in {**tree, **changes}.items() if value is not None}
        Path("base.yaml").write_text(BASE)
        Path("s.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        return run_cli("sweep", "run", "-c", "s.yaml", *arguments)

    return call


def points(name="s"):
    journal = optuna.storages.journal.JournalFileBackend(f"mlruns/sweeps/{name}/journal.log")
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(journal)).trials


def states(name="s"):
    return [point.state.name for point in points(name)]


def weights(orders):
    return [
        float(next(word for word in order.arguments if word.startswith(f"--{WEIGHT}=")).partition("=")[2]) for order in orders
    ]


def test_a_grid_over_seeds(sweep, client):
    code, out, said = sweep(seeds=[0, 2], parallel=2)
    assert (code, said) == (0, "")
    assert [(point.params[WEIGHT], round(point.value, 6)) for point in points()] == [(0.0, 1.01), (0.5, 0.26), (1.5, 0.26)]
    assert [order.tags["trial"] for order in Instant.launched] == ["0", "1", "2", "3", "4", "5"]
    assert [order.tags["seed"] for order in Instant.launched] == ["0", "2"] * 3
    assert [order.name for order in Instant.launched[:3]] == [
        "weight_decay=0 seed=0",
        "weight_decay=0 seed=2",
        "weight_decay=0.5 seed=0",
    ]
    assert all("--seed_everything=" + order.tags["seed"] in order.arguments for order in Instant.launched)
    (parent,) = runs_of(client, "s")
    assert {order.tags["mlflow.parentRunId"] for order in Instant.launched} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["sweep.role"] == "parent"
    assert parent.data.tags["sweep.keys"] == WEIGHT
    assert parent.data.metrics["best/rmse" if "best/rmse" in parent.data.metrics else "best/val/rmse"] == pytest.approx(0.26)
    assert "best: val/rmse 0.260 ± 0.010 at weight_decay=0.5 (point 1)" in out
    assert "train it: gradgrad fit -c mlruns/sweeps/s/best.yaml" in out


def test_the_best_config_is_one_of_fit(sweep, run_cli):
    assert sweep()[0] == 0
    best = Path("mlruns/sweeps/s/best.yaml")
    assert best.read_text().startswith("# gradgrad fit -c mlruns/sweeps/s/best.yaml\n# Point 1 of the sweep s: val/rmse 0.25, ")
    code, out, said = run_cli("fit", "-c", best, "--print_config")
    assert code == 0, said
    config = yaml.safe_load(out)
    assert config["model"]["init_args"]["optimizer"]["init_args"]["weight_decay"] == 0.5
    assert config["trainer"]["logger"]["init_args"]["experiment_name"] is None  # the sweep's own is the sweep's


def test_the_same_command_again_does_nothing_again(sweep):
    assert sweep()[0] == 0
    code, _, _ = sweep()
    assert code == 0
    assert Instant.launched == []
    assert states() == ["COMPLETE"] * 3


def test_more_trials_go_on(sweep):
    assert sweep(trials=2)[0] == 0
    assert len(points()) == 2
    assert sweep(trials=3)[0] == 0
    assert weights(Instant.launched) == [1.5]


def test_an_interrupted_sweep_goes_on_with_what_ran(sweep):
    code, _, _ = sweep(launcher={"interrupt": 1}, seeds=[0, 1])
    assert code == 130
    assert states() == ["RUNNING"]
    assert sweep(seeds=[0, 1])[0] == 0
    assert [order.tags["trial"] for order in Instant.launched] == ["1", "2", "3", "4", "5"]  # trial 0 had ended
    assert states() == ["COMPLETE"] * 3


def test_a_dead_process_is_tried_again_but_not_for_ever(sweep):
    assert sweep(launcher={"die": 2})[0] == 0
    assert states() == ["COMPLETE"] * 3
    code, out, _ = sweep("--new", launcher={"die": 3}, max_failures=1)
    assert code == 1
    assert "1 point in a row failed, the last one: 3 times interrupted: its process ended without a word" in out


def test_failures_have_reasons_and_are_no_values(sweep):
    code, _, _ = sweep(launcher={"fail": [0.0], "nan": [0.5]})
    assert code == 0
    assert states() == ["FAIL", "FAIL", "COMPLETE"]
    assert [point.user_attrs.get("reason") for point in points()] == [
        "seed 0: ValueError: as planned\nsecond line",
        "seed 0: val/rmse is nan at step 3",
        None,
    ]


def test_failures_in_a_row_stop_the_sweep(sweep, client):
    code, out, _ = sweep(launcher={"fail": [0.0, 0.5, 1.5]}, max_failures=2)
    assert code == 1
    assert states() == ["FAIL", "FAIL"]
    assert (
        "gradgrad sweep: 2 points in a row failed, the last one: ValueError: as planned\n"
        "look at:  mlruns/sweeps/s/trials/0001/log.txt\n"
        "write:    gradgrad sweep resume s --retry_failed, once the reason is mended"
    ) in out
    assert runs_of(client, "s")[0].info.status == "FAILED"
    assert sweep("--retry_failed")[0] == 0
    assert states() == ["FAIL", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert sorted(weights(Instant.launched)) == [0.0, 0.5, 1.5]
    assert runs_of(client, "s")[0].info.status == "FINISHED"


def test_a_metric_that_is_never_logged_stops_it_at_once(sweep):
    code, out, _ = sweep(launcher={"unlogged": True}, objective={"metric": "val/rmes"})
    assert code == 1
    assert len(points()) == 1
    assert (
        "objective: metric val/rmes was never logged; logged were val/rmse\nwrite:    objective: {metric: val/rmse}, and --new"
        in out
    )


def test_pruned_points_run_no_further_seed(sweep):
    """The first two set the median; what is worse at the same step is stopped."""
    pruner = {"class_path": "median", "init_args": {"n_startup_trials": 2, "n_warmup_steps": 0}}
    code, _, said = sweep(space={WEIGHT: [1.0, 1.1, 9.0]}, seeds=[0, 1], pruner=pruner, launcher={"steps": 4})
    assert (code, said) == (0, "")
    assert states() == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert [order.tags["seed"] for order in Instant.launched] == ["0", "1", "0", "1", "0"]
    assert points()[2].intermediate_values == {1: 67.0, 2: 66.0, 3: 65.0, 4: 64.0}
    assert points()[2].user_attrs["reason"] == "other points did better at the same step"


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "qmc", {"class_path": "optuna.samplers.CmaEsSampler"}])
def test_a_seeded_sampler_does_not_repeat_itself_after_a_resume(sweep, sampler):
    if sampler == {"class_path": "optuna.samplers.CmaEsSampler"}:
        pytest.importorskip("cmaes")
    space = {WEIGHT: {"uniform": [0, 2]}, LR: {"log_uniform": [1e-4, 1]}}
    assert sweep(space=space, sampler=sampler, trials=4)[0] == 0
    first = [point.params for point in points()]
    assert sweep(space=space, sampler=sampler, trials=8)[0] == 0
    found = [tuple(point.params.values()) for point in points()]
    assert len(set(found)) == 8
    assert sweep("--new", space=space, sampler=sampler, trials=4)[0] == 0
    assert [point.params for point in points("s~2")] == first  # but a new study begins as the first did


def test_a_point_that_is_proposed_again_is_not_run_again(sweep):
    code, _, _ = sweep(sampler="random", trials=3)
    assert code == 0
    own = [point for point in points() if "duplicate_of" not in point.user_attrs]
    assert len(Instant.launched) == len(own) == 3
    first = {point.number: point.value for point in own}
    assert all(point.value == first[point.user_attrs["duplicate_of"]] for point in points() if point not in own)
    code, _, _ = sweep(sampler="random", trials=9)  # there are but three
    assert code == 0
    assert Instant.launched == []


def test_a_grid_after_another_sampler_misses_no_point(sweep):
    assert sweep(sampler="random", trials=2)[0] == 0
    assert sweep()[0] == 0
    own = [point.params[WEIGHT] for point in points() if "duplicate_of" not in point.user_attrs]
    assert sorted(own) == [0.0, 0.5, 1.5]


def test_another_space_is_another_study(sweep):
    assert sweep()[0] == 0
    code, _, said = sweep(space={WEIGHT: [0.0, 0.5, 2.5]})
    assert code == 2
    assert said == (
        f"gradgrad sweep: sweep s is about something else: space.{WEIGHT}.values is now [0.0, 0.5, 2.5], was [0.0, 0.5, 1.5].\n"
        "expected: the same base, overrides, space, objective and seeds; else its values cannot be compared\n"
        "write:    --new for another study beside it"
    )
    assert sweep("--new", space={WEIGHT: [0.0, 2.5]})[0] == 0
    assert states("s~2") == ["COMPLETE", "COMPLETE"]
    assert sweep(overrides={"trainer.max_epochs": 7}, space={WEIGHT: [0.0, 2.5]})[0] == 2
    assert states() == ["COMPLETE"] * 3


def test_conditions_reach_the_command_line(sweep):
    optimizer = "model.optimizer"
    adam, sgd = (
        {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
        {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    )
    space = {
        optimizer: [adam, sgd],
        f"{optimizer}.init_args.momentum": {"categorical": [0.5, 0.9], "when": {optimizer: sgd}},
    }
    code, _, said = sweep(space=space)
    assert (code, said) == (0, "")
    assert len(Instant.launched) == 3
    assert [sum("momentum" in word for word in order.arguments) for order in Instant.launched] == [0, 1, 1]


def test_a_journal_that_was_cut_off_is_mended(sweep):
    assert sweep(trials=2)[0] == 0
    journal = Path("mlruns/sweeps/s/journal.log")
    content = journal.read_bytes()
    journal.write_bytes(content + content.splitlines()[-1][:20])
    assert sweep()[0] == 0
    assert states() == ["COMPLETE"] * 3


def test_a_trial_that_has_ended_is_taken_up_as_it_is(sweep):
    """The driver was killed between the end of a trial and telling Optuna."""
    assert sweep(launcher={"interrupt": 2})[0] == 130
    folder = Path("mlruns/sweeps/s/trials/0002")
    folder.mkdir(exist_ok=True)
    assert sweep()[0] == 0
    assert [order.tags["trial"] for order in Instant.launched] == ["2"]
    assert json.loads((folder / "result.json").read_text())["value"] == 0.25


def test_a_dry_run_starts_nothing(sweep):
    code, out, _ = sweep("--dry-run", seeds=[0, 1])
    assert code == 0
    assert not Path("mlruns/sweeps").exists()
    lines = out.splitlines()
    assert lines[0].split(maxsplit=1) == ["0", f"gradgrad fit -c base.yaml --{WEIGHT}=0.0 --seed_everything=0"]
    assert lines[-1] == "3 points x 2 seeds, 1 at once; nothing was started"
    assert len(lines) == 7
    code, out, _ = sweep("--dry-run", space={WEIGHT: {"uniform": [0, 1]}}, sampler="tpe", trials=30)
    assert "and 20 more points, which depend on the results of these" in out
    assert len(out.splitlines()) == 12


def test_a_trial_that_hangs_and_a_sweep_that_takes_too_long(sweep):
    code, _, _ = sweep(launcher={"hang": True}, trial_timeout=0.2, max_failures=5)
    assert code == 1
    assert [point.user_attrs["reason"] for point in points()] == ["seed 0: took more than 0.2 s"] * 3
    code, out, _ = sweep("--new", timeout=1e-6)
    assert code == 1
    assert "gradgrad sweep: timeout of 1e-06 s: no more trials are started\ngradgrad sweep resume s~2 goes on with it" in out
    assert Instant.launched == []


def test_a_timeout_that_comes_when_nothing_is_left_is_none(sweep):
    code, out, _ = sweep(timeout=1.0, parallel=3, launcher={"hang": True}, trial_timeout=2.0, max_failures=5)
    assert code == 1
    assert "timeout of" not in out
    assert len(points()) == 3


def test_a_name_with_odd_signs(sweep, run_cli, client):
    sweep("--dry-run")
    Path("s.yaml").rename("it's 100 %.yaml")
    for _ in range(2):
        code, _, said = run_cli("sweep", "run", "-c", "it's 100 %.yaml")
        assert (code, said) == (0, "")
    assert len(runs_of(client, "it's 100 %")) == 1
    assert run_cli("sweep", "status", "it's 100 %")[1].startswith("sweep it's 100 % has ended\n3 finished of 3 points")


def test_a_full_disk(sweep, client):
    code, _, said = sweep(launcher={"full": 1})
    assert code == 2
    assert said == (
        "gradgrad sweep: the disk is full: No space left on device. "
        "What was finished is kept, what ran was stopped after a checkpoint.\n"
        "write:    gradgrad sweep resume s, once there is space"
    )
    assert runs_of(client, "s")[0].info.status == "FAILED"
    assert sweep()[0] == 0
    assert states() == ["COMPLETE"] * 3


def test_a_second_driver_is_refused(sweep):
    assert sweep()[0] == 0
    with SweepFolder("s").held():
        code, _, said = sweep()
    assert code == 2
    assert re.fullmatch(
        r"gradgrad sweep: sweep s is being run by process \d+ on .+\.\n"
        r"write:    gradgrad sweep status s, gradgrad sweep stop s, or --new for another study",
        said,
    )


def test_the_other_verbs(sweep, run_cli):
    assert sweep(launcher={"interrupt": 1})[0] == 130
    code, out, _ = run_cli("sweep", "status", "s.yaml")
    assert code == 0
    assert out.startswith("sweep s does not run; gradgrad sweep resume s goes on with it\n1 finished of 3 points, 1 of 3 runs\n")
    code, out, _ = run_cli("sweep", "stop", "s")
    assert (code, out) == (0, "sweep s does not run\n")
    assert run_cli("sweep", "resume", "s")[0] == 130  # as it was last run, and after one more launch it is interrupted again
    assert run_cli("sweep", "resume", "s")[0] == 130
    code, out, _ = run_cli("sweep", "best", "s")
    assert code == 0
    assert f"{WEIGHT}" in out
    code, _, said = run_cli("sweep", "status", "t")
    assert (code, said) == (2, "gradgrad sweep: there is no sweep 't' here.\nexpected: one of s")
    code, _, said = run_cli("sweep", "stauts", "s")
    assert (code, said.splitlines()[-1]) == (2, "write:    gradgrad sweep status")


def test_stop_asks_a_sweep_that_runs(sweep, run_cli):
    assert sweep(trials=1)[0] == 0
    folder = SweepFolder("s")
    with folder.held():
        code, out, _ = run_cli("sweep", "stop", "s", "--now")
        assert (code, folder.stop_asked) == (0, "now")
    assert out == "sweep s stops its trials and ends; gradgrad sweep resume s goes on with it\n"
    assert sweep()[0] == 0  # it was meant for that one, not for the next
    assert states() == ["COMPLETE"] * 3


@pytest.mark.slow
def test_a_study_on_postgresql(sweep, reliability):
    writers = reliability("writers")
    programs = writers.postgres_folder()
    if programs is None:
        pytest.skip("needs PostgreSQL's initdb and postgres (Debian: postgresql)")
    with writers.postgres(programs) as store:
        assert sweep(launcher={"interrupt": 1}, storage=store)[0] == 130
        assert sweep(storage=store)[0] == 0
        assert weights(Instant.launched) == [0.5, 1.5]
        study = optuna.load_study(study_name="s", storage=store)
        assert [point.state.name for point in study.trials] == ["COMPLETE"] * 3
    assert not Path("mlruns/sweeps/s/journal.log").exists()
    code, _, said = sweep(storage=store)  # the server is gone
    assert code == 2
    assert said.startswith("gradgrad sweep: storage postgresql+psycopg2://***@/postgres?host=")
    assert "cannot be reached" in said


def test_conditions_are_part_of_the_space(sweep):
    space = {LR: [0.1, 0.2], WEIGHT: {"categorical": [0.0, 0.5], "when": {LR: 0.1}}}
    assert sweep(space=space)[0] == 0
    space[WEIGHT]["when"] = {LR: 0.2}
    assert sweep(space=space)[0] == 2
    assert sweep(space={LR: [0.1, 0.2], WEIGHT: {"when": {LR: 0.1}, "categorical": [0.0, 0.5]}})[0] == 0  # the same


def test_an_order_of_keys_is_no_other_space(sweep):
    assert sweep(space={LR: [0.1, 0.2], WEIGHT: [0.0, 0.5]}, trials=2)[0] == 0
    assert sweep(space={WEIGHT: [0.0, 0.5], LR: [0.1, 0.2]})[0] == 0
    assert len({tuple(sorted(point.params.items())) for point in points()}) == len(points()) == 4


def test_a_folder_that_is_gone_while_mlflow_has_the_runs(sweep, client):
    assert sweep()[0] == 0
    (parent,) = runs_of(client, "s")
    client.create_run(parent.info.experiment_id, tags={"mlflow.parentRunId": parent.info.run_id, "sweep": "s", "trial": "0"})
    shutil.rmtree("mlruns/sweeps/s")
    code, _, said = sweep()
    assert code == 2
    assert said == (
        "gradgrad sweep: MLflow has the runs of a sweep s that is not in mlruns/sweeps any more.\n"
        "expected: both or neither, else its points would be there twice\n"
        "write:    a sweep file of another name; or delete the experiment s first"
    )


def test_generations(sweep, run_cli):
    assert sweep()[0] == 0
    assert sweep("--new", space={WEIGHT: [0.0, 2.5]})[0] == 0
    shutil.rmtree("mlruns/sweeps/s")
    assert sweep("--new", space={WEIGHT: [0.0, 3.5]})[0] == 0
    assert {path.name for path in Path("mlruns/sweeps").iterdir()} == {"s~2", "s~3"}
    for name in ("s", "s.yaml", "s~3"):
        assert run_cli("sweep", "status", name)[1].startswith("sweep s~3 has ended")
    assert run_cli("sweep", "status", "s~2")[1].startswith("sweep s~2 has ended")


def test_a_grid_that_fails_wholly_says_why(sweep):
    code, out, _ = sweep(launcher={"fail": [0.0, 0.5, 1.5]}, max_failures=9)
    assert code == 1
    assert (
        "gradgrad sweep: no point has a value; the last: seed 0: ValueError: as planned\nwrite:    gradgrad sweep resume s" in out
    )


def test_a_sampler_that_knows_when_it_is_done(sweep):
    assert sweep(sampler={"class_path": "optuna.samplers.BruteForceSampler"}, trials=9)[0] == 0
    assert sorted(weights(Instant.launched)) == [0.0, 0.5, 1.5]


def test_secrets_stay_out_of_mlflow_and_the_journal(sweep):
    overrides = {"trainer.default_root_dir": "https://bob:Planted-Pw1@host/x"}
    assert sweep(overrides=overrides, space={WEIGHT: [0.0, 0.5]})[0] == 0
    files = [file for file in Path("mlruns").rglob("*") if file.is_file()]
    found = {file.name for file in files if b"Planted-Pw1" in file.read_bytes()}
    assert found == {"order.json"}  # what the trial is to be called with
    assert Path("mlruns/sweeps/s").stat().st_mode & 0o077 == 0


def test_help_lists_the_keys_of_a_sweep_file(run_cli):
    code, out, _ = run_cli("sweep", "run", "--help")
    assert code == 0
    keys = ("base", "space", "objective.metric", "sampler", "pruner", "seeds", "launcher", "max_failures")
    assert all(f"--{key}" in out for key in keys)
