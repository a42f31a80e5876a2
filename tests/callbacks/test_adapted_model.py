import csv
import hashlib
import io
import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_adaptation_curve import CONFIG
from torch import nn

from conftest import runs_of
from gradgrad.batches import AdaptedTasks, TaskBatch
from gradgrad.callbacks import AdaptedModel
from gradgrad.callbacks.adapted_model import adapted_state, prediction_table, support_digest
from gradgrad.errors import UsageError
from gradgrad.networks import MLP

OWN = "x,y\n-4,1.0\n-1,-1.2\n0.5,-0.7\n2,1.1\n-3,\n0,\n3.5,\n"


def told(count=1, features=1, ways=None, known=True, params=True, dtype=torch.float32):
    """Two support points and three queries each."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    support, x = draw(count, 2, features), draw(count, 3, features)
    if ways:
        support_y, y = (torch.arange(n).expand(count, n) for n in (2, 3))
        y = y if known else torch.full_like(y, -1)
    else:
        support_y, y = support[..., :1], x[..., :1] if known else torch.full((count, 3, 1), torch.nan)
    scores = torch.full((count, 3), torch.nan)
    weights = {"weight": draw(count, 1, features), "bias": draw(count, 1)} if params else {}
    before, after = draw(count, 3, ways or 1), draw(count, 3, ways or 1)
    return AdaptedTasks(TaskBatch(support, support_y, x, y), scores, scores, before, after, weights)


def read(*seen):
    return pd.DataFrame(csv.DictReader(io.StringIO(prediction_table(list(seen))))).astype(float)  # to the last bit


def predicting(**flags):
    return SimpleNamespace(**{"loggers": [], "is_global_zero": True, "ckpt_path": "some/best.ckpt", **flags})


def learner(network=None):
    return SimpleNamespace(network=nn.Linear(1, 1) if network is None else network, counted=3)


def predict(callback, *seen, trainer=None, module=None):
    trainer, module = trainer or predicting(), module or learner()
    callback.setup(trainer, module, "predict")
    for outputs in seen:
        callback.on_predict_batch_end(trainer, module, outputs, None, 0)
    callback.on_predict_end(trainer, module)


@pytest.fixture
def said(caplog):
    """What it tells the user."""
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_lone_regression(dtype):
    one = told(features=2, dtype=dtype)
    table = read(one)
    assert list(table) == ["x0", "x1", "before", "after", "target"]
    exact = np.float64 if dtype == torch.float64 else np.float32
    for name, values in {
        "x0": one.tasks.query_x[0, :, 0],
        "x1": one.tasks.query_x[0, :, 1],
        "before": one.before[0, :, 0],
        "after": one.after[0, :, 0],
        "target": one.tasks.query_y[0, :, 0],
    }.items():
        assert table[name].to_numpy(exact).tolist() == values.to(torch.float64).tolist(), name


def test_unknown_targets():
    assert list(read(told(known=False))) == ["x0", "before", "after"]
    assert list(read(told(ways=4, known=False)))[-1] == "probability_after"
    partly = told()
    partly.tasks.query_y[0, 1] = torch.nan
    partly.after[0, 2] = torch.nan
    lines = prediction_table([partly]).splitlines()
    assert lines[0] == "x0,before,after,target"
    assert [line.endswith(",nan") for line in lines[1:]] == [False, True, False]
    assert lines[3].split(",")[2] == "nan"
    classes = told(ways=4)
    assert [line.rsplit(",", 1)[1] for line in prediction_table([classes]).splitlines()] == ["target", "0", "1", "2"]
    classes = classes._replace(tasks=classes.tasks._replace(query_y=torch.tensor([[2, -1, 0]])))
    assert [line.rsplit(",", 1)[1] for line in prediction_table([classes]).splitlines()] == ["target", "2", "nan", "0"]


def test_several_tasks_and_batches():
    table = read(told(2), told(3))
    assert list(table) == ["task", "x0", "before", "after", "target"]
    assert table["task"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert table["after"].to_numpy(np.float32).tolist() == torch.cat([told(2).after, told(3).after]).flatten().tolist()


def test_classes_come_with_their_probability():
    one = told(ways=4)
    table = read(one)
    assert list(table) == ["x0", "class_before", "probability_before", "class_after", "probability_after", "target"]
    for name, outputs in (("before", one.before[0]), ("after", one.after[0])):
        assert table[f"class_{name}"].tolist() == outputs.argmax(1).tolist()
        assert table[f"probability_{name}"].to_numpy(np.float32).tolist() == outputs.softmax(1).amax(1).tolist()


def test_images_and_several_targets():
    images = told()
    images = images._replace(tasks=images.tasks._replace(query_x=torch.zeros(1, 3, 1, 4, 4)))
    assert list(read(images)) == ["before", "after", "target"]
    two = told(known=False)._replace(before=torch.zeros(1, 3, 2), after=torch.ones(1, 3, 2))
    assert list(read(two)) == ["x0", "before0", "before1", "after0", "after1"]


def test_the_digest_is_of_content_type_and_shape():
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    recipe = (
        b"x torch.float32 [2, 1]\n" + np.float32([1, 2]).tobytes() + b"y torch.float32 [2, 1]\n" + np.float32([3, 4]).tobytes()
    )
    assert support_digest(x, y) == hashlib.sha256(recipe).hexdigest()
    assert support_digest(x.T.contiguous().T, y) == support_digest(x, y)
    others = [(x + 1e-6, y), (x, -y), (x.double(), y), (x.T, y), (x.flip(0), y.flip(0)), (x, y.long()), (x, y.bfloat16())]
    assert len({support_digest(*other) for other in [(x, y), *others]}) == len(others) + 1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def test_the_state_is_complete():
    network = Tied()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    params = {name: p.detach()[None] + 1 for name, p in network.named_parameters()}
    state = adapted_state(network, params)
    assert list(state) == list(before)
    for name, value in state.items():
        expected = before[name] if name.startswith("norm.") and name not in params else before[name] + 1
        assert torch.equal(value, expected), name
        assert torch.equal(network.state_dict()[name], before[name]), name  # the learner's own is left alone
    Tied().load_state_dict(state)


def test_a_folder_gets_the_files(tmp_path):
    one = told()
    with torch.inference_mode():  # as Lightning predicts
        inside = told()
        predict(AdaptedModel(str(tmp_path / "new" / "folder")), inside)
    folder = tmp_path / "new" / "folder"
    assert {path.name for path in folder.iterdir()} == {"predictions.csv", "adapted.pt", "adapted.json"}
    assert (folder / "predictions.csv").read_text() == prediction_table([one])
    network = nn.Linear(1, 1)
    network.load_state_dict(torch.load(folder / "adapted.pt", weights_only=True))
    assert network.weight.item() == one.params["weight"].item()
    assert json.loads((folder / "adapted.json").read_text()) == {
        "support_sha256": support_digest(one.tasks.support_x[0], one.tasks.support_y[0]),
        "inner_steps": 3,
        "checkpoint": "some/best.ckpt",
        "network": "torch.nn.modules.linear.Linear",
    }


@pytest.mark.parametrize("seen", [[told(2)], [told(), told()]])
def test_several_tasks_have_no_adapted_model(tmp_path, seen, said):
    predict(AdaptedModel(str(tmp_path)), *seen)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    assert said() == ["AdaptedModel: no adapted.pt, for there are 2 tasks; data.init_args.task_file is for one"]


def test_predictions_without_parameters(tmp_path, said):
    predict(AdaptedModel(str(tmp_path)), told(params=False))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    assert said() == []


def test_it_does_nothing_with_another_modules_outputs_or_on_other_ranks(tmp_path, said):
    callback = AdaptedModel(str(tmp_path))
    predict(callback, None, torch.ones(3), {"loss": 1})
    predict(callback, told(), trainer=predicting(is_global_zero=False))
    assert list(tmp_path.iterdir()) == []
    assert said() == []


def test_nowhere_to_write(project, said):
    callback = AdaptedModel()
    predict(callback, told())
    assert said() == [
        "AdaptedModel wrote nothing: set its dirpath, or trainer.logger to gradgrad.tracking.MLflowLogger, "
        "to have predictions.csv, adapted.pt, adapted.json"
    ]
    callback.setup(predicting(), None, "predict")
    assert callback._seen == []


@pytest.mark.parametrize("there", ["adapted.pt", "adapted.json", "predictions.csv"])
def test_nothing_is_overwritten(tmp_path, there):
    (tmp_path / there).write_text("precious")
    callback = AdaptedModel(str(tmp_path))
    callback.setup(predicting(), None, "fit")
    sentence = (
        f"AdaptedModel got dirpath {tmp_path}, which has {there} already.\n"
        "expected: a folder without, for an adapted model is never overwritten\n"
        "write:    another dirpath, or move them away"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        callback.setup(predicting(), None, "predict")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "taken").write_text("precious")
    sentence = f"AdaptedModel got dirpath {tmp_path}/taken, which is a file.\nwrite: dirpath: <a folder, or a new name>"
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        AdaptedModel(str(tmp_path / "taken")).setup(predicting(), None, "predict")


def test_a_users_own_task(project, client, run_cli, said):
    (project / "small.yaml").write_text(CONFIG)
    (project / "own.csv").write_text(OWN)
    code, _, complaint = run_cli("fit", "-c", "small.yaml", "--test_after_fit=false")
    assert code == 0, complaint
    command = ["predict", "-c", "small.yaml", "--ckpt_path", "best", "--data.task_file", "own.csv"]
    code, _, complaint = run_cli(*command)
    assert (code, complaint) == (0, "")
    (run,) = runs_of(client, "small")  # attached to the run of the checkpoint
    folder = project / "mlruns" / "artifacts" / "small" / run.info.run_id / "artifacts" / "adapted"

    network = MLP(1, 1, hidden=[8])
    network.load_state_dict(torch.load(folder / "adapted.pt", weights_only=True))
    table = pd.read_csv(folder / "predictions.csv")
    assert list(table) == ["x0", "before", "after"]
    assert table["x0"].tolist() == [-3, 0, 3.5]
    after = network(torch.tensor(table["x0"].to_numpy(), dtype=torch.float32)[:, None]).flatten()
    # 8 products of numbers of order 1, added in another order: 9 roundings
    torch.testing.assert_close(after, torch.tensor(table["after"].to_numpy(np.float32)), rtol=0, atol=9 * 2**-23)
    assert (table["before"] != table["after"]).all()

    origin = json.loads((folder / "adapted.json").read_text())
    x, y = torch.tensor([[-4], [-1], [0.5], [2]]), torch.tensor([[1.0], [-1.2], [-0.7], [1.1]])
    assert origin == {
        "support_sha256": support_digest(x, y),
        "inner_steps": 2,
        "checkpoint": str(folder.parent / "checkpoints" / "best.ckpt"),
        "network": "gradgrad.networks.MLP",
    }

    (project / "own.csv").write_text(OWN.replace("1.1", "1.2"))
    assert run_cli(*command)[0] == 0
    assert said()[-1] == (
        f"AdaptedModel: adapted.json, adapted.pt, predictions.csv in adapted/ of run {run.info.run_id} are of an earlier "
        "prediction; predictions.csv, adapted.pt, adapted.json of this one come in their place. A dirpath keeps both."
    )
    assert json.loads((folder / "adapted.json").read_text())["support_sha256"] != origin["support_sha256"]

    (project / "there").mkdir()
    (project / "there" / "adapted.pt").touch()
    code, _, complaint = run_cli(*command, "--trainer.callbacks.2.init_args.dirpath=there")
    assert complaint == (
        "gradgrad predict: AdaptedModel got dirpath there, which has adapted.pt already.\n"
        "expected: a folder without, for an adapted model is never overwritten\n"
        "write:    another dirpath, or move them away"
    )
    assert code == 2
    assert runs_of(client, "small")[0].info.status == "FINISHED"
    assert [path.name for path in (project / "there").iterdir()] == ["adapted.pt"]
