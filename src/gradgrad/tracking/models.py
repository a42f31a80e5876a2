"""A trained module as a model of its run: it can be seen in the UI, loaded, served and registered."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml
from lightning.pytorch import LightningModule, Trainer

from gradgrad.errors import UsageError
from gradgrad.tracking.flatten import flatten
from gradgrad.tracking.interface import Interface, interface
from gradgrad.tracking.requirements import requirements
from gradgrad.tracking.secrets import redact_tree
from gradgrad.tracking.store import few_retries, tracking_uri
from gradgrad.tracking.weights import write_weights

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

NAME = "model"  # as in runs:/<run id>/model


class NotStoredError(RuntimeError):
    """The store did not take a model; it can be logged later."""


@dataclass(frozen=True)
class TrainedModel:
    """What becomes a model.

    Attributes:
        module: of the class that was trained; it says what it takes, and answers an example.
        config: its ``class_path`` and ``init_args``, resolved.
        state: its weights by name, which may be those of an earlier step.
        kept: what its ``on_save_checkpoint`` put into the checkpoint, beside the state.
        step: optimizer steps done.
    """

    module: LightningModule
    config: Mapping[str, Any]
    state: Mapping[str, Any]
    kept: Mapping[str, Any]
    step: int


def log_model(run_id: str, trained: TrainedModel, trainer: Trainer, register: str | None = None) -> str:
    """Log a model: its config, its weights without a pickle, signature, example and pinned requirements.

    MLflow loads it by :mod:`gradgrad.tracking.served`, so that nothing of what is stored is ever executed.

    Args:
        run_id: of the run that it belongs to.
        trained: the model.
        trainer: with its data.
        register: a name in the registry, of which it becomes the newest version.

    Returns:
        MLflow's id: ``mlflow.pyfunc.load_model("models:/<id>")``.

    Raises:
        UsageError: the module cannot be stored without a pickle, or cannot be asked.
        NotStoredError: the store did not take it.
    """
    said = interface(trained.module, trainer)
    with TemporaryDirectory() as folder, few_retries():
        write_weights(trained.state, trained.kept, _prepared(Path(folder), trained))
        signature = _signature(said, trained.module)
        try:
            return _store(Path(folder), run_id, trained, said, signature, register)
        except Exception as error:
            raise NotStoredError(str(error) or type(error).__name__) from error


def _store(
    folder: Path, run_id: str, trained: TrainedModel, said: Interface, signature: "ModelSignature", register: str | None
) -> str:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelOutput

    client = MlflowClient(tracking_uri())
    experiment = client.get_run(run_id).info.experiment_id
    params = dict(flatten(redact_tree({"model": trained.config})))
    kind = type(trained.module).__name__
    model_id = client.create_logged_model(experiment, NAME, run_id, params=params, model_type=kind).model_id
    try:
        _save(folder, run_id, model_id, trained, said, signature)
        client.log_model_artifacts(model_id, str(folder / NAME))
        client.log_outputs(run_id, [LoggedModelOutput(model_id, trained.step)])
        _log_scores(client, run_id, model_id)
    except BaseException:
        client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    if register is not None:
        _register(client, register, run_id, model_id)
    return model_id


def _log_scores(client: "MlflowClient", run_id: str, model_id: str) -> None:
    """Put what the test said on the model's page; the run has these points already, and MLflow stores equal ones once."""
    from mlflow.entities import Metric

    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith("test/")]
    latest = [max(client.get_metric_history(run_id, key), key=lambda point: point.timestamp) for key in keys]
    client.log_batch(run_id, [Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id, run_id=run_id) for m in latest])


def _prepared(folder: Path, trained: TrainedModel) -> Path:
    from gradgrad.tracking.served import CONFIG, WEIGHTS

    (folder / "module").mkdir()
    config = redact_tree({"model": trained.config})
    (folder / "module" / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / "module" / WEIGHTS


def _signature(said: Interface, module: LightningModule) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    from gradgrad.tracking.request_checks import Refusal
    from gradgrad.tracking.served import Served

    trainer, module._trainer = module._trainer, None  # it will be asked without one
    try:
        output = Served(module).predict(said.inputs)
    except Refusal as refusal:
        raise UsageError(refusal.message) from refusal
    finally:
        module._trainer = trainer
    inputs = Schema([TensorSpec(array.dtype, (-1, *array.shape[1:]), name) for name, array in said.inputs.items()])
    outputs = Schema([TensorSpec(output.dtype, (-1, *output.shape[1:]))])
    types = {int: "long", float: "double"}
    specs = [ParamSpec(name, types[type(value)], value) for name, value in said.params.items()]
    return ModelSignature(inputs, outputs, ParamSchema(specs)) if specs else ModelSignature(inputs, outputs)


def _save(folder: Path, run_id: str, model_id: str, trained: TrainedModel, said: Interface, signature: Any) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    from gradgrad.tracking.request_checks import LOADER

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it tells that it validates the example
    (folder / "no_uv_project").mkdir()  # else MLflow copies the user's pyproject.toml, which may hold an index's password
    mlflow.pyfunc.save_model(
        path=str(folder / NAME),
        loader_module=LOADER,
        data_path=str(folder / "module"),
        mlflow_model=Model(artifact_path=NAME, run_id=run_id, model_uuid=model_id, model_id=model_id),
        signature=signature,
        input_example=(said.inputs, said.params) if said.params else said.inputs,
        pip_requirements=requirements(str(trained.config["class_path"])),
        uv_project_path=str(folder / "no_uv_project"),
    )


def _register(client: "MlflowClient", name: str, run_id: str, model_id: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A server resolves the model's address; without one MLflow would ask whichever store is the process's global one.
    served = urlsplit(client.tracking_uri).scheme.startswith(("http", "databricks"))
    source = f"models:/{model_id}" if served else client.get_logged_model(model_id).artifact_location
    version = client.create_model_version(name, source, run_id, model_id=model_id).version
    client.set_logged_model_tags(
        model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([{"name": name, "version": version}])}
    )  # for the UI


def check_name(name: str) -> None:
    """Refuse a name that MLflow's registry would refuse, before anything is computed.

    Args:
        name: of a registered model.

    Raises:
        UsageError: MLflow's own reason.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_model_name

    try:
        _validate_model_name(name)
    except MlflowException as error:
        raise UsageError(
            f"--register {name!r} is no name for MLflow's registry: {error.message}\n"
            "expected: a name without slash and colon\n"
            "write:    --register my-model"
        ) from error
