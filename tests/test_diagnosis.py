"""Every mistake a user makes, through the real parser, with the sentence that comes back, to the letter."""

import pytest
import yaml

from conftest import REGRESSOR

NETWORK = {"class_path": "gradgrad.networks.MLP", "init_args": {}}
PENALTY = "gradgrad.penalties.GradientNormPenalty"

IN_FILES = {
    "trainer key": (
        {"trainer": {"max_epoch": 3}},
        "3: unknown key trainer.max_epoch\ngot:      max_epoch: 3\n"
        "expected: one of max_epochs, min_epochs, max_steps, max_time, min_steps, num_nodes, ...\nwrite:    max_epochs",
    ),
    "top key": (
        {"modl": 3},
        "2: unknown key modl\ngot:      modl: 3\n"
        "expected: one of model, log_model, ckpt_path, data, lr_scheduler, optimizer, ...\nwrite:    model",
    ),
    "module key": (
        {"model": {"init_args": {"penalty": 3}}},
        "4: unknown key model.penalty\ngot:      penalty: 3\n"
        "expected: one of penalties, loss, network, optimizer, scheduler\nwrite:    penalties",
    ),
    "network key": (
        {"model": {"init_args": {"network": {"init_args": {"hiden": 3}}}}},
        "6: unknown key model.network.hiden\ngot:      hiden: 3\n"
        "expected: one of hidden, activation, gain, init_std, output_bias\nwrite:    hidden",
    ),
    "penalty key": (
        {"model": {"init_args": {"penalties": [{"class_path": PENALTY, "init_args": {"weigt": 1}}]}}},
        "7: unknown key model.penalties.weigt\ngot:      weigt: 1\n"
        "expected: one of weight, every, method, micro_batch_size, p, parameters, ...\nwrite:    weight",
    ),
    "wrong number": (
        {"trainer": {"max_epochs": "many"}},
        "3: wrong value for trainer.max_epochs\ngot:      many\nexpected: int or null",
    ),
    "wrong nested number": (
        {"model": {"init_args": {"penalties": [{"class_path": PENALTY, "init_args": {"weight": "heavy"}}]}}},
        "7: wrong value for model.penalties.weight\ngot:      heavy\nexpected: float",
    ),
    "wrong list": (
        {"model": {"init_args": {"network": {"init_args": {"hidden": "wide"}}}}},
        "6: wrong value for model.network.hidden\ngot:      wide\nexpected: list",
    ),
    "wrong word": (
        {"model": {"init_args": {"network": {"init_args": {"activation": "tanhh"}}}}},
        "6: wrong value for model.network.activation\ngot:      tanhh\n"
        "expected: one of tanh, silu, gelu, softplus, relu\nwrite:    tanh",
    ),
    "unknown class": (
        {"model": {"init_args": {"optimizer": {"class_path": "torch.optim.Adamm"}}}},
        "5: unknown class for model.optimizer\ngot:      torch.optim.Adamm\n"
        "expected: a class that module torch.optim has\nwrite:    torch.optim.Adam",
    ),
    "unknown module": (
        {"model": {"class_path": "gradgrad.module.GradientNormRegressor"}},
        "3: unknown class for model\ngot:      gradgrad.module\n"
        "expected: a module that can be imported\nwrite:    gradgrad.modules",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), IN_FILES.values(), ids=IN_FILES)
def test_a_mistake_in_a_file(project, run_cli, change, sentence):
    (project / "own.yaml").write_text(yaml.safe_dump({"config": str(REGRESSOR), **change}, sort_keys=False))
    code, _, complaint = run_cli("fit", "-c", "own.yaml")
    assert complaint == f"gradgrad fit: own.yaml:{sentence}"
    assert code == 2
    assert len(complaint.splitlines()) <= 5


