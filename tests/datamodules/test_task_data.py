"""Which tasks come when: the same whatever the block, the rank, the step size and the interruptions."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from gradgrad.batches import TaskBatch
from gradgrad.datamodules import SinusoidTasks
from gradgrad.errors import UsageError

ITERATIONS = 7  # per epoch: no multiple of the step sizes below
TASKS = 4


def data(**options):
    sizes = {"meta_batch_size": TASKS, "eval_tasks": 25, "eval_batch_size": 10, "iterations_per_epoch": ITERATIONS}
    return SinusoidTasks(**sizes | options)


class Watcher(LightningModule):
    """Takes one optimizer step per meta-iteration, and notes what it gets."""

    def __init__(self, iterations_per_step=None):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": [], "predict": []}
        if iterations_per_step is not None:
            self.iterations_per_step = iterations_per_step

    def training_step(self, batch, batch_idx):
        assert isinstance(batch, list if hasattr(self, "iterations_per_step") else TaskBatch)
        for tasks in batch if isinstance(batch, list) else [batch]:
            assert isinstance(tasks, TaskBatch)
            assert tasks.support_x.shape == (TASKS, 10, 1)
            self.seen["train"].append(tasks.support_x)
            self.optimizers().zero_grad()
            self.manual_backward(self.weight.to(tasks.query_y.dtype) * tasks.query_y.mean())
            self.optimizers().step()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch.support_x)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch.support_x)

    def predict_step(self, batch, batch_idx):
        self.seen["predict"].append(batch)
        return 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Automatic(Watcher):
    """A foreign module that optimizes automatically."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = True

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch.support_x)
        return self.weight * batch.query_y.mean()


def trainer(**options):
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**quiet | {"enable_checkpointing": False, "num_sanity_val_steps": 0} | options)


def fitted(module, tasks=None, ckpt_path=None, **options):
    trainer(**{"max_epochs": 3} | options).fit(module, tasks or data(), ckpt_path=ckpt_path)
    return torch.cat(module.seen["train"])


def stream(iterations, first=0):
    return data().tasks("train", first * TASKS, iterations * TASKS).support_x


@pytest.mark.parametrize("iterations_per_step", [None, 1, 3, 7, 10])
def test_three_epochs_are_the_stream_in_order(iterations_per_step):
    assert torch.equal(fitted(Watcher(iterations_per_step)), stream(3 * ITERATIONS))


def test_a_foreign_module_sees_the_same_stream():
    assert torch.equal(fitted(Automatic()), stream(3 * ITERATIONS))


def test_training_stops_exactly_at_max_steps():
    assert torch.equal(fitted(Watcher(3), max_epochs=-1, max_steps=11), stream(11))


@pytest.mark.parametrize(("iterations_per_step", "every"), [(1, 2), (3, 3), (3, 7)])
@pytest.mark.filterwarnings(
    "ignore:Using ModelCheckpoint with manual optimization",
    "ignore:Be aware that when using `ckpt_path`",
)
def test_a_resumed_run_goes_on_where_it_was(tmp_path, iterations_per_step, every):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    fitted(Watcher(iterations_per_step), max_epochs=2, callbacks=[keep], enable_checkpointing=True)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert checkpoints
    for path in checkpoints[:4]:
        done = int(path.stem.split("=")[1])
        rest = fitted(Watcher(iterations_per_step), ckpt_path=path)
        assert torch.equal(rest, stream(3 * ITERATIONS - done, done)), path


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_may_be_resumed_with_other_blocks(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="end")
    fitted(Watcher(3), max_epochs=1, callbacks=[keep], enable_checkpointing=True)
    for other in (1, 7):
        rest = fitted(Watcher(other), ckpt_path=tmp_path / "end.ckpt")
        assert torch.equal(rest, stream(2 * ITERATIONS, ITERATIONS))


def test_overfitting_repeats_the_first_blocks():
    seen = fitted(Watcher(3), overfit_batches=1, limit_val_batches=0)
    assert torch.equal(seen, stream(3).repeat(3, 1, 1))


def test_evaluation_is_always_on_the_same_tasks():
    module, tasks = Watcher(3), data()
    fitted(module, max_epochs=2, num_sanity_val_steps=-1)
    expected = tasks.tasks("val", 0, 25).support_x
    assert [len(part) for part in module.seen["val"]] == [10, 10, 5] * 3  # the sanity check and two epochs
    assert torch.equal(torch.cat(module.seen["val"]), expected.repeat(3, 1, 1))
    for size in (4, 25, 100):
        module = Watcher()
        trainer().validate(module, data(eval_batch_size=size), verbose=False)
        trainer().test(module, data(eval_batch_size=size), verbose=False)
        assert torch.equal(torch.cat(module.seen["val"]), expected)
        assert torch.equal(torch.cat(module.seen["test"]), tasks.tasks("test", 0, 25).support_x)


