"""The rewriting of command lines, case by case."""

from pathlib import Path

import pytest
import yaml

from gradgrad.arguments import config_files, expand_includes, insert_config, join_values, set_item, split_indexed
from gradgrad.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "joined"),
    [
        (["-c", "a.yaml"], ["--config=a.yaml"]),
        (["-c=a.yaml", "--config", "b.yaml"], ["--config=a.yaml", "--config=b.yaml"]),
        (["--a", "1", "--b=2", "--flag", "--c", "-3"], ["--a=1", "--b=2", "--flag", "--c=-3"]),
        (["--a+=X", "--print_config", "extra"], ["--a+=X", "--print_config=extra"]),
        (["extra", "more"], ["extra", "more"]),
    ],
)
def test_join_values(arguments, joined):
    assert join_values(arguments) == joined


def test_config_files_leaves_out_configs_given_as_text():
    assert config_files(["-c", "a.yaml", '--config={"seed_everything": 1}', "--x=1"]) == [Path("a.yaml")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    Path("base.yaml").write_text("a: 1\n")
    Path("deep/middle.yaml").write_text("config: ../base.yaml\nb: 2\n")
    Path("top.yaml").write_text("config: [base.yaml, deep/middle.yaml]\nc: 3\n")
    return tmp_path


def test_includes_come_before_what_includes_them(folder):
    assert [a.replace("deep/../", "") for a in expand_includes(["-c", "top.yaml", "--c=4"])] == [
        "--config=base.yaml",
        "--config=base.yaml",
        "--config={b: 2}",  # without its key `config`, or jsonargparse would include once more, over what came in between
        "--config={c: 3}",
        "--c=4",
    ]


@pytest.mark.parametrize("content", ["", "a: [", "just text", "- a list"])
def test_what_is_no_config_is_left_for_the_parser_to_complain_of(folder, content):
    Path("odd.yaml").write_text(content)
    assert expand_includes(["-c", "odd.yaml", "-c", "missing.yaml"]) == ["--config=odd.yaml", "--config=missing.yaml"]


def test_a_file_that_is_no_text(folder):
    Path("odd.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(
        UsageError, match=r"^odd\.yaml is not a text file in UTF-8: invalid start byte\.\nexpected: lines of `key: value`$"
    ):
        expand_includes(["-c", "odd.yaml"])


def test_a_circle_of_includes_is_refused(folder):
    Path("one.yaml").write_text("config: two.yaml\n")
    Path("two.yaml").write_text("config: one.yaml\n")
    with pytest.raises(UsageError, match=r"^one\.yaml includes itself\.\nexpected: `config: <another file>`, or no such line$"):
        expand_includes(["-c", "one.yaml"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config=a", "--x=1"], ["--config=a", "--config={m: 1}", "--x=1"]),
        (["--x=1"], ["--config={m: 1}", "--x=1"]),
        (["--x=1", "--config=a", "--y=2"], ["--x=1", "--config=a", "--config={m: 1}", "--y=2"]),
    ],
)
def test_insert_config_goes_between_files_and_overrides(arguments, expected):
    assert insert_config(arguments, {"m": 1}) == expected


def test_split_indexed():
    plain, indexed = split_indexed(["--a.b=1", "--list.0.weight=0.5", "--list.1=x", "--config=c0.yaml", "--v1.2x=3"])
    assert plain == ["--a.b=1", "--config=c0.yaml", "--v1.2x=3"]
    assert indexed == {"list.0.weight": 0.5, "list.1": "x"}


@pytest.fixture
def tree():
    return {"model": {"class_path": "M", "init_args": {"penalties": [{"init_args": {"weight": 1.0}}], "widths": [1, 2]}}}


@pytest.mark.parametrize("name", ["model.init_args.penalties.0.init_args.weight", "model.penalties.0.weight"])
def test_set_item_finds_a_place_with_or_without_init_args(tree, name):
    set_item(tree, name, 3.0)
    assert tree["model"]["init_args"]["penalties"] == [{"init_args": {"weight": 3.0}}]


def test_set_item_in_a_list(tree):
    set_item(tree, "model.widths.1", 5)
    assert tree["model"]["init_args"]["widths"] == [1, 5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "model.penalties.0.weigt",
            r"^command line: unknown key model\.penalties\.0\.weigt\ngot:      weigt: 1\nexpected: one of weight\n"
            r"write:    weight$",
        ),
        (
            "model.penalties.7.weight",
            r"^command line: there is no model\.penalties\.7\.weight \(the list has 1 items\)\.\n"
            r"write: a key that --print_config shows$",
        ),
        (
            "modl.penalties.0.weight",
            r"^command line: there is no modl\.penalties\.0\.weight\.\nwrite: a key that --print_config shows$",
        ),
    ],
)
def test_set_item_elsewhere_is_refused(tree, name, message):
    with pytest.raises(UsageError, match=message):
        set_item(tree, name, 1)


def test_infinity_survives_on_its_way_into_a_config():
    (argument,) = insert_config([], {"p": float("inf"), "text": "a: b\n  c, " + "long " * 50, "small": 1e-7, "none": None})
    assert "\n" not in argument
    assert yaml.safe_load(argument.removeprefix("--config="))["p"] == float("inf")
