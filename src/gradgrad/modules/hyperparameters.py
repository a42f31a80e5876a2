"""What a checkpoint remembers of how its module was made."""

import inspect
import warnings

from lightning.pytorch import LightningModule


def keep_hyperparameters(module: LightningModule) -> None:
    """Save the arguments of the constructor that calls this, if they came from YAML.

    Those of a module that is built in Python are live objects, which a weights-only checkpoint refuses.

    Args:
        module: under construction.
    """
    caller = inspect.currentframe()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute .* is an instance of `nn.Module`")
        module.save_hyperparameters(logger=False, frame=caller and caller.f_back)
    if "_class_path" not in module.hparams:
        module.hparams.clear()