def test_prediction_is_on_the_first_test_tasks_without_a_file():
    module = Watcher()
    trainer().predict(module, data())
    [batch] = module.seen["predict"]
    assert torch.equal(batch.support_x, data().tasks("test", 0, 10).support_x)


def test_prediction_is_on_the_own_task_with_a_file(tmp_path):
    (tmp_path / "own.csv").write_text("x,y\n1,2\n2,3\n3,\n")
    module = Watcher()
    trainer().predict(module, data(task_file=str(tmp_path / "own.csv")))
    [batch] = module.seen["predict"]
    assert batch.support_x.flatten().tolist() == [1, 2]
    assert batch.query_y.isnan().all()


def test_tasks_come_in_the_precision_of_the_run():
    module = Watcher(3)
    assert fitted(module, precision="64-true", max_epochs=1).dtype == torch.float64


def pretend(tasks, rank, ranks, iterations_per_step=None, steps_before=0, stage="train"):
    """A rank's trainer, as far as the data look at it."""
    module = SimpleNamespace(automatic_optimization=False)
    if iterations_per_step is not None:
        module.iterations_per_step = iterations_per_step
    ready = SimpleNamespace(ready=0), SimpleNamespace(ready=0)
    tasks.trainer = SimpleNamespace(
        lightning_module=module,
        global_rank=rank,
        world_size=ranks,
        training=stage == "train",
        predicting=stage == "predict",
        overfit_batches=0,
        max_steps=-1,
        global_step=steps_before,
        precision_plugin=SimpleNamespace(tensor_init_context=torch.no_grad),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=ready[0], total=ready[1]))),
    )
    return tasks


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_part_each_meta_batch(ranks):
    batches = [
        pretend(data(), rank, ranks, 3, steps_before=5).transfer_batch_to_device(0, torch.device("cpu"), 0)
        for rank in range(ranks)
    ]
    whole = [torch.cat([batches[rank][i].query_y for rank in range(ranks)]) for i in range(3)]
    assert torch.equal(torch.cat(whole), data().tasks("train", 5 * TASKS, 3 * TASKS).query_y)


def test_ranks_part_the_evaluation_tasks():
    blocks = [list(pretend(data(), rank, 2).val_dataloader()) for rank in range(2)]
    assert blocks == [[0, 2], [1]]


def test_what_ranks_cannot_share_is_refused():
    with pytest.raises(UsageError, match="meta_batch_size 4 cannot be shared equally by 3 processes") as error:
        pretend(data(), 0, 3).prepare_data()
    assert "write: data.init_args.meta_batch_size: 3 or 6" in str(error.value)
    pretend(data(), 0, 3, stage="test").prepare_data()
    pretend(data(), 0, 4, stage="predict").prepare_data()
    with pytest.raises(UsageError, match="leave some of 4 processes without any") as error:
        pretend(data(), 0, 4).prepare_data()
    assert "write: data.init_args.eval_batch_size: 6, and at least 4 eval_tasks" in str(error.value)


@pytest.mark.parametrize("name", ["meta_batch_size", "eval_tasks", "eval_batch_size", "iterations_per_epoch"])
def test_a_size_below_one_is_refused(name):
    with pytest.raises(UsageError, match=f"SinusoidTasks got {name} 0.\nwrite: data.init_args.{name}, at least 1"):
        data(**{name: 0})


def test_a_broken_task_file_is_told_before_the_run(tmp_path):
    with pytest.raises(UsageError, match="is not a file"):
        data(task_file=str(tmp_path / "none.csv")).prepare_data()


def test_provenance_tells_seeds_and_settings_apart():
    parts = data().provenance()
    assert [(part.name, part.part, part.rows, part.source) for part in parts] == [
        ("sinusoid", "training", 4, "generated"),
        ("sinusoid", "validation", 25, "generated"),
        ("sinusoid", "test", 25, "generated"),
    ]
    assert data(eval_batch_size=3).provenance() == parts
    others = [data(seed=1), data(noise=0.1), data(amplitude=(0.1, 0.5)), data(shots=5)]
    digests = {part.digest for tasks in [data(), *others] for part in tasks.provenance()}
    assert len(digests) == 15
