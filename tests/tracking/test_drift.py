"""What a resumed run is told otherwise than before."""

import pytest
import torch

from gradgrad.tracking.drift import Change, changes, override_optimizers, recorded
from gradgrad.tracking.secrets import HIDDEN


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, [("a.b", 1, None), ("a.c", None, 2)]),
        ({"a": [1, 2]}, {"a": [1, 3]}, [("a", [1, 2], [1, 3])]),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, [("a.1.b", 2, 3)]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}, {"b": 3}]}, [("a", [{"b": 1}], [{"b": 1}, {"b": 3}])]),
        ({"a": None}, {"a": {"b": 1}}, [("a", None, {"b": 1})]),
        ({"a": f"x{HIDDEN}"}, {"a": "a secret"}, []),
        ({"a": [f"x{HIDDEN}"]}, {"a": ["a secret"]}, []),
        ({"ckpt_path": None, "resume": "never"}, {"ckpt_path": "last.ckpt", "resume": "auto"}, []),
        ({"a": {"resume": 1}}, {"a": {"resume": 2}}, [("a.resume", 1, 2)]),
    ],
)
def test_changes(old, new, expected):
    assert list(changes(old, new)) == [Change(*change) for change in expected]


def test_what_was_recorded_is_parsed_again_without_secrets_and_without_what_comes_twice():
    config = {
        "seed_everything": 3,
        "ckpt_path": "x.ckpt",
        "resume": "auto",
        "trainer": {"max_epochs": 2, "callbacks": [{"class_path": "A"}], "logger": None},
        "model": {"token": HIDDEN, "names": [HIDDEN], "lr": None},
        "data": None,
    }
    kept = {"seed_everything": 3, "trainer": {"max_epochs": 2, "logger": None}, "model": {"lr": None}}
    for appended in (["--trainer.callbacks+=B"], ["--trainer.callbacks+", "B"]):
        assert recorded(config, appended) == kept
    assert recorded(config, ["--trainer.callbacks.0.name=b+=c"])["trainer"]["callbacks"] == [{"class_path": "A"}]


def checkpoint_of(optimizer, *schedulers):
    return {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict() for scheduler in schedulers]}


@pytest.fixture
def adam():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    return optimizer


def change(name, old, new):
    return Change(f"model.init_args.{name}", old, new)


def test_a_setting_of_the_optimizer_wins_and_its_moments_stay(adam):
    checkpoint = checkpoint_of(adam)
    drift = [change("optimizer.init_args.lr", 0.1, 0.3), change("optimizer.init_args.betas", [0.9, 0.999], [0.5, 0.9])]
    override_optimizers(checkpoint, [*drift, change("penalties.0.init_args.lr", 1, 2)])
    (state,) = checkpoint["optimizer_states"]
    assert (state["param_groups"][0]["lr"], state["param_groups"][0]["betas"]) == (0.3, (0.5, 0.9))
    assert state["state"][0]["step"] == 1


def test_a_rate_that_was_scaled_is_scaled_alike(adam):
    scheduler = torch.optim.lr_scheduler.StepLR(adam, 1, 0.5)
    adam.step()
    scheduler.step()
    checkpoint = checkpoint_of(adam, scheduler)
    override_optimizers(checkpoint, [change("optimizer.init_args.lr", 0.1, 0.4)])
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    assert (group["lr"], group["initial_lr"]) == (pytest.approx(0.2), 0.4)
    state = checkpoint["lr_schedulers"][0]
    assert (state["base_lrs"], state["_last_lr"]) == ([0.4], [pytest.approx(0.2)])


def test_a_setting_of_the_scheduler_wins(adam):
    checkpoint = checkpoint_of(adam, torch.optim.lr_scheduler.StepLR(adam, 7, 0.5))
    override_optimizers(checkpoint, [change("scheduler.init_args.step_size", 7, 3)])
    assert (checkpoint["lr_schedulers"][0]["step_size"], checkpoint["lr_schedulers"][0]["gamma"]) == (3, 0.5)


@pytest.mark.parametrize(
    ("key", "left"),
    [
        ("optimizer.class_path", "lr_schedulers"),
        ("scheduler", "optimizer_states"),
        ("lr_scheduler.class_path", "optimizer_states"),
    ],
)
def test_another_class_begins_anew(adam, key, left):
    checkpoint = checkpoint_of(adam, torch.optim.lr_scheduler.StepLR(adam, 7))
    override_optimizers(checkpoint, [change(key, "A", "B")])
    assert [name for name, states in checkpoint.items() if states] == [left]
