"""What a run of the command line and its experiment are called."""

from collections.abc import Sequence
from typing import Any

from gradgrad.arguments import config_files, is_config, join_values
from gradgrad.tracking.secrets import redact_arguments

# No part of a run's name.
NOT_DISTINCTIVE = (
    *("--trainer.enable_", "--trainer.logger", "--ckpt_path", "--run_id", "--threads", "--resume"),
    *("--register", "--log_model", "--system_metrics"),
)
LONGEST = 250  # MLflow's limit


def experiment_name(logger: Any, arguments: Sequence[str]) -> str:
    """Name an experiment after the config file.

    Args:
        logger: config of the trainer's, whose own ``experiment_name`` comes first.
        arguments: what follows the verb.

    Returns:
        ``gradgrad`` where there is neither.
    """
    settings = getattr(logger, "init_args", None)
    given = settings.get("experiment_name") if settings else None
    files = config_files(arguments)
    return str(given or (files[0].stem if files else "gradgrad"))


def name_experiment(loggers: Any, arguments: Sequence[str]) -> str:
    """Tell those of the loggers that are ours, and have no experiment of their own, which it is.

    Args:
        loggers: config of the trainer's, one or several; changed in place.
        arguments: what follows the verb.

    Returns:
        The name.
    """
    name = experiment_name(loggers, arguments)
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if getattr(logger, "class_path", "").startswith("gradgrad.tracking"):
            logger.init_args.experiment_name = logger.init_args.experiment_name or name
    return name


def run_name(arguments: Sequence[str], default: str) -> str:
    """Name a run after what was overridden.

    Args:
        arguments: what follows the verb.
        default: where nothing was.

    Returns:
        For example ``hidden=[7] weight=0.5``, redacted.
    """
    overrides = [a for a in join_values(arguments) if a.startswith("--") and not is_config(a)]
    distinctive = [a for a in overrides if not a.startswith(NOT_DISTINCTIVE)]
    pairs = (argument.lstrip("-").partition("=") for argument in redact_arguments(distinctive))
    return (" ".join(f"{name.rpartition('.')[2]}={value}" for name, _, value in pairs) or default)[:LONGEST]
