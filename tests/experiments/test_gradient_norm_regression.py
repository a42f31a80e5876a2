"""The batched study of gradient-norm penalties against the same thing written plainly, one model at a time."""

import copy
import importlib
import io
import runpy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from conftest import REPOSITORY, runs_of
from gradgrad.batches import Batch
from gradgrad.datamodules import TabularRegression
from gradgrad.modules.supervised import Supervised
from gradgrad.networks import MLP
from gradgrad.penalties import GradientNormPenalty, InputGradientPenalty, penalize

FOLDER = REPOSITORY / "experiments" / "gradient_norm_regression"
MODULES = ("objectives", "training", "selection", "study")
ARMS = ("none", "l2", "parameter_gradient", "parameter_gradient_micro", "input_gradient", "sam", "l2_parameter_gradient")
MICRO = 4


@pytest.fixture(scope="module")
def code():
    """The experiment's modules, which lie in no package; other experiments may use the same names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        for name in MODULES:
            del sys.modules[name]


def coefficient_of(arm, value):
    return torch.tensor([0.07, value] if arm == "l2_parameter_gradient" else value, dtype=torch.float64)


def model(seed=0):
    torch.manual_seed(seed)
    return MLP(3, 1, [5], "tanh").double()


def rows(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return x, x.prod(1, keepdim=True) + x.sum(1, keepdim=True).sin()


def textbook(arm, module, x, y, c):
    """Gradient of an arm's objective by `torch.autograd.grad`, one model, one row or micro-batch at a time."""
    leaves = list(module.parameters())

    def squared_gradient(x, y):
        loss = torch.nn.functional.mse_loss(module(x), y)
        return sum(g.pow(2).sum() for g in torch.autograd.grad(loss, leaves, create_graph=True))

    if arm == "sam":
        gradient = torch.autograd.grad(torch.nn.functional.mse_loss(module(x), y), leaves)
        length = torch.cat([g.flatten() for g in gradient]).norm()
        moved = copy.deepcopy(module)
        with torch.no_grad():
            for p, g in zip(moved.parameters(), gradient, strict=True):
                p += c * g / length
        return torch.autograd.grad(torch.nn.functional.mse_loss(moved(x), y), list(moved.parameters()))
    penalty = 0.0
    if arm.startswith("l2"):
        penalty = (c[0] if c.ndim else c) * sum(p.pow(2).sum() for p in leaves)
    if arm.endswith("parameter_gradient"):
        penalty = penalty + (c[1] if c.ndim else c) * squared_gradient(x, y)
    if arm == "parameter_gradient_micro":
        parts = zip(x.split(MICRO), y.split(MICRO), strict=True)
        penalty = sum(c * len(x_k) / len(x) * squared_gradient(x_k, y_k) for x_k, y_k in parts)
    if arm == "input_gradient":
        for row in x:
            leaf = row.clone().requires_grad_()
            (slope,) = torch.autograd.grad(module(leaf[None]).sum(), leaf, create_graph=True)
            penalty = penalty + c * slope.pow(2).sum() / len(x)
    return torch.autograd.grad(torch.nn.functional.mse_loss(module(x), y) + penalty, leaves)


