import warnings

import matplotlib as mpl
import optuna
import pytest
from matplotlib import pyplot
from optuna.distributions import FloatDistribution

from gradgrad.sweeps import figures as drawing
from gradgrad.sweeps.figures import figures
from studies import LR, WEIGHT, add, empty_study, finished, one_of_each

ALL = ["history.png", "slice.png", "parallel_coordinates.png", "importance.png", "contour.png"]


def grid(direction="minimize"):
    study = empty_study(direction)
    for place, weight in enumerate([0, 0.01, 1, 10]):
        for lr in (0.003, 0.01):
            add(study, {WEIGHT: weight, LR: lr}, finished(50.0 + place + 100 * lr, 51.0 + place), space={})
        add(study, {WEIGHT: weight, LR: 0.01}, state="FAIL", reason="NaN", space={})
    return study


def texts(figure):
    return {text.get_text() for text in figure.findobj(mpl.text.Text)}


@pytest.fixture(scope="module")
def drawn():
    return figures(grid())


def test_all_five(drawn):
    assert list(drawn) == ALL


@pytest.mark.parametrize("name", ALL)
def test_what_can_be_read_in_them(drawn, name):
    read = texts(drawn[name])
    named = {"history.png": {"point", "best so far", "failed or pruned"}}.get(name, {"weight", "lr"})
    assert named <= read
    assert any("val/rmse" in text for text in read)
    if name != "importance.png":
        assert "val/rmse (lower is better)" in read
    if name not in ("history.png", "importance.png"):
        assert {"0", "0.01", "1", "10", "0.003"} <= read, "the values of a list, in their order"
        axes = [axes for axes in drawn[name].axes if axes.get_xlabel() == "weight"]
        assert [label.get_text() for axes in axes[:1] for label in axes.get_xticklabels()] in ([], ["0", "0.01", "1", "10"])


def test_the_other_direction():
    assert "val/rmse (higher is better)" in texts(figures(grid("maximize"))["history.png"])


def test_history_stands_at_the_numbers_of_the_points(drawn):
    dots = drawn["history.png"].axes[0].collections[0].get_offsets()
    assert [int(x) for x, _ in dots] == [0, 1, 3, 4, 6, 7, 9, 10]


def test_contours_share_their_colours():
    study = empty_study(keys=[WEIGHT, LR, "model.width"], seeds=[0])
    for place in range(9):  # of equal weights and rates the last one counts, so that their panel has levels of its own
        add(study, {WEIGHT: 1.0 + place % 3, LR: 2.0 + place % 3, "model.width": place**2}, finished(float(place)), space={})
    panels = [part for axes in figures(study)["contour.png"].axes for part in axes.collections if getattr(part, "filled", False)]
    assert len(panels) == 3
    assert {(part.norm.vmin, part.norm.vmax) for part in panels} == {(0.0, 8.0)}


def test_a_range_stays_logarithmic_and_a_key_may_be_absent():
    study = empty_study(keys=["model.optimizer", "model.momentum", "model.kind", WEIGHT], seeds=[0])
    for place in range(8):
        settings = {"model.optimizer": {"class_path": f"{'ab'[place % 2]}.SGD"}, WEIGHT: 10.0 ** (place - 4)}
        if place % 2:
            settings |= {"model.momentum": 0.1 * place, "model.kind": ["x" * 60 + "1", "x" * 60 + "2"][place // 2 % 2]}
        add(study, settings, finished(float(place)), space={WEIGHT: FloatDistribution(1e-5, 1e4, log=True)})
    drawn = figures(study)
    assert list(drawn) == ALL
    panels = {axes.get_xlabel(): axes for axes in drawn["slice.png"].axes}
    assert panels["weight"].get_xscale() == "log"
    labels = [label.get_text() for label in panels["optimizer"].get_xticklabels()]
    assert labels == ["SGD (0)", "SGD (1)"], "two classes of one name stay two"
    assert {"None", "xxxxxx…xxxxxx1", "xxxxxx…xxxxxx2"} <= texts(drawn["parallel_coordinates.png"])


@pytest.mark.parametrize(
    ("points", "left"),
    [
        ([], []),
        ([({WEIGHT: 1.0}, 1.0)], []),
        ([({WEIGHT: 1.0}, 1.0), ({WEIGHT: 2.0}, 1.0)], ["history.png"]),
        ([({WEIGHT: 1.0}, 1.0), ({WEIGHT: 1.0}, 2.0)], ["history.png"]),
        ([({WEIGHT: 1.0}, 1.0), ({WEIGHT: 2.0}, 2.0)], ALL[:4]),
        ([({WEIGHT: 1.0}, 1.0), ({WEIGHT: 2.0}, 2.0), ({WEIGHT: 2.0}, float("inf"))], ALL[:4]),
        ([({LR: "a"}, 1.0), ({LR: "b"}, 2.0)], ALL[:4]),
        (
            [
                ({LR: True}, 1.0),
                ({LR: 1}, 2.0),
                ({LR: None}, 3.0),
                ({LR: float("nan")}, 4.0),
                ({LR: "$x^{$"}, 5.0),
                ({LR: 10**400}, 6.0),
            ],
            ALL[:4],
        ),
    ],
)
def test_what_cannot_be_drawn_is_left_out(points, left):
    study = empty_study(seeds=[0])
    for settings, value in points:
        add(study, settings, finished(value), space={})
    add(study, {WEIGHT: 1.0}, state="FAIL", reason="NaN", space={})
    assert list(figures(study)) == left


def test_one_that_fails_does_not_stop_the_others(monkeypatch):
    monkeypatch.setattr(optuna.visualization.matplotlib, "plot_slice", lambda *args, **kwargs: 1 / 0)
    assert list(figures(one_of_each())) == [name for name in ALL[:4] if name != "slice.png"]


def test_pyplot_stays_as_it_was(monkeypatch):
    own = pyplot.figure()
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "pink")
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures(one_of_each())
    assert pyplot.get_fignums() == [own.number]
    assert dict(mpl.rcParams) == before
    pyplot.close(own)


def test_a_window_system_that_is_not_there(monkeypatch):
    switched = []

    def switch(name):
        switched.append(name)
        if name != "agg":
            raise ImportError("Cannot load backend 'TkAgg' which requires the 'tk' interactive framework")

    monkeypatch.setattr(pyplot, "get_backend", lambda: "TkAgg")
    monkeypatch.setattr(pyplot, "switch_backend", switch)
    assert list(figures(one_of_each())) == ALL[:4]
    assert switched == ["agg", "TkAgg"] * 4


def test_secrets_stay_out():
    study = empty_study(keys=["data.api_key"], seeds=[0])
    for place, key in enumerate(["verysecret1", "verysecret2", "verysecret3"]):
        add(study, {"data.api_key": key}, finished(float(place)), space={})
    for figure in figures(study).values():
        assert not any("verysecret" in text for text in texts(figure))


def test_names_of_many_keys_fold():
    assert drawing._folded("penalties.0.weight") == "penalties.\n0.weight"
    assert drawing._folded("lr") == "lr"
