"""The surroundings of a product are restored, and errors of PyTorch become sentences."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradgrad.derivatives import double_backward
from gradgrad.derivatives.double_backward import explain
from gradgrad.errors import UsageError


def kernels():
    return (
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cudnn.enabled,
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
    )


@pytest.mark.parametrize("outside", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(outside, fails):
    lstm = nn.LSTM(1, 1)
    with outside(), sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        before = kernels()
        try:
            with double_backward("x"):
                assert kernels()[:3] == (False, False, True)
                assert kernels()[4:] == (True, False, False)
                lstm(torch.ones(1, 1, 1))
                assert not torch.backends.cudnn.enabled
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
        assert kernels() == before
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks


def test_buffers_come_back_also_when_the_forward_fails():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self):
            self.count += 1
            raise KeyError(self.count.item())

    counter = Counter()
    for _ in range(2):
        with pytest.raises(KeyError, match=r"1\.0"), double_backward("x"):
            counter()
    assert counter.count == 0


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "derivative for aten::_cudnn_rnn_backward is not implemented",
            r"^x got a cuDNN recurrent layer, which has no second derivative\.",
        ),
        (
            "derivative for aten::grid_sampler_2d_backward is not implemented",
            r"^x got the operation grid_sampler_2d_backward, which has",
        ),
    ],
)
def test_errors_of_pytorch_become_sentences(said, sentence):
    with pytest.raises(UsageError, match=sentence), double_backward("x"):
        raise RuntimeError(said)


def test_other_errors_stay_what_they_are():
    assert explain(RuntimeError("shapes cannot be multiplied"), "x") is None
    with pytest.raises(RuntimeError, match=r"^shapes cannot be multiplied$"), double_backward("x"):
        raise RuntimeError("shapes cannot be multiplied")
