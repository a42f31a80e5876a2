import pytest

from gradgrad.sweeps.short_names import short_names, short_settings, short_value


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["model.penalties.0.init_args.weight", "model.optimizer.init_args.lr"], ["weight", "lr"]),
        (
            ["model.penalties.0.init_args.weight", "model.penalties.1.init_args.weight"],
            ["penalties.0.weight", "penalties.1.weight"],
        ),
        (["model.inner.lr", "model.outer.lr"], ["inner.lr", "outer.lr"]),
        (["lr", "model.lr"], ["lr", "model.lr"]),
        (["model.hidden.0", "model.hidden.1"], ["hidden.0", "hidden.1"]),
        (["model.step", "model.value", "seed_everything"], ["model.step", "model.value", "seed_everything"]),
        (["model.init_args.lr", "model.lr"], ["init_args.lr", "model.lr"]),
    ],
)
def test_the_shortest_end_that_no_other_key_has(keys, names):
    assert list(short_names(keys).values()) == names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.30000000000000004, "0.3"),
        (1e-5, "1e-05"),
        (12, "12"),
        (None, "null"),
        (True, "true"),
        ("relu", "relu"),
        ("torch.optim.SGD", "SGD"),
        ("data/uci.Yacht/x", "data/uci.Yacht/x"),
        ({"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}, "SGD(lr=0.1)"),
        ({"class_path": "torch.optim.SGD"}, "SGD"),
        ({"a": 1}, "(a=1)"),
        ([16, 16], "[16, 16]"),
        ("x" * 100, f"{'x' * 11}…{'x' * 12}"),
    ],
)
def test_values_in_few_characters(value, text):
    assert short_value(value) == text


def test_a_point_in_one_line():
    settings = {
        "model.optimizer.init_args.lr": 0.003,
        "model.net": "torch.nn.Identity",
        "data": {"class_path": "a.B"},
        "seed": None,
    }
    assert short_settings(settings, short_names(settings)) == "lr=0.003 net=Identity data=B seed=null"
