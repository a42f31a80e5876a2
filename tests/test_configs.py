"""Every YAML that is shipped: it begins with its command, its cost and its expected result, and it runs."""

import pytest
import yaml

from conftest import CONFIGS, QUICK, REPOSITORY, runs_of

EXPERIMENTS = sorted(path for path in CONFIGS.glob("*.yaml") if path.name != "base.yaml")
PRESETS = sorted((CONFIGS / "presets").glob("*.yaml"))


def test_every_config_is_known_to_this_test():
    assert sorted(CONFIGS.rglob("*.yaml")) == sorted([CONFIGS / "base.yaml", *EXPERIMENTS, *PRESETS])


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment(project, run_cli, client, config):
    command, cost, expected = config.read_text().splitlines()[:3]
    assert command == f"# gradgrad fit -c {config.relative_to(REPOSITORY)}"
    assert cost.startswith("# Cost: ")
    assert expected.startswith("# Expected: ")
    code, _, said = run_cli("fit", "-c", config, *QUICK)
    assert code == 0, said
    (run,) = runs_of(client, config.stem)
    assert run.info.status == "FINISHED"
    assert run.data.tags["checkpoint.best"].endswith("best.ckpt")  # the base's checkpoints, through two includes too
    for verb in ("validate", "test", "predict"):
        assert run_cli(verb, "-c", config, "--ckpt_path=best", "--trainer.enable_progress_bar=false")[0] == 0
    assert len(runs_of(client, config.stem)) == 1


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset(project, run_cli, preset):
    command = preset.read_text().splitlines()[0]
    assert command == f"# gradgrad fit -c configs/gradient_norm_regressor.yaml -c {preset.relative_to(REPOSITORY)}"
    code, _, said = run_cli("fit", "-c", EXPERIMENTS[0], "-c", preset, "--trainer.max_epochs=1")
    assert code == 0, said


def test_the_base_names_no_experiment():
    assert set(yaml.safe_load((CONFIGS / "base.yaml").read_text())) == {"seed_everything", "trainer"}