@pytest.mark.parametrize("count", [3, 8, 11])  # less than a micro-batch, whole ones, a rest
@pytest.mark.parametrize("arm", ARMS)
def test_an_objective_has_the_textbook_gradient(code, arm, count):
    module, (x, y), c = model(), rows(count), coefficient_of(arm, 0.3)
    params = {name: p.detach() for name, p in module.named_parameters()}
    objective = code.objectives.objectives(MICRO)[arm]
    gradient = torch.func.grad(lambda p: objective(code.training.network([5], 3), p, x, y, c))(params)
    for found, expected in zip(gradient.values(), textbook(arm, module, x, y, c), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_the_arms_differ(code):
    """Else the test above could compare an arm with another one."""
    gradients = {arm: textbook(arm, model(), *rows(11), coefficient_of(arm, 0.3))[0] for arm in ARMS}
    for arm, g in gradients.items():
        assert not any(torch.allclose(g, other) for name, other in gradients.items() if name != arm)


@pytest.mark.parametrize("arm", ARMS)
def test_a_perfect_fit_has_finite_gradients(code, arm):
    module, (x, _) = model(), rows(8)
    params = {name: p.detach() for name, p in module.named_parameters()}
    objective, c = code.objectives.objectives(MICRO)[arm], coefficient_of(arm, 0.3)
    gradient = torch.func.grad(lambda p: objective(code.training.network([5], 3), p, x, module(x).detach(), c))(params)
    assert all(g.isfinite().all() for g in gradient.values())


def parts_of(code, splits, count=10):
    drawn = [tuple(t.numpy() for t in (*rows(count, 10 + k), *rows(6, 20 + k))) for k in splits]
    return code.training.standardized([(x, y[:, 0], a, b[:, 0]) for x, y, a, b in drawn], torch.float64)


def test_parts_are_standardized_by_the_rows_that_are_trained_on(code):
    x, y = np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([10.0, 30.0])
    parts = code.training.standardized([(x, y, np.array([[5.0, 6.0]]), np.array([40.0]))], torch.float64)
    assert parts.x.tolist() == [[[-1, 0], [1, 0]]]
    assert parts.x_test.tolist() == [[[3, 1]]]
    assert parts.y.flatten().tolist() == [-1, 1]
    assert (parts.y_test.item(), parts.scale.item()) == (2, 10)


@pytest.mark.parametrize("arm", ARMS)
def test_models_trained_together_equal_each_alone(code, arm):
    objective, recipe = code.objectives.objectives(MICRO)[arm], code.training.Recipe([5], 0.01, 3, 4)
    seeds, values = [0, 1, 2], [0.01, 0.3]
    split = torch.arange(3).repeat_interleave(2)
    coefficient = torch.stack([coefficient_of(arm, v) for _ in seeds for v in values])
    together = code.training.Run(objective, recipe, parts_of(code, seeds), seeds, split, coefficient).fit().rmse()
    for m, errors in enumerate(together):
        seed = int(split[m])
        alone = code.training.Run(
            objective, recipe, parts_of(code, [seed]), [seed], torch.tensor([0]), coefficient[m : m + 1]
        ).fit()
        torch.testing.assert_close(errors, alone.rmse()[0], rtol=1e-9, atol=0)  # Adam's division magnifies rounding


def test_a_run_equals_a_plain_loop_with_a_short_last_batch(code):
    """10 rows in batches of 4: the last batch is the mean of 2 rows, and the cosine counts it as a step."""
    parts, recipe = parts_of(code, [5]), code.training.Recipe([5], 0.01, 3, 4)
    run = code.training.Run(code.objectives.plain, recipe, parts, [5], torch.tensor([0]), torch.zeros(1)).fit()
    torch.manual_seed(5)
    module = MLP(3, 1, [5], "tanh").double()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
    order = torch.Generator().manual_seed(5)
    for _ in range(3):
        for batch in torch.randperm(10, generator=order).split(4):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(module(parts.x[0, batch]), parts.y[0, batch]).backward()
            optimizer.step()
            scheduler.step()
    assert scheduler.get_last_lr() == run.scheduler.get_last_lr() == [0]
    for found, expected in zip(run.params.values(), module.parameters(), strict=True):
        torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-12)
    error = (module(parts.x_test[0]) - parts.y_test[0]).square().mean().sqrt() * parts.scale[0]
    torch.testing.assert_close(run.rmse()[0], error, rtol=1e-9, atol=0)


def test_a_regime_keeps_the_first_rows_of_the_split(code):
    parts = TabularRegression("diabetes", split=1)
    _, (x, _, x_test, _) = code.selection.read(code.selection.Setting("diabetes", "100 rows", 100, 20, 5, 1), 2)
    assert (x == parts.table.x[parts.parts["training"][:100]]).all()
    assert (x_test == parts.table.x[parts.parts["test"]]).all()
    _, (whole, *_) = code.selection.read(code.selection.Setting("diabetes", "full", None, 32, 8, 1), 2)
    assert len(whole) + len(x_test) == 442


@pytest.fixture(scope="module")
def unequal(code):
    """Splits of 40, 43 and 40 rows, with noise, so that a penalty can be chosen."""
    code.selection.TIMING_ROUNDS = 1
    generator, splits = np.random.default_rng(0), []
    for count in (40, 43, 40):
        x = generator.normal(size=(count + 9, 3))
        y = x[:, 0] + generator.normal(size=len(x))
        splits.append((x[:count], y[:count], x[count:], y[count:]))
    setting = code.selection.Setting("synthetic", "full", None, batch=16, micro_batch=4, epochs=10)
    grids = {arm: [0.01, 1.0] for arm in ARMS if arm != "none"}
    return setting, splits, grids


def test_splits_of_unequal_size_are_measured_each_as_itself(code, unequal):
    setting, splits, grids = unequal
    found = code.selection.measure(setting, splits, grids, [5], 0.01)
    counts = found["arm"].value_counts()
    assert set(counts.index) == {*ARMS, "least_squares", "random_forest"}
    assert (counts == 3).all()
    recipe = code.training.Recipe([5], 0.01, setting.epochs, setting.batch)
    alone = code.selection.group_results(setting, splits[1:2], [1], grids, recipe).set_index("arm")
    with_others = found[found["split"] == 1].set_index("arm").loc[alone.index]
    assert (alone["coefficient"] == with_others["coefficient"]).all()
    np.testing.assert_allclose(alone["rmse"], with_others["rmse"], rtol=1e-4)  # float32


