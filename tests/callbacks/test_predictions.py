import matplotlib.figure
import pytest
import torch

from gradgrad.batches import Prediction
from gradgrad.callbacks import Predictions
from gradgrad.callbacks.predictions import predictions_figure


def test_the_figure_says_what_it_shows():
    figure = predictions_figure(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert isinstance(figure, matplotlib.figure.Figure)
    (axes,) = figure.axes
    assert axes.get_title() == "test part, n = 3, RMSE = 1.732"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true value", "predicted value")
    points = axes.collections[0].get_offsets()
    assert points.tolist() == [[1, 1], [2, 2], [3, 6]]


class Rank:
    is_global_zero = True
    loggers = ()


def test_it_does_nothing_without_our_logger_or_with_another_modules_outputs():
    callback = Predictions()
    callback.on_test_start(Rank(), None)
    callback.on_test_batch_end(Rank(), None, {"loss": 1}, None, 0)
    callback.on_test_batch_end(Rank(), None, None, None, 0)
    assert callback._seen == []
    callback.on_test_end(Rank(), None)
    callback.on_test_batch_end(Rank(), None, Prediction(torch.ones(2, 1), torch.ones(2, 1)), None, 0)
    callback.on_test_end(Rank(), None)
    assert len(callback._seen) == 1
    callback.on_test_start(Rank(), None)
    assert callback._seen == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_predictions_are_collected_in_order_without_a_graph(dtype):
    callback = Predictions()
    for start in (0, 2):
        values = torch.arange(start, start + 2, dtype=dtype)[:, None].requires_grad_()
        callback.on_predict_batch_end(Rank(), None, Prediction(values, values), None, 0)
    assert callback._all().prediction.tolist() == [0, 1, 2, 3]
    assert not callback._all().prediction.requires_grad
