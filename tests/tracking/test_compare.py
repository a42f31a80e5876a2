"""`gradgrad compare` on a store."""

import json

import pytest

from comparisons import WEIGHT, compared, grid, run, store_runs
from gradgrad.tracking import compared_runs

TABLE = {"0.0": {0: 3.0, 1: 5.0, 2: 4.0}, "0.3": {0: 2.0, 1: 4.5, 2: 3.9}}
BY = ["--by", "model.penalties.0.weight", "--metric", "test/rmse"]


def new_experiment(client, project, name="study"):
    return client.create_experiment(name, (project / "mlruns" / "artifacts" / name).as_uri())


def trials(table, sweep="s"):
    made = grid(table)
    for one in made:
        one.data.tags.update({"sweep": sweep, "point": one.data.params[WEIGHT], "seed": one.data.params["seed_everything"]})
    return made


def test_from_runs_to_outputs(project, client, run_cli):
    ids = store_runs(client, new_experiment(client, project), grid(TABLE) + grid({"0.3": {7: 1.0}}, status="FAILED"))
    code, out, err = run_cli("compare", *BY, "--against", "weight=0", "--output", "made/here", "--log")
    assert code == 0
    assert "│ 0.3    │ 3 │ 3.47 * │" in out
    names = "comparison.md, comparison.tex, comparison.csv, runs.csv, comparison.png, comparison.pdf"
    left_out, written, logged = err.splitlines()
    assert left_out == "note: 1 run is left out: not FINISHED (1 FAILED); --all takes them in"
    assert written == f"written to made/here: {names}"
    run_id = logged.removeprefix("logged to comparison/test_rmse_by_weight of run ")
    kept = [file.path for file in client.list_artifacts(run_id, "comparison/test_rmse_by_weight")]
    assert sorted(kept) == sorted(f"comparison/test_rmse_by_weight/{name}" for name in names.split(", "))
    assert {file.name for file in (project / "made" / "here").iterdir()} == set(names.split(", "))
    note = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert note == (project / "made" / "here" / "comparison.md").read_text()
    assert client.get_run(run_id).info.status == "FINISHED"
    # The run that holds a comparison is not compared itself.
    code, out, err = run_cli("compare", "--experiment", "study", *BY, "--format", "csv", "--all")
    assert (code, err) == (0, "note: seed_everything does not match: 0, 1, 2 in 1 of 2 groups, but 0, 1, 2, 7 in weight=0.3")
    assert [line.split(",")[:2] for line in out.splitlines()[1:]] == [["0.0", "3"], ["0.3", "4"]]
    code, out, err = run_cli("compare", "--runs", *ids[:4], *BY, "--format", "markdown")
    assert "test/rmse of runs; lower is better." in out


def test_a_sweep_is_grouped_by_its_space(project, client, run_cli):
    experiment = new_experiment(client, project)
    parent_tags = {"sweep": "s", "sweep.role": "parent", "sweep.keys": "model.penalties.0.weight,model.gone"}
    [parent] = store_runs(client, experiment, [run({}, {}, parent_tags, digest=None)])
    store_runs(client, experiment, trials(TABLE) + trials({"0.3": {0: 99.0}}, sweep="other"))
    code, out, err = run_cli("compare", "--sweep", "s", "--metric", "test/rmse", "--against", "0", "--format", "csv", "--log")
    assert code == 0
    assert err == f"logged to comparison/test_rmse_by_weight of run {parent}"
    assert out.startswith("model.penalties.0.weight,n,mean,")
    assert [line.split(",")[:3] for line in out.splitlines()[1:]] == [["0.0", "3", "4.0"], ["0.3", "3", "3.466666666666667"]]
    assert client.list_artifacts(parent, "comparison/test_rmse_by_weight")
    code, out, err = run_cli("compare", "--runs", parent, *BY)
    assert code == 2
    assert err.endswith("that run is the parent of a sweep and has no result.\nwrite: --sweep s")


@pytest.mark.parametrize(
    ("keys", "names"),
    [("", ["point"]), ("model.penalties.0.weight", ["weight"]), ("data.name", ["point", "name"])],
)
def test_a_point_is_shown_where_its_values_do_not_tell_it(keys, names):
    runs = trials(TABLE)
    for one in runs:
        one.data.params["data.name"] = "a"
    parent = run({}, {}, {"sweep.keys": keys})
    comparison = compared(runs, parent, by=None)
    assert comparison.names == names
    assert list(comparison.table["mean"]) == pytest.approx([4.0, 10.4 / 3])


def test_all_pages_are_read(project, client, monkeypatch):
    experiment = new_experiment(client, project)
    ids = {client.create_run(experiment).info.run_id for _ in range(25)}
    sizes = []
    search = client.search_runs

    def counted(*arguments, **options):
        page = search(*arguments, **options)
        sizes.append(len(page))
        return page

    monkeypatch.setattr(compared_runs, "PAGE", 10)
    monkeypatch.setattr(client, "search_runs", counted)
    found = [one.info.run_id for one in compared_runs.search(client, [experiment])]
    assert sizes == [10, 10, 5]
    assert len(found) == 25
    assert set(found) == ids