def test_the_test_part_chooses_nothing_and_zero_is_none(code, unequal):
    setting, splits, grids = unequal
    spoiled = [(x, y, x_test, y_test + 100) for x, y, x_test, y_test in splits]
    found, other = (code.selection.measure(setting, rows, grids, [5], 0.01) for rows in (splits, spoiled))
    assert (found["coefficient"].dropna() == other["coefficient"].dropna()).all()
    assert (found["rmse"].to_numpy() < other["rmse"].to_numpy()).all()
    none = found[found["arm"] == "none"].set_index("split")["rmse"]
    zero = found[(found["coefficient"] == 0) & (found["l2_coefficient"] == 0)]
    assert (zero["rmse"].to_numpy() == none[zero["split"]].to_numpy()).all()


def test_paired_differences(code):
    frame = pd.DataFrame(
        {"set": "a", "regime": "full", "arm": ["none"] * 3 + ["l2"] * 3, "split": [0, 1, 2] * 2, "rmse": [4.0, 4, 4, 1, 4, 7]}
    )
    _, row = code.study.differences(frame, "none").itertuples()
    assert (row.arm, row.wins, row.ties, row.losses, row.difference) == ("l2", 1, 1, 1, 0)
    assert row.difference_error == pytest.approx(3 / 3**0.5)  # standard deviation 3 over 3 splits
    assert row.percent_error == pytest.approx(75 / 3**0.5)


def test_the_readme_shows_the_committed_results(code):
    said = io.StringIO()
    for table in code.study.tables(pd.read_csv(FOLDER / "results.csv")):
        Console(width=260, file=said).print(table)
    lines = {"".join(line.split()) for line in (FOLDER / "README.md").read_text().splitlines()}
    shown = ["".join(line.split()) for line in said.getvalue().splitlines() if line.startswith("|") and "±" in line]
    assert len(shown) == 30  # 10 settings in three tables
    assert not [line for line in shown if line not in lines]


@pytest.mark.slow
def test_the_study_runs_short_and_goes_on(code, project, client, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out" / "results.csv"
    command = [FOLDER / "study.py", "--config", FOLDER / "study.yaml", "--splits", 2, "--sets", "[diabetes]", "--output", output]

    def again(epochs):
        """In this process, which has imported all that it needs."""
        monkeypatch.setattr(sys, "argv", [*map(str, command), f"--epochs={epochs}"])
        runpy.run_path(str(FOLDER / "study.py"), run_name="__main__")

    first = subprocess.run([sys.executable, *map(str, command), "--epochs=1"], cwd=project, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "measured diabetes full" in first.stdout
    assert "paired difference to L2 in percent" in first.stdout
    results = pd.read_csv(output)
    assert len(results) == 2 * 2 * 9  # regimes, splits, arms
    assert results["rmse"].between(30, 200).all()
    assert output.with_name("rmse_by_arm.png").read_bytes()[:4] == b"\x89PNG"
    assert [run.info.status for run in runs_of(client, "gradient_norm_regression")] == ["FINISHED"] * 18
    again(1)
    out, _ = capsys.readouterr()
    assert "measured" not in out
    assert "paired difference to L2 in percent" in out
    with pytest.raises(SystemExit, match=r"^error: .* under another recipe"):  # a text, so the exit code is 1
        again(2)


SHIPPED = {
    "none": lambda c: [],
    "parameter_gradient": lambda c: [GradientNormPenalty(c)],
    "parameter_gradient_micro": lambda c: [GradientNormPenalty(c, micro_batch_size=MICRO)],
    "input_gradient": lambda c: [InputGradientPenalty(c)],
    "sam": lambda c: [GradientNormPenalty(1.0, method="sam", radius=c)],
}


@pytest.mark.parametrize("arm", SHIPPED)
def test_an_arm_is_what_gradgrad_fit_would_minimize(code, arm):
    module, (x, y) = model(), rows(10)
    objective = code.objectives.objectives(MICRO)[arm]
    params = {name: p.detach() for name, p in module.named_parameters()}
    gradient = torch.func.grad(lambda p: objective(code.training.network([5], 3), p, x, y, coefficient_of(arm, 0.3)))(params)
    total = penalize(Supervised(module, torch.nn.MSELoss()), Batch(x, y), SHIPPED[arm](0.3)).total
    for a, b in zip(torch.autograd.grad(total, list(module.parameters())), gradient.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
