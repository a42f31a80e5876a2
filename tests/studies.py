"""Studies as a sweep leaves them, in memory."""

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

WEIGHT, LR = "model.penalties.0.init_args.weight", "model.optimizer.init_args.lr"
SPACE = {WEIGHT: FloatDistribution(1e-3, 30, log=True), LR: CategoricalDistribution([0.003, 0.01])}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def finished(*values, seconds=2.0):
    runs = {}
    for seed, value in enumerate(values):
        runs[str(seed)] = {
            "status": "finished",
            "run_id": f"{value:g}-{seed}",
            "value": value,
            "step": 10,
            "reason": "",
            "seconds": seconds,
        }
    return runs


def empty_study(direction="minimize", keys=(WEIGHT, LR), seeds=(0, 1, 2), metric="val/rmse"):
    study = optuna.create_study(direction=direction)
    for name, value in {"metric": metric, "at": "best", "seeds": list(seeds), "keys": list(keys)}.items():
        study.set_user_attr(name, value)
    return study


def add(study, settings, runs=None, state="COMPLETE", value=None, space=None, **attributes):
    """Add a point; the value of a complete one is the mean over its runs, unless it is given."""
    if state == "COMPLETE" and value is None:
        value = sum(run["value"] for run in runs.values()) / len(runs)
    space = SPACE if space is None else space
    known = {key: settings[key] for key in settings if key in space}
    study.add_trial(
        create_trial(
            state=TrialState[state],
            value=value,
            params=known,
            distributions={key: space[key] for key in known},
            user_attrs={"settings": settings, "runs": runs or {}, **attributes},
        )
    )


def one_of_each():
    """Two finished points, one of each other status."""
    study = empty_study()
    failed = {"status": "failed", "run_id": "e", "value": None, "step": 3, "reason": "the loss is NaN at step 3", "seconds": 1.0}
    add(study, {WEIGHT: 0.1, LR: 0.003}, finished(56.0, 57.0, 58.0))
    add(study, {WEIGHT: 1.0, LR: 0.003}, finished(54.0, 54.5, 55.0))
    add(study, {WEIGHT: 30.0, LR: 0.01}, {"0": failed}, "FAIL", reason="seed 0: the loss is NaN at step 3")
    add(study, {WEIGHT: 20.0, LR: 0.01}, finished(70.0), "PRUNED", reason="hopeless after seed 0")
    add(study, {WEIGHT: 1.0, LR: 0.003}, {}, duplicate_of=1, value=54.5)
    running = {"status": "running", "run_id": None, "value": None, "step": None, "reason": "", "seconds": 0.5}
    add(study, {WEIGHT: 2.0, LR: 0.01}, {**finished(55.0), "1": running}, "RUNNING")
    add(study, {WEIGHT: 3.0, LR: 0.01}, state="WAITING")
    return study
