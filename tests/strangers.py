"""LightningModules as other people write them: nothing of ours inside."""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError


class Memory(Logger):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.rows = []

    name = version = "memory"

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def history(self, name):
        return [(step, row[name]) for step, row in self.rows if name in row]


class Stranger(LightningModule):
    """Everything in training_step: logs, a metric, a list, a counter."""

    def __init__(self, network=None, lr=0.05, **settings):
        super().__init__()
        self.net = network or nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
        self.loss = nn.MSELoss()  # an attribute of the name that we look for, and no method
        self.seen, self.calls, self.per_stage = [], 0, {"train": []}
        self.error = MeanSquaredError()
        self.lr, self.settings = lr, settings

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y)
        self.calls += 1
        self.seen.append(loss.detach())
        self.per_stage["train"].append(self.calls)
        self.error(self(x).detach(), y)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log_dict({"train/calls": float(self.calls), "train/error": self.error.compute()})
        self.logger.log_metrics({"own": 1.0}, step=self.global_step)
        return {"loss": loss, "more": 1}

    def train_dataloader(self):
        return loader()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.5, **self.settings)


def data(rows=20, features=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, features, generator=generator).to(dtype)
    return TensorDataset(x, x.square().sum(1, keepdim=True) - 1)


def loader(rows=20, batch_size=8, dtype=torch.float32):
    return DataLoader(data(rows, dtype=dtype), batch_size=batch_size, shuffle=True)


def fitted(module, callbacks=(), seed=0, data=None, **settings):
    """Train a little; gives the trainer. The logger keeps everything."""
    torch.manual_seed(seed)
    settings = {"max_steps": 6, "accelerator": "cpu", "log_every_n_steps": 1, **settings}
    trainer = Trainer(
        devices=settings.pop("devices", 1),
        logger=Memory(),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_epochs=-1,
        **settings,
    )
    trainer.fit(module, data)
    return trainer


def dense_hessian(loss, params):
    """Reverse over reverse, row by row; an oracle that shares no code with ours."""
    gradient = torch.autograd.grad(loss, params, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.cat([h.flatten() for h in torch.autograd.grad(entry, params, retain_graph=True)]) for entry in flat]
    return torch.stack(rows)
