"""Right numbers at the right steps, on anyone's module."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradgrad.callbacks import HessianSpectrum
from gradgrad.curvature.measurement import _further_out
from gradgrad.errors import UsageError
from strangers import Stranger, data, dense_hessian, fitted, loader


def whole(module, rows=20):
    x, y = data(rows, dtype=torch.float64).tensors
    return dense_hessian((module.net(x) - y).square().mean(), list(module.parameters()))


def in_double():
    return loader(dtype=torch.float64)


class Dense(HessianSpectrum):
    """Keeps the dense answer too."""

    def __init__(self, **settings):
        super().__init__(on_error="raise", **settings)
        self.dense = []

    def _measure(self, trainer, module, batch=None):
        self.dense.append(torch.linalg.eigvalsh(whole(module)).flip(0))
        super()._measure(trainer, module, batch)

    def column(self, place):
        return [eigenvalues[place].item() for eigenvalues in self.dense]


def test_eigenvalues_are_those_of_the_dense_hessian():
    # The eigenvalue's error is of the order of the residual's square: 1e-12.
    callback = Dense(k=2, which="BE", every_n_steps=2, tol=1e-6)
    trainer = fitted(Stranger().double(), [callback], data=in_double(), max_steps=4)
    for name, place in {"lambda_max": 0, "lambda_1": 0, "lambda_2": 1, "lambda_min": -1}.items():
        logged = trainer.logger.history(f"hessian/{name}")
        assert [step for step, _ in logged] == [0, 2, 4]
        assert [value for _, value in logged] == pytest.approx(callback.column(place), rel=1e-10)
    assert {value for _, value in trainer.logger.history("hessian/converged")} == {1.0}
    assert all(value <= 1e-6 for _, value in trainer.logger.history("hessian/residual"))


@pytest.mark.parametrize(("which", "place", "name"), [("LA", 0, "lambda_max"), ("SA", -1, "lambda_min"), ("LM", 0, "lambda_max")])
@pytest.mark.parametrize("method", ["lanczos", "power_iteration"])
def test_either_end_by_either_method(which, place, name, method):
    callback = Dense(which=which, method=method, tol=1e-5, max_hvps=3000)
    trainer = fitted(Stranger().double(), [callback], data=in_double(), max_steps=1)
    assert [value for _, value in trainer.logger.history(f"hessian/{name}")] == pytest.approx(callback.column(place), rel=1e-8)


@pytest.mark.parametrize("size", [1, 3, 8, None])
def test_micro_batches_change_nothing(size):
    callback = Dense(tol=1e-6, micro_batch_size=size, trace_probes=19)
    module = Stranger().double()
    trainer = fitted(module, [callback], data=in_double(), max_steps=1)
    logged = [value for _, value in trainer.logger.history("hessian/lambda_max")]
    assert logged == pytest.approx(callback.column(0), rel=1e-10)
    traces = [float(eigenvalues.sum()) for eigenvalues in callback.dense]
    errors = [abs(found - true) for (_, found), true in zip(trainer.logger.history("hessian/trace"), traces, strict=True)]
    bounds = [value for _, value in trainer.logger.history("hessian/trace_standard_error")]
    assert all(error <= 5 * bound + 1e-9 for error, bound in zip(errors, bounds, strict=True))


@pytest.mark.parametrize("probe", ["train", "val", 20, 7])
def test_the_probe(probe):
    class Watched(Stranger):
        def val_dataloader(self):
            return DataLoader(data(12), batch_size=5)

        def validation_step(self, batch, batch_idx):
            pass

    callback = HessianSpectrum(probe=probe, every_n_steps=1, on_error="raise")
    trainer = fitted(Watched(lr=0.0), [callback], max_steps=3)
    assert callback.spectrometer.samples == {"train": 20, "val": 12}.get(probe, probe)
    losses = [value for _, value in trainer.logger.history("hessian/loss")]
    assert len(set(losses)) == 1  # the same samples each time, however the loader shuffles
    first = callback.spectrometer.digest
    again = HessianSpectrum(probe=probe, on_error="raise")
    fitted(Watched(), [again], max_steps=1, seed=5)
    assert again.spectrometer.digest == first


def test_the_batch_at_hand_as_probe():
    callback = HessianSpectrum(probe="batch", every_n_steps=1, on_error="raise")
    trainer = fitted(Stranger(lr=0.0), [callback], max_steps=3)
    assert [step for step, _ in trainer.logger.history("hessian/loss")] == [0, 1, 2, 3]
    assert len({value for _, value in trainer.logger.history("hessian/loss")}) == 3  # the first batch twice


def test_the_mean_is_over_what_the_module_says():
    class Tokens(Stranger):
        def sample_count(self, batch):
            return float((batch[1] > 0).sum())

        def loss(self, batch):
            x, y = batch
            kept = y > 0
            return ((self.net(x) - y).square() * kept).sum() / kept.sum()

        def __init__(self):
            super().__init__()
            del self.loss  # the criterion

        def training_step(self, batch, batch_idx):
            return self.loss(batch)

    split = [HessianSpectrum(probe=20, micro_batch_size=size, tol=1e-6, on_error="raise") for size in (None, 3)]
    found = []
    for callback in split:
        torch.manual_seed(0)
        module = Tokens().double()
        found.append(fitted(module, [callback], data=in_double(), max_steps=1).logger.history("hessian/lambda_max"))
    assert found[0][0][1] == pytest.approx(found[1][0][1], rel=1e-10)


def test_when():
    trainer = fitted(Stranger(), [HessianSpectrum()], max_steps=30)
    assert [step for step, _ in trainer.logger.history("hessian/lambda_max")] == [0, 1, 2, 3, 4, 7, 10, 16, 26, 30]
    trainer = fitted(Stranger(), [HessianSpectrum(every_n_epochs=2)], max_steps=14)  # 3 steps an epoch
    assert [step for step, _ in trainer.logger.history("hessian/lambda_max")] == [0, 6, 12, 14]
    trainer = fitted(Stranger(), [HessianSpectrum(every_n_steps=2)], max_steps=4, accumulate_grad_batches=3)
    assert [step for step, _ in trainer.logger.history("hessian/lambda_max")] == [0, 2, 4]


def test_a_warm_start_pays():
    warm, cold = (HessianSpectrum(every_n_steps=1, warm_start=w, on_error="raise") for w in (True, False))
    spent = []
    for callback in (warm, cold):
        torch.manual_seed(0)
        trainer = fitted(Stranger(lr=0.01), [callback], max_steps=18)
        spent.append([value for _, value in trainer.logger.history("hessian/hvps")])
    assert spent[0][0] == spent[1][0]
    assert sum(spent[0][1:]) < 0.7 * sum(spent[1][1:])


def test_a_cold_check_against_lock_in(monkeypatch):
    """Warm starts that were held to a lower eigenvector are found out."""
    monkeypatch.setattr("gradgrad.curvature.measurement.GUARD", 0.0)

    class Held(HessianSpectrum):
        def on_train_start(self, trainer, pl_module):
            self._previous, self.spectrometer.count = 0, 18
            self.spectrometer.vectors[""] = torch.tensor([[0.0], [1.0]])
            super().on_train_start(trainer, pl_module)

    callback = Held(every_n_steps=1, tol=1e-3, on_error="raise")
    module = Stranger(lr=0.0)

    class Trap(nn.Module):  # both directions are exact eigenvectors, and the start is the lower one
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return (self.w * x[:, :2] * torch.tensor([3.0, 1.0])).sum(1, keepdim=True)

    module.net = Trap()
    x = torch.eye(2).repeat(4, 2)[:, :3]
    batches = DataLoader(TensorDataset(x, torch.zeros(8, 1)), batch_size=8)
    trainer = fitted(module, [callback], max_steps=2, data=batches)
    held, found = (value for _, value in trainer.logger.history("hessian/lambda_max"))
    assert held == pytest.approx(1.0, rel=1e-5)
    assert found == pytest.approx(9.0, rel=1e-5)
    assert trainer.logger.history("hessian/surprise") == [(2, pytest.approx(8.0, rel=1e-4))]


@pytest.mark.parametrize(
    ("settings", "limit"), [({}, 2 * 1.5 / 0.05), ({"nesterov": True}, 3 / (0.05 * 2)), ({"weight_decay": 0.1}, 3 / 0.05 - 0.1)]
)
def test_sharpness_against_the_learning_rate(settings, limit):
    trainer = fitted(Stranger(**settings), [HessianSpectrum()], max_steps=1)
    rows = [row for _, row in trainer.logger.rows if "hessian/lambda_max" in row]
    for row in rows:
        assert row["hessian/sharpness_times_lr"] == pytest.approx(row["hessian/lambda_max"] * 0.05)
        assert row["hessian/threshold"] == pytest.approx(limit)
        assert row["hessian/sharpness_over_threshold"] == pytest.approx(row["hessian/lambda_max"] / limit)


def test_the_coordinates_of_adam():
    class ByAdam(Stranger):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    module = ByAdam().double()
    callback = HessianSpectrum(operator="preconditioned", every_n_steps=2, tol=1e-6, on_error="raise")
    trainer = fitted(module, [callback], max_steps=2, data=in_double())
    ((step, found),) = trainer.logger.history("preconditioned/lambda_max")  # before the first step there is no preconditioner
    state = trainer.optimizers[0].state
    moments = torch.cat([state[p]["exp_avg_sq"].flatten() for p in module.parameters()])
    diagonal = (1 - 0.9**2) * ((moments / (1 - 0.999**2)).sqrt() + 1e-8)
    matrix = whole(module) / (diagonal.sqrt()[:, None] * diagonal.sqrt())
    assert (step, found) == (2, pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=1e-9))
    assert trainer.logger.history("preconditioned/threshold") == [(2, pytest.approx(38 / 0.01))]


def test_the_gauss_newton_matrix_at_the_same_time():
    hessian = HessianSpectrum(tol=1e-6, on_error="raise")
    ggn = HessianSpectrum(operator="ggn", tol=1e-6, on_error="raise")
    module = Stranger().double()
    trainer = fitted(module, [hessian, ggn], max_steps=1, data=in_double())
    x, _ = data(dtype=torch.float64).tensors
    outputs = module.net(x).flatten()
    rows = [torch.autograd.grad(out, list(module.parameters()), retain_graph=True) for out in outputs]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    dense = 2 * jacobian.T @ jacobian / 20
    assert trainer.logger.history("ggn/lambda_max")[-1][1] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-9)
    assert trainer.logger.history("hessian/lambda_max")[-1][1] == pytest.approx(
        torch.linalg.eigvalsh(whole(module))[-1].item(), rel=1e-9
    )


def test_blocks_shares_and_overlap():
    callback = HessianSpectrum(k=2, blocks=["net.0.*", "net.2.weight"], tol=1e-6, on_error="raise")
    module = Stranger(lr=0.0).double()
    trainer = fitted(module, [callback], max_steps=1, data=in_double())
    _, row = next(row for row in trainer.logger.rows if "hessian/lambda_max" in row[1])
    dense = whole(module)
    first = dense[:24, :24]
    assert row["hessian/net.0/lambda_max"] == pytest.approx(torch.linalg.eigvalsh(first)[-1].item(), rel=1e-9)
    assert row["hessian/net.2.weight/lambda_max"] == pytest.approx(
        torch.linalg.eigvalsh(dense[24:30, 24:30])[-1].item(), rel=1e-9
    )
    vectors = torch.linalg.eigh(dense).eigenvectors.flip(1)
    shares = {"net.0": vectors[:24, 0].square().sum().item(), "net.2": vectors[24:, 0].square().sum().item()}
    assert {name: row[f"hessian/share/{name}"] for name in shares} == pytest.approx(shares, rel=1e-5)
    x, y = data(dtype=torch.float64).tensors
    loss = (module.net(x) - y).square().mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
    overlap = (vectors[:, :2].T @ gradient).square().sum() / gradient.square().sum()
    assert row["hessian/gradient_overlap"] == pytest.approx(overlap.item(), rel=1e-5)
    assert row["hessian/gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-10)
    assert row["hessian/loss"] == pytest.approx(loss.item(), rel=1e-10)


def test_density():
    callback = HessianSpectrum(density_every=2, every_n_steps=1, on_error="raise")
    fitted(Stranger(lr=0.0).double(), [callback], max_steps=3, data=in_double())
    assert [density.step for density in callback.history.densities] == [0, 2]
    found = callback.history.densities[0]
    assert torch.trapezoid(found.density, found.grid).item() == pytest.approx(1, abs=0.02)


# --- what goes wrong -----------------------------------------------------------------------------------------------------------


def test_a_failure_is_logged_as_nan_and_said_once(recwarn):
    class Late(Stranger):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)["loss"]
            return loss * math.nan if not self.net.training else loss

    trainer = fitted(Late(), [HessianSpectrum(every_n_steps=2)], max_steps=4)
    logged = trainer.logger.history("hessian/lambda_max")
    assert [step for step, _ in logged] == [0, 2, 4]
    assert all(math.isnan(value) for _, value in logged)
    assert {value for _, value in trainer.logger.history("hessian/converged")} == {0.0}
    said = [str(warning.message) for warning in recwarn if "HessianSpectrum" in str(warning.message)]
    assert len(said) == 1
    assert "could not measure at step 0, and logs NaN: UsageError: HessianOperator got a loss of nan" in said[0]
    with pytest.raises(UsageError, match="HessianOperator got a loss of nan"):
        fitted(Late(), [HessianSpectrum(on_error="raise")], max_steps=1)


def test_a_budget_that_does_not_do():
    trainer = fitted(Stranger(), [HessianSpectrum(tol=1e-9, max_hvps=2, on_error="raise")], max_steps=1)
    assert {value for _, value in trainer.logger.history("hessian/converged")} == {0.0}
    assert {value for _, value in trainer.logger.history("hessian/hvps")} == {2.0}
    assert all(value > 0 for _, value in trainer.logger.history("hessian/lambda_max"))


class Manual(LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.net(batch[0]) - batch[1]).square().mean())
        optimizer.step()

    def train_dataloader(self):
        return loader()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_manual_optimization_needs_a_loss():
    with pytest.raises(UsageError, match=r"Manual optimizes manually, so its training_step is no loss.\nwrite:    def loss"):
        fitted(Manual(), [HessianSpectrum()])

    class WithLoss(Manual):
        def loss(self, batch):
            return (self.net(batch[0]) - batch[1]).square().mean()

    assert len(fitted(WithLoss(), [HessianSpectrum(on_error="raise")]).logger.history("hessian/lambda_max")) == 6


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"k": 0}, "HessianSpectrum got k 0; expected 1 or more."),
        ({"probe": 0}, "HessianSpectrum got probe 0; expected 1 or more."),
        ({"every_n_steps": -1}, "HessianSpectrum got every_n_steps -1; expected 1 or more."),
        ({"every_n_steps": 1, "every_n_epochs": 2}, "got every_n_steps 1 and every_n_epochs 2; expected one at most."),
        ({"tol": 0.0}, "HessianSpectrum got tol 0.0; expected a relative residual between 0 and 1, such as 1e-2."),
        ({"trace_probes": 2}, "HessianSpectrum got trace_probes 2; expected 0 for none, or 4 or more."),
        (
            {"operator": "hesian"},
            "got operator 'hesian'; expected one of hessian, ggn, preconditioned.\nwrite:    operator: hessian",
        ),
        ({"probe": "trian"}, "got probe 'trian'; expected one of batch, train, val.\nwrite:    probe: train"),
        ({"probe": True}, "HessianSpectrum got probe True; expected 1 or more."),
        ({"mode": "evaluation"}, "got mode 'evaluation'; expected one of eval, train."),
        ({"on_error": "rais"}, "got on_error 'rais'; expected one of nan, raise.\nwrite:    on_error: raise"),
        ({"schedule": "linear"}, "got schedule 'linear'; expected one of log."),
        ({"k": 2.5}, "HessianSpectrum got k 2.5; expected 1 or more."),
        ({"blocks": "net.*"}, "got blocks 'net.*'; expected a list.\nwrite:    blocks: [net.*]"),
        ({"name": "a:b"}, "HessianSpectrum got name 'a:b'; expected letters, digits and _ - . / space: MLflow's."),
        ({"name": ""}, "HessianSpectrum got name ''; expected letters"),
        (
            {"probe": "batch", "every_n_epochs": 1},
            "got probe batch with every_n_epochs; expected every_n_steps: epochs have no batch.",
        ),
        ({"k": 3, "max_hvps": 2}, "HessianSpectrum got max_hvps 2; expected 3 at least, a product for each eigenvalue."),
        ({"basis_size": 2}, "HessianSpectrum got basis_size 2; expected 3 at least: all pairs and two blocks."),
        (
            {"method": "power_iteration", "which": "BE"},
            "got method power_iteration with which BE, block_size 1, basis_size None.\nexpected: one end",
        ),
    ],
)
def test_settings(settings, sentence):
    with pytest.raises(UsageError, match=re.escape(sentence)):
        HessianSpectrum(**settings)


def test_a_second_fit_begins_again():
    callback = HessianSpectrum(every_n_steps=2, on_error="raise")
    for _ in range(2):
        trainer = fitted(Stranger(), [callback], max_steps=4)
        assert [step for step, _ in trainer.logger.history("hessian/lambda_max")] == [0, 2, 4]
    assert len(callback.history.rows) == 3


def test_layers_frozen_since_are_nan_alone():
    class Freezes(Stranger):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.net[0].requires_grad_(False)

    callback = HessianSpectrum(every_n_steps=1, blocks=["net.0.*", "net.2.*"], on_error="raise")
    trainer = fitted(Freezes(), [callback], max_steps=2)
    nan = [math.isnan(value) for _, value in trainer.logger.history("hessian/net.0/lambda_max")]
    assert nan[0] is False
    assert nan[-1] is True
    assert not any(math.isnan(value) for _, value in trainer.logger.history("hessian/net.2/lambda_max"))
    assert not any(math.isnan(value) for _, value in trainer.logger.history("hessian/lambda_max"))


@pytest.mark.parametrize(("which", "worst"), [("LA", 0.5), ("BE", 0.9), ("SA", 0.9), ("LM", 0.5)])
def test_surprises_at_any_place(which, worst):
    """Cold eigenvalues further out than the warm ones, wherever they are in the list."""
    cold, warm = ([10.0, 9.0, -2.0, -10.0], [10.0, 4.0, -1.0, -1.0])
    found = [SimpleNamespace(eigenvalues=torch.tensor(values)) for values in (cold, warm)]
    if which in ("LA", "LM"):
        found = [SimpleNamespace(eigenvalues=f.eigenvalues[:2]) for f in found]
    assert _further_out(*found, which) == pytest.approx(worst)
    assert _further_out(found[1], found[1], which) == 0


def test_refusals_come_before_training():
    with pytest.raises(UsageError, match=r"HessianSpectrum got blocks 'nett.\*', which matches none of: net.0.weight"):
        fitted(Stranger(), [HessianSpectrum(blocks=["nett.*"])])
    with pytest.raises(UsageError, match=r"operator: preconditioned needs the second moments of one adaptive optimizer; got SGD"):
        fitted(Stranger(), [HessianSpectrum(operator="preconditioned")])