def test_a_run_that_begins_meanwhile_is_read_once(monkeypatch):
    class Page(list):
        token = None

    class Client:
        def search_runs(self, experiments, wanted, max_results, page_token):
            page = Page([first] if page_token is None else [first, second])
            page.token = None if page_token else "next"
            return page

    first, second = grid({"0": {0: 1.0, 1: 2.0}})
    assert list(compared_runs.search(Client(), ["0"])) == [first, second]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--experiment", "studdy", *BY],
            "--experiment studdy: there is no such experiment in this store.\n"
            "expected: one of study\nwrite:    --experiment study",
        ),
        (
            ["--sweep", "t'", *BY],
            "--sweep t': there is no such sweep in this store.\nexpected: one of s\nwrite:    --sweep s",
        ),
        (["--sweep", "'\"", *BY], "--sweep '\": there is no such sweep in this store.\nexpected: one of s\nwrite:    --sweep s"),
        (["--runs", "abc", *BY], "--runs abc: no such run in this store.\nwrite: an id that `gradgrad ui` shows"),
        (
            [*BY[:2], "--metric", "test/rmes"],
            "--metric test/rmes: none of 2 runs has it.\nexpected: one of test/rmse\nwrite:    --metric test/rmse",
        ),
        (["--metric", "test/rmse"], "--by is missing.\nexpected: --by KEY ..."),
        (
            ["--by", "seed", "--metric", "test/rmse"],
            "--by seed: no run has such a setting or tag.\nexpected: a key as on the command line, or a tag",
        ),
        (
            ["--by", "seed_everything", "--metric", "test/rmse"],
            "seed_everything is in --by and pairs the runs too.\nwrite:    --pair <what else the groups share>",
        ),
        ([*BY, "--output", "file"], "--output file is a file.\nwrite: --output <a folder>"),
        (
            [*BY, "--correction", "bonferoni"],
            "argument --correction: invalid choice: 'bonferoni' (choose from ",
        ),
        ([*BY, "--against", "7"], "--against 7: no group has these values.\nexpected: one of weight=0.0, weight=0.3"),
    ],
)
def test_mistakes_are_sentences(project, client, run_cli, arguments, said):
    (project / "file").touch()
    store_runs(client, new_experiment(client, project), grid({"0.0": {0: 1.0}, "0.3": {0: 2.0}}))
    if "--sweep" in arguments:
        client.create_run("0", tags={"sweep": "s", "sweep.role": "parent"})
    code, out, err = run_cli("compare", *arguments)
    assert (code, out) == (2, "")
    assert err.removeprefix("gradgrad compare: ").startswith(said)


def test_nothing_to_compare_yet(project, client, run_cli):
    assert run_cli("compare", *BY)[2].endswith(
        "which runs?\nexpected: --sweep NAME, --experiment NAME or --runs ID ...; experiments: none yet"
    )
    (project / "mlruns" / "mlflow.db").unlink()
    assert run_cli("compare", *BY)[::2] == (
        2,
        f"gradgrad compare: the only experiment: there is no run yet ({project}/mlruns/mlflow.db does not exist).\n"
        "write: gradgrad fit first",
    )
    assert not (project / "mlruns" / "mlflow.db").exists()


def test_what_was_deleted_is_said_so(project, client, run_cli):
    experiment = new_experiment(client, project)
    [run_id, _] = store_runs(client, experiment, grid({"0.0": {0: 1.0, 1: 2.0}}))
    client.delete_run(run_id)
    sentence = f"--runs {run_id}: that run was deleted.\nwrite: mlflow runs restore --run-id {run_id} first"
    assert run_cli("compare", "--runs", run_id, *BY)[2] == f"gradgrad compare: {sentence}"
    client.delete_experiment(experiment)
    sentence = f"--experiment study: that experiment was deleted.\nwrite: mlflow experiments restore -x {experiment} first"
    assert run_cli("compare", "--experiment", "study", *BY)[2] == f"gradgrad compare: {sentence}"


def test_secrets_stay_hidden(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hunter2hunter2")
    runs = [run({"a": json.dumps({"url": "hunter2hunter2"}), "seed_everything": "0"}, {"m": 1.0})]
    assert compared(runs, metric="m", by=["a"]).groups == [('{"url": "***"}',)]


def test_outputs_that_cannot_be_kept(project, client, run_cli, monkeypatch):
    (project / "file").touch()
    store_runs(client, new_experiment(client, project), grid({"0.0": {0: 1.0, 1: 2.0}}))
    code, out, err = run_cli("compare", *BY, "--output", "file/below")
    assert (code, err) == (2, "gradgrad compare: --output file/below cannot be written: Not a directory\nwrite: another folder")
    assert "1.50" in out  # the table is there all the same

    def refuse(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("mlflow.MlflowClient.log_artifact", refuse)
    code, out, err = run_cli("compare", *BY, "--log")
    sentence = "--log: the store does not take the comparison: no space left\nwrite: --output <a folder> instead"
    assert (code, err) == (2, f"gradgrad compare: {sentence}")
    statuses = [one.info.status for one in client.search_runs(["1"], "tags.comparison != ''")]
    assert statuses == ["FAILED"]
