"""Load and speed in the run, and training as without them, to the last bit."""

import sys
import types

import pytest
import torch
from lightning.pytorch import Trainer
from torch.autograd import Variable

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.callbacks import SystemMetrics
from gradgrad.tracking import MLflowLogger
from gradgrad.tracking.system import Machine
from processes import free_port
from strangers import Memory, Stranger

MACHINE = {
    *("system/cpu_utilization_percentage", "system/system_memory_usage_megabytes", "system/system_memory_usage_percentage"),
    *("system/disk_usage_percentage", "system/disk_usage_megabytes", "system/disk_available_megabytes"),
    *("system/network_receive_megabytes", "system/network_transmit_megabytes"),
}
SPEED = {"system/samples_per_second", "system/steps_per_second", "system/backward_passes_per_step"}


class Failing(Stranger):
    def training_step(self, batch, batch_idx):
        if self.global_step == 2:
            raise RuntimeError("planted")
        return super().training_step(batch, batch_idx)


def fit(callbacks, make=Stranger, logger=None, **settings):
    torch.manual_seed(0)
    logger = logger or MLflowLogger("one")
    switches = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(
        **{"max_steps": 6, "log_every_n_steps": 1, **settings}, accelerator="cpu", logger=logger, callbacks=callbacks, **switches
    )
    module = make()
    trainer.fit(module)
    return trainer, module


def system(client, run_id):
    """Steps of each system metric."""
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith("system/")]
    return {key: [m.step for m in client.get_metric_history(run_id, key)] for key in keys}


def test_a_tracked_fit_has_them(project, client, run_cli):
    code, _, complaint = run_cli("fit", "-c", REGRESSOR, *QUICK, "--test_after_fit=false")
    assert code == 0, complaint
    (run,) = runs_of(client)
    found = {key: value for key, value in run.data.metrics.items() if key.startswith("system/")}
    assert found.keys() == MACHINE | SPEED
    assert all(steps == [20] for steps in system(client, run.info.run_id).values())
    assert run.data.params["system_metrics.every_seconds"] == "10.0"
    # 20 steps of 32 samples, but for what is left over at the end of an epoch
    assert found["system/samples_per_second"] / found["system/steps_per_second"] == pytest.approx(2 * 282 / 20, abs=4)
    assert found["system/backward_passes_per_step"] == pytest.approx(2, abs=0.2)  # the first step proves the penalty
    assert 0 < found["system/system_memory_usage_percentage"] < 100


def test_readings_come_by_the_clock_and_at_steps_only(project, client):
    trainer, _ = fit([SystemMetrics(every_seconds=1e-9)], accumulate_grad_batches=3, max_steps=4)
    trainer.logger.flush()
    assert set(map(tuple, system(client, trainer.logger.run_id).values())) == {(1, 2, 3, 4)}
    passes = client.get_metric_history(trainer.logger.run_id, "system/backward_passes_per_step")
    assert [m.value for m in passes] == [3.0] * 4


def test_training_is_the_same_to_the_last_bit(project):
    (_, plain), (_, watched) = fit([]), fit([SystemMetrics(every_seconds=1e-9)])
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_after_an_error_nothing_is_counted_any_more(project):
    engine = Variable._execution_engine
    with pytest.raises(RuntimeError, match="planted"):
        fit([SystemMetrics()], Failing)
    assert Variable._execution_engine is engine


@pytest.mark.parametrize(("callback", "logger"), [(SystemMetrics(None), MLflowLogger), (SystemMetrics(), Memory)])
def test_no_wish_or_no_run_no_readings(project, callback, logger, monkeypatch):
    monkeypatch.setattr("gradgrad.callbacks.system_metrics.Machine", None)
    fit([callback], logger=logger())


def test_a_wrong_wait_is_a_sentence(run_cli):
    code, _, said = run_cli("fit", "-c", REGRESSOR, "--system_metrics.every_seconds=0")
    assert said == ("gradgrad fit: SystemMetrics got every_seconds 0.0; expected a positive number of seconds, or null for none.")
    assert code == 2


def test_nodes_have_names_of_their_own():
    assert {name.replace("node_3/", "") for name in Machine(3).read()} == MACHINE
    assert all(name.startswith("system/node_3/") for name in Machine(3).read())


@pytest.mark.slow
def test_each_of_two_nodes_tells_of_itself(project, client, start_cli):
    port = free_port()
    nodes = [
        start_cli(
            *("fit", "-c", REGRESSOR, *QUICK, "--trainer.accelerator=cpu", "--trainer.num_nodes=2", "--trainer.strategy=ddp"),
            *("--test_after_fit=false", "--system_metrics.every_seconds=0.01"),
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank), "LOCAL_RANK": "0"},
        )
        for rank in range(2)
    ]
    outs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outs
    (run,) = runs_of(client)
    found = system(client, run.info.run_id)
    of_nodes = {name.replace("system/", f"system/node_{node}/") for name in MACHINE for node in range(2)}
    assert found.keys() == of_nodes | SPEED
    assert all(steps[-1] == 10 for steps in found.values())
    assert not list((project / "mlruns" / "spool").glob("*.db"))


def test_gpus_are_read_where_nvml_sees_them(monkeypatch):
    from mlflow.system_metrics.metrics import gpu_monitor

    nvml = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetMemoryInfo=lambda i: types.SimpleNamespace(used=3e9, total=4e9),
        nvmlDeviceGetUtilizationRates=lambda i: types.SimpleNamespace(gpu=40),
        nvmlDeviceGetPowerUsage=lambda i: 100_000,
        nvmlDeviceGetEnforcedPowerLimit=lambda i: 200_000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(gpu_monitor, "pynvml", nvml, raising=False)
    machine = Machine()
    assert machine.sees_gpus
    found = {name: value for name, value in machine.read().items() if "gpu" in name}
    assert found == {
        "system/gpu_0_memory_usage_percentage": 75.0,
        "system/gpu_0_memory_usage_megabytes": 3000.0,
        "system/gpu_0_utilization_percentage": 40.0,
        "system/gpu_0_power_usage_watts": 100.0,
        "system/gpu_0_power_usage_percentage": 50.0,
    }
