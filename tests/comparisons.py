"""Runs to compare: in memory, or written into a store in milliseconds."""

from argparse import Namespace
from itertools import count

from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunData, RunInfo, RunInputs, RunTag

from gradgrad.tracking.compared_runs import Selected
from gradgrad.tracking.run_comparison import compare_runs

WEIGHT = "model.init_args.penalties.0.init_args.weight"
_number = count()


def run(params, metrics, tags=None, digest="d1", status="FINISHED"):
    """A run in memory; later ones are newer."""
    number = next(_number)
    tags = {"git.commit": "a" * 40, "git.dirty": "false", **(tags or {})}
    info = RunInfo(f"id{number}", "0", "user", status, number, number, "active")
    data = RunData(
        [Metric(name, value, 0, 0) for name, value in metrics.items()],
        [Param(key, str(value)) for key, value in params.items()],
        [RunTag(key, value) for key, value in tags.items()],
    )
    return Run(info, data, RunInputs([DatasetInput(Dataset("diabetes", digest, "local", "{}"))] if digest else [], []))


def grid(table, metric="test/rmse", **more):
    """Runs in memory of `{weight: {seed: value}}`."""
    return [
        run({WEIGHT: weight, "seed_everything": seed}, {metric: value}, **more)
        for weight, values in table.items()
        for seed, value in values.items()
    ]


def compared(runs, parent=None, **options):
    """A comparison without a store."""
    defaults = {
        **{"metric": "test/rmse", "by": [WEIGHT], "pair": None, "against": None, "interval": "t", "test": "t"},
        **{"correction": "holm", "direction": None, "all": False},
    }
    return compare_runs(Selected(None, "x", runs, parent, "0"), Namespace(**{**defaults, **options}))


def store_runs(client, experiment, runs):
    """Write runs from memory into a store; gives their ids."""
    ids = []
    for one in runs:
        new = client.create_run(experiment, tags=one.data.tags, start_time=one.info.start_time)
        params = [Param(key, value) for key, value in one.data.params.items()]
        client.log_batch(new.info.run_id, [Metric(key, value, 0, 0) for key, value in one.data.metrics.items()], params)
        if one.inputs.dataset_inputs:
            client.log_inputs(new.info.run_id, one.inputs.dataset_inputs)
        client.set_terminated(new.info.run_id, one.info.status)
        ids.append(new.info.run_id)
    return ids
