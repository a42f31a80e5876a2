import io
import re
from contextlib import suppress

import pytest
from rich.console import Console

from gradgrad.sweeps.live import Live, Running
from studies import LR, WEIGHT, add, empty_study, finished, one_of_each


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(width=100, height=25):
    return Console(file=Terminal(), force_terminal=True, force_interactive=True, width=width, height=height, color_system=None)


def elsewhere(encoding="utf-8"):
    return Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True))


def written(console):
    return console.file.buffer.getvalue().decode(console.file.encoding)


def last_picture(console):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\0", console.file.getvalue())
    return re.split("\0{2,}", text.rstrip("\0\n\r"))[-1]


def test_one_line_for_each_trial_that_ends():
    study, console = one_of_each(), elsewhere()
    with Live(study, 10, console) as live:
        live.update([Running(5, 1, {WEIGHT: 2.0, LR: 0.01}, None, 0.5)])
        assert written(console) == "", "what had ended before is not said again"
        add(study, {WEIGHT: 0.5, LR: 0.003}, finished(50.0, 51.0, 52.0, seconds=100.0))
        failed = {"status": "failed", "value": None, "reason": "out of memory\nsecond line", "seconds": None}
        add(study, {WEIGHT: 0.7, LR: 0.003}, {"0": failed}, "FAIL", reason="seed 0: out of memory")
        live.update([])
        live.update([])
    assert written(console).splitlines() == [
        "point 7 seed 0 (weight=0.5 lr=0.003): val/rmse 50 (2 min; 19 of 30 runs)",
        "point 7 seed 1 (weight=0.5 lr=0.003): val/rmse 51 (2 min; 19 of 30 runs)",
        "point 7 seed 2 (weight=0.5 lr=0.003): val/rmse 52 (2 min; 19 of 30 runs)",
        "point 8 seed 0 (weight=0.7 lr=0.003): failed: out of memory (0 s; 19 of 30 runs)",
    ]


def test_a_seed_that_ends_before_its_point():
    study, console = empty_study(), elsewhere()
    with Live(study, None, console):
        add(study, {WEIGHT: 2.0, LR: 0.01}, finished(55.0), "RUNNING")
    assert written(console) == "point 0 seed 0 (weight=2 lr=0.01): val/rmse 55 (2 s; 1 runs)\n"


def test_the_picture():
    study, console = one_of_each(), on_terminal()
    with Live(study, 10, console) as live:
        live.update([Running(5, 1, {WEIGHT: 2.0, LR: 0.01}, 60.123456, 61.0), Running(6, 0, {WEIGHT: 3.0, LR: 0.01}, None, 1.0)])
        lines = last_picture(console).splitlines()
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line.strip()[0] in "│┃"]
    assert rows == [
        ["point", "seed", "settings", "val/rmse", "time"],
        ["5", "1", "weight=2 lr=0.01", "60.123", "61 s"],
        ["6", "0", "weight=3 lr=0.01", "", "1 s"],
    ]
    best, counts, bar = (line.strip() for line in lines[-3:])
    assert best == "best: val/rmse 54.50 ± 0.29 at weight=1 lr=0.003 (point 1)"
    assert counts == "2 finished, 1 failed, 1 pruned, 1 running, 1 waiting, 1 duplicate of 10 points"
    assert bar.endswith("13 of 30 runs, about 10 s left"), "17 runs of 17/13 s, two at once, 1 s and 17/13 s of them begun"


def test_nothing_is_guessed_before_the_first_has_ended():
    console = on_terminal()
    with Live(empty_study(), 10, console) as live:
        live.update([Running(0, 0, {WEIGHT: 2.0}, None, 1.0)])
        lines = last_picture(console).splitlines()
    assert [line.strip() for line in lines[-3:-1]] == ["best: no point has finished", "nothing begun of 10 points"]
    assert lines[-1].strip().endswith("0 of 30 runs")


@pytest.mark.parametrize("width", [20, 40])
def test_a_small_terminal_with_many_trials(width):
    console = on_terminal(width, 12)
    with Live(one_of_each(), 100, console) as live:
        live.update([Running(number, 0, {WEIGHT: 2.0, LR: "[red]" * 20}, 1.0, 1.0) for number in range(64)])
        lines = last_picture(console).splitlines()
    assert len(lines) <= 12
    assert max(map(len, lines)) <= width
    assert "and 61 more" in [line.strip() for line in lines]


def test_markup_and_secrets_in_settings():
    study, console = empty_study(keys=["model.name", "data.api_key"], seeds=[0]), elsewhere()
    with Live(study, 3, console):
        add(study, {"model.name": "[bold]x[/bold]", "data.api_key": "verysecret"}, finished(1.0), space={})
    assert written(console) == "point 0 seed 0 (name=[bold]x[/bold] api_key=***): val/rmse 1 (2 s; 1 of 3 runs)\n"
    console = on_terminal()
    with Live(study, 3, console) as live:
        live.update([Running(1, 0, {"model.name": "[red]y[/red]", "data.api_key": "verysecret"}, None, 0.0)])
    assert "name=[red]y[/red] api_key=***" in console.file.getvalue()
    assert "verysecret" not in console.file.getvalue()


def test_an_output_without_some_signs():
    study, console = one_of_each(), elsewhere("ascii")
    with Live(study, 3, console) as live:
        live.say("54.50 ± 0.29…")
    assert written(console) == "54.50 ? 0.29?\n"


def test_an_error_inside_leaves_the_terminal_usable():
    console = on_terminal()
    with suppress(KeyboardInterrupt), Live(one_of_each(), 10, console):
        raise KeyboardInterrupt
    assert console.file.getvalue().endswith("\n") or console.file.getvalue().endswith("\x1b[?25h")
    assert "\x1b[?25h" in console.file.getvalue(), "the cursor is shown again"