ON_THE_COMMAND_LINE = {
    "--trainer.max_epoch=3": "command line: unknown key trainer.max_epoch\ngot:      max_epoch: 3\n"
    "expected: one of max_epochs, min_epochs, max_steps, max_time, min_steps, num_nodes, ...\nwrite:    max_epochs",
    "--trainer.max_epochs=many": "command line: wrong value for trainer.max_epochs\ngot:      many\nexpected: int or null",
    "--model.network.hiden=[3]": "command line: unknown key model.network.hiden\ngot:      hiden: [3]\n"
    "expected: one of hidden, activation, gain, init_std, output_bias\nwrite:    hidden",
    "--model.penalties.0.init_args.weight=heavy": "command line: wrong value for model.penalties.weight\n"
    "got:      heavy\nexpected: float",
    "--model.penalties.0.init_args.weigt=1": "command line: unknown key model.penalties.0.init_args.weigt\n"
    "got:      weigt: 1\nexpected: one of weight, p, squared, method, radius, parameters, ...\nwrite:    weight",
    "--trainer.callbacks+=EarlyStoping": "command line: unknown class for trainer.callbacks\ngot:      EarlyStoping\n"
    "expected: a class by its name, if Lightning or torch.optim has it, else with its module\nwrite:    EarlyStopping",
    "--optimizer=Adamm": "command line: unknown class for optimizer\ngot:      Adamm\n"
    "expected: a class by its name, if Lightning or torch.optim has it, else with its module\nwrite:    Adam",
    "extra": "command line: unknown key extra\ngot:      extra\n"
    "expected: one of ckpt_path, data, log_model, lr_scheduler, model, optimizer, ...",
    "other.yaml": "command line: a file without -c\ngot:      other.yaml\nexpected: options only\nwrite:    -c other.yaml",
    "--model.penalties.weight=-1": "GradientNormPenalty got weight -1.0; write a finite number that is 0 or larger.",
}


@pytest.mark.parametrize(("argument", "sentence"), ON_THE_COMMAND_LINE.items(), ids=ON_THE_COMMAND_LINE)
def test_a_mistake_on_the_command_line(project, run_cli, argument, sentence):
    code, _, complaint = run_cli("fit", "-c", REGRESSOR, argument)
    assert complaint == f"gradgrad fit: {sentence}"
    assert code == 2


FILES = {
    "broken": (
        "trainer:\n  max_epochs: [1,\nmodel: 3\n",
        "own.yaml:4: not YAML, expected ',' or ']', but got '<stream end>'\ngot:      the end of the file\n"
        "expected: lines of `key: value`, indented by spaces",
    ),
    "empty": (
        "",
        "own.yaml: not a config\ngot:      nothing\nexpected: lines of `key: value`\n"
        "write:    config: base.yaml, then what differs",
    ),
    "text": (
        "hello\n",
        "own.yaml: not a config\ngot:      hello\nexpected: lines of `key: value`\n"
        "write:    config: base.yaml, then what differs",
    ),
    "missing include": (
        "config: own.yml\n",
        "own.yaml: no such file\ngot:      own.yml\nexpected: a YAML file in {}\nwrite:    own.yaml",
    ),
    "odd include": ("config: 5\n", "own.yaml: config is 5.\nexpected: the name of a YAML file, or a list of names"),
    "circle": ("config: own.yaml\n", "own.yaml includes itself.\nexpected: `config: <another file>`, or no such line"),
}


@pytest.mark.parametrize(("text", "sentence"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_config(project, run_cli, text, sentence):
    (project / "own.yaml").write_text(text)
    code, _, complaint = run_cli("fit", "-c", "own.yaml")
    assert complaint == f"gradgrad fit: {sentence.format(project)}"
    assert code == 2


def test_a_missing_file_names_the_nearest(project, run_cli):
    (project / "mine.yaml").write_text("a: 1\n")
    code, _, complaint = run_cli("fit", "-c", "mime.yaml")
    assert complaint == (
        f"gradgrad fit: command line: no such file\ngot:      mime.yaml\nexpected: a YAML file in {project}\nwrite:    mine.yaml"
    )
    assert code == 2


def test_no_model_at_all(project, run_cli):
    code, _, complaint = run_cli("fit")
    assert complaint == (
        "gradgrad fit: command line: missing key model\ngot:      nothing\nexpected: a config that names it\n"
        "write:    -c configs/<experiment>.yaml, or --model"
    )
    assert code == 2


def test_no_mistake_leaves_a_run_behind(project, run_cli, client):
    for argument in ("--trainer.max_epoch=3", "--model.penalties.weight=-1", "--data.name=diabtes"):
        assert run_cli("fit", "-c", REGRESSOR, argument)[0] == 2
    assert client.get_experiment_by_name("gradient_norm_regressor") is None


def test_what_the_trainer_refuses(project, run_cli):
    code, _, complaint = run_cli("fit", "-c", REGRESSOR, "--trainer.accelerator=gpuu")
    sentence, write = complaint.splitlines()
    assert sentence.startswith(
        "gradgrad fit: the trainer refuses its settings: You selected an invalid accelerator name: `accelerator='gpuu'`"
    )
    assert write == "write: other trainer.*"
    assert code == 2
