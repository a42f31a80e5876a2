"""The flags by which a fit or a test logs its model, and what is logged: the best weights, or the last."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from gradgrad.checkpoints import read_checkpoint
from gradgrad.tracking import MLflowLogger
from gradgrad.tracking.models import NotStoredError, TrainedModel, check_name, log_model
from gradgrad.tracking.secrets import redact


def add_model_flags(parser: LightningArgumentParser, verb: str) -> None:
    """Add ``--log_model`` and ``--register`` to fit and test.

    Args:
        parser: of the verb.
        verb: which.
    """
    if verb not in ("fit", "test"):
        return
    fits = verb == "fit"
    help_ = "Log the best checkpoint (where there is none, the last weights) as a model that MLflow can load and serve."
    parser.add_argument("--log_model", type=bool, default=fits, help=help_ if fits else "Log the tested weights as a model.")
    help_ = "Log the model, and make it the newest version of this name in MLflow's registry."
    parser.add_argument("--register", type=str, default=None, metavar="NAME", help=help_)


def check_model_flags(config: Mapping[str, Any]) -> None:
    """Refuse what could only fail after the training.

    Args:
        config: of the verb.
    """
    if config.get("register") is not None:
        check_name(config["register"])


@rank_zero_only
def record_model(
    trainer: Trainer, module: LightningModule, logger: MLflowLogger | None, verb: str, config: Mapping[str, Any]
) -> None:
    """Log the model of a verb that has come to a good end; what goes wrong here is said in a line and harms nothing.

    Args:
        trainer: with its data and callbacks.
        module: as it stands after the verb.
        logger: of the run.
        verb: ``fit`` logs the best checkpoint, any other the weights that it was given.
        config: of the verb, resolved and plain.
    """
    register = config.get("register")
    if not (register or (config.get("log_model") and logger)):
        return
    if logger is None:
        rank_zero_info(f"--register {register}: there is no run to take a model from, for the trainer has no MLflowLogger")
        return
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    training = module.training
    logger.flush()  # the model's page tells what the test said
    try:
        trained = _trained(trainer, module, config["model"], (best if verb == "fit" else config["ckpt_path"]) or None)
        model_id = log_model(logger.run.id, trained, trainer, register)
        rank_zero_info(f"model: models:/{model_id}" + (f", registered as {register}" if register else ""))
    except Exception as error:
        reason = " ".join(redact(str(error)).split())[:300] or type(error).__name__
        rank_zero_info(f"the model of run {logger.run.id} was not logged: {reason}")
        if isinstance(error, NotStoredError):
            rank_zero_info(f"later: gradgrad test -c config.yaml --run_id {logger.run.id} --ckpt_path best --log_model true")
    finally:
        module.train(training)


def _trained(trainer: Trainer, module: LightningModule, config: Mapping[str, Any], checkpoint: str | None) -> TrainedModel:
    own: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(own)
    saved = own if checkpoint is None else read_checkpoint(checkpoint, mmap=True)
    kept = {name: saved.get(name, value) for name, value in own.items() if name != "state_dict"}
    return TrainedModel(module, config, saved["state_dict"], kept, saved.get("global_step", trainer.global_step))
