"""Every YAML that is shipped: it begins with its command, its cost and its expected result, and it runs."""

import os

import pytest
import torch
import yaml

from conftest import CONFIGS, QUICK, REPOSITORY, runs_of

EXPERIMENTS = sorted(path for path in CONFIGS.glob("*.yaml") if path.name != "base.yaml")
PRESETS = sorted((CONFIGS / "presets").glob("*.yaml"))
REDUCED = sorted((REPOSITORY / "experiments" / "omniglot").glob("*.yaml"))
CURVATURE = sorted(
    path
    for folder in ("curvature_of_ours", "edge_of_stability", "hessian_and_ggn", "outliers")
    for path in (REPOSITORY / "experiments" / folder).glob("*.yaml")
    if path.name != "study.yaml"
)
# Two epochs of two small meta-iterations each.
SHORT = [
    *("--trainer.max_epochs=-1", "--trainer.max_steps=4", "--trainer.log_every_n_steps=1"),
    *("--model.init_args.compile=false", "--model.init_args.iterations_per_step=1"),
    *("--data.init_args.iterations_per_epoch=2", "--data.init_args.meta_batch_size=2", "--data.init_args.eval_tasks=4"),
]
# Convolutions of 64 channels take seconds.
SMALL = ["--model.init_args.network.init_args.channels=8", "--data.init_args.eval_tasks=2"]


def meta_learns(config):
    """Whether it counts meta-iterations, or includes one that does."""
    tree = yaml.safe_load(config.read_text())
    return "max_steps" in tree.get("trainer", {})


@pytest.fixture(scope="module")
def omniglot_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("omniglot")


@pytest.fixture
def quick(omniglot_cache):
    """What makes a config short."""
    threads = torch.get_num_threads()

    def settings(config):
        if "omniglot" not in str(config):
            return [*QUICK, *SHORT] if meta_learns(config) else QUICK
        if not os.environ.get("GRADGRAD_DATA"):
            pytest.skip("GRADGRAD_DATA is not set")
        return [*QUICK, *SHORT, f"--data.init_args.cache={omniglot_cache}", *SMALL]

    yield settings
    torch.set_num_threads(threads)  # some configs set them


def test_every_config_is_known_to_this_test():
    sweeps = (CONFIGS / "sweeps").glob("*.yaml")  # known to test_sweep_configs.py
    assert sorted(CONFIGS.rglob("*.yaml")) == sorted([CONFIGS / "base.yaml", *EXPERIMENTS, *PRESETS, *sweeps])
    assert REDUCED
    assert {path.parent.name for path in CURVATURE} == {"curvature_of_ours", "edge_of_stability", "hessian_and_ggn", "outliers"}


def check_head(config):
    command, cost, expected = config.read_text().splitlines()[:3]
    assert command == f"# gradgrad fit -c {config.relative_to(REPOSITORY)}"
    assert cost.startswith("# Cost: ")
    assert expected.startswith("# Expected: ")


@pytest.mark.parametrize("config", [*EXPERIMENTS, *REDUCED], ids=lambda path: path.stem)
def test_an_experiment(project, run_cli, client, config, quick):
    check_head(config)
    code, _, said = run_cli("fit", "-c", config, *quick(config))
    assert code == 0, said
    (run,) = runs_of(client, config.stem)
    assert run.info.status == "FINISHED"
    assert run.data.tags["checkpoint.best"].endswith("best.ckpt")  # the base's checkpoints, through two includes too
    if meta_learns(config):
        steps = {name: [m.step for m in client.get_metric_history(run.info.run_id, name)] for name in ("train/loss", "val/loss")}
        assert steps == {"train/loss": [1, 2, 3, 4], "val/loss": [2, 4]}
        assert {"test/loss", "test/loss_p95", "test/diverged", "test/loss_at_10", "test/transductive"} <= set(run.data.metrics)
    for verb in ("validate", "test", "predict"):
        assert run_cli(verb, "-c", config, "--ckpt_path=best", "--trainer.enable_progress_bar=false")[0] == 0
    assert len(runs_of(client, config.stem)) == 1


@pytest.mark.parametrize("config", CURVATURE, ids=lambda path: path.stem)
def test_an_experiment_on_curvature(project, run_cli, client, config, quick):
    check_head(config)
    short = {"regressor": QUICK, "maml": [*QUICK, *SHORT]}.get(config.stem, [*QUICK, "--trainer.max_epochs=-1"])
    steps = [] if config.stem == "regressor" else ["--trainer.max_steps=4", "--trainer.log_every_n_steps=1"]
    code, _, said = run_cli("fit", "-c", config, *short, *steps)
    assert code == 0, said
    (run,) = runs_of(client, config.stem)
    measured = {name.split("/")[0]: value for name, value in run.data.metrics.items() if name.endswith("/converged")}
    beside = {"adam": {"preconditioned"}, "classifier": {"ggn"}, "regressor": {"hessian_train"}}
    assert set(measured) == {"hessian"} | beside.get(config.stem, set())
    assert set(measured.values()) == {1.0}


@pytest.mark.slow
def test_a_compiled_experiment(project, run_cli, client, quick):
    """As shipped, but for its length: one step of the trainer's, with 100 iterations."""
    config = CONFIGS / "maml_sinusoid.yaml"
    short = ["--trainer.max_epochs=-1", "--trainer.max_steps=100", "--data.init_args.eval_tasks=4"]
    code, _, said = run_cli(
        "fit", "-c", config, *QUICK, *short, "--data.init_args.iterations_per_epoch=100", "--trainer.log_every_n_steps=1"
    )
    assert code == 0, said
    (run,) = runs_of(client, config.stem)
    assert run.data.params["model.init_args.compile"] == "true"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 101))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset(project, run_cli, preset):
    command = preset.read_text().splitlines()[0]
    assert command == f"# gradgrad fit -c configs/gradient_norm_regressor.yaml -c {preset.relative_to(REPOSITORY)}"
    code, _, said = run_cli("fit", "-c", CONFIGS / "gradient_norm_regressor.yaml", "-c", preset, "--trainer.max_epochs=1")
    assert code == 0, said


def test_the_base_names_no_experiment():
    assert set(yaml.safe_load((CONFIGS / "base.yaml").read_text())) == {"seed_everything", "trainer"}
