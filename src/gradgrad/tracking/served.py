"""A logged model, loaded back and asked. MLflow finds it by this module's name, and nothing in the model's folder is executed."""

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from numpy.typing import NDArray
from torch import Tensor

from gradgrad.batches import TaskBatch, TaskShape
from gradgrad.errors import UsageError
from gradgrad.tracking.request_checks import Refusal, install
from gradgrad.tracking.weights import read_weights

CONFIG, WEIGHTS = "config.yaml", "weights.safetensors"
MOST_STEPS = 1000  # a request for a billion would keep all others waiting


@runtime_checkable
class Adapts(Protocol):
    """A module that learns a task from its support set before it answers, as :class:`gradgrad.modules.MAML` does.

    Attributes:
        task_shape: what an input is, how many outputs there are.
        counted: number of inner steps, unless a request says otherwise.
        inner_lr: rate of the inner loop, unless a request says otherwise; None where it cannot be chosen.
    """

    task_shape: TaskShape
    counted: int

    @property
    def inner_lr(self) -> float | None:
        """Rate of the inner loop; None where it cannot be chosen."""

    def answer(self, tasks: TaskBatch, inner_steps: int | None = None, inner_lr: float | None = None) -> Tensor:
        """Adapt and predict: outputs for the queries, shape ``(T, Q, outputs)``."""


class Served:
    """A module that answers MLflow.

    A module that adapts takes one task: ``support_x``, shape ``(S, ...)``; ``support_y``, shape ``(S, 1)`` in the target's own
    unit, or ``(S,)`` class numbers from 0; ``query_x``, shape ``(Q, ...)``; and the params ``inner_steps`` and, unless the model
    has learned its rates, ``inner_lr``. It gives shape ``(Q, outputs)``: predictions in the target's own unit, or probabilities
    of the classes. Any other module takes its ``forward``'s one tensor, as the datamodule gives it (raw features, in their own
    units), and gives what ``forward`` does: of ``GradientNormRegressor`` the prediction in the target's own unit.

    Requests wait for one another, because ``torch.func.functional_call`` puts parameters into the module for a while.

    Args:
        module: with its weights.
    """

    def __init__(self, module: LightningModule) -> None:
        self.module = module.eval()
        self._lock = Lock()

    def predict(self, data: Mapping[str, NDArray[Any]], params: Mapping[str, Any] | None = None) -> NDArray[Any]:
        """Answer a request.

        Args:
            data: arrays by name.
            params: by name.

        Returns:
            One row for each row of the input, or of ``query_x``.

        Raises:
            Refusal: it cannot be answered.
        """
        with self._lock, torch.no_grad():
            try:
                if isinstance(self.module, Adapts):
                    answer = self._adapt(self.module, data, dict(params or {}))
                else:
                    answer = self.module(*(self._tensor(array) for array in data.values()))
            except UsageError as error:
                raise Refusal(" ".join(str(error).split())) from error
        if not isinstance(answer, Tensor):
            raise Refusal(f"{type(self.module).__name__} answers with {type(answer).__name__}; expected a tensor.")
        answer = answer.detach().cpu()
        if not answer.isfinite().all():
            hint = "; a smaller inner_lr or fewer inner_steps may help" if isinstance(self.module, Adapts) else ""
            raise Refusal(f"the answer is not finite: the numbers of the request are too large for this model{hint}.")
        return (answer.float() if answer.is_floating_point() and answer.dtype != torch.float64 else answer).numpy()

    def _adapt(self, module: Adapts, data: Mapping[str, NDArray[Any]], params: dict[str, Any]) -> Tensor:
        shape = module.task_shape
        support_x, query_x = self._tensor(data["support_x"]), self._tensor(data["query_x"])
        support_y = self._tensor(data["support_y"])
        if len(support_x) != len(support_y):
            raise Refusal(f"support_x has {len(support_x)} rows and support_y {len(support_y)}; expected as many.")
        steps, rate = params.get("inner_steps"), params.get("inner_lr")
        if steps is not None and not 0 <= steps <= MOST_STEPS:
            raise Refusal(f"inner_steps is {steps}; expected 0 to {MOST_STEPS}.")
        if rate is not None and not 0 < rate < math.inf:
            raise Refusal(f"inner_lr is {rate}; expected a positive number.")
        if shape.classification:
            wrong = support_y[(support_y < 0) | (support_y >= shape.outputs) | (support_y % 1 != 0)]
            if len(wrong):
                raise Refusal(f"support_y has the class {wrong[0]:g}; expected whole numbers from 0 to {shape.outputs - 1}.")
            support_y, query_y = support_y.long(), torch.full(query_x.shape[:1], -1, device=query_x.device)
        else:
            query_y = query_x.new_full((len(query_x), *support_y.shape[1:]), torch.nan)
        tasks = TaskBatch(*(part[None] for part in (support_x, support_y, query_x, query_y)))
        answer = module.answer(tasks, steps, rate)[0]
        return answer.softmax(-1) if shape.classification else answer

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        floats = next((p for p in self.module.parameters() if p.is_floating_point()), torch.empty(0))
        return torch.as_tensor(array).to(floats.device, floats.dtype if np.issubdtype(array.dtype, np.floating) else None)


def build(config: Mapping[str, Any], state: Mapping[str, Tensor], kept: Mapping[str, Any]) -> LightningModule:
    """Make a module as LightningCLI made it, and give it its weights.

    Args:
        config: ``class_path`` and ``init_args``; these classes must be importable.
        state: by name.
        kept: what the module put into its checkpoint, beside its state.

    Returns:
        The module, on the CPU.

    Raises:
        UsageError: the class is not there.
    """
    package = str(config["class_path"]).partition(".")[0]
    if find_spec(package) is None:
        raise UsageError(
            f"the model needs {config['class_path']}, and there is no module {package!r}.\n"
            f"expected: {package} installed, or its folder on PYTHONPATH; a logged model holds weights and settings, no code"
        )
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    module: LightningModule = parser.instantiate_classes(parser.parse_object({"model": dict(config)})).model
    module.configure_model()
    module.on_load_checkpoint({**kept, "state_dict": dict(state)})
    for name, own in (*module.named_parameters(), *module.named_buffers()):
        if name in state:  # a network trained in other precision answers in it
            own.data = own.data.to(state[name].dtype)
    module.load_state_dict(state)
    return module


def _load_pyfunc(path: str) -> Served:
    """Load a model; MLflow calls this by its name."""
    install()
    config = yaml.safe_load((Path(path) / CONFIG).read_text())
    return Served(build(config["model"], *read_weights(Path(path) / WEIGHTS)))
