"""Weights without a pickle: what goes in comes out, and what would need code is refused."""

import pickle
import re

import pytest
import torch
from torch import nn

from gradgrad.errors import UsageError
from gradgrad.tracking.weights import read_weights, write_weights


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def test_what_is_written_is_read_in_its_type_and_shape(tmp_path):
    tied = nn.Linear(3, 2)
    state = {
        **tied.state_dict(),
        "same": tied.weight.detach(),
        "view": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "none": torch.empty(0, 4),
    }
    write_weights(state, {"shape": [1, 2], "name": "ä"}, tmp_path / "weights")
    found, kept = read_weights(tmp_path / "weights")
    assert kept == {"shape": [1, 2], "name": "ä"}
    assert set(found) == set(state)
    assert all(found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in state.items())


def test_a_pickle_is_not_even_opened(tmp_path):
    marker = tmp_path / "marker"
    for write in (torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing))):
        write({"state_dict": Planted(marker)}, tmp_path / "weights.safetensors")
        with pytest.raises(UsageError, match=r"^weights\.safetensors cannot be read as weights: ") as raised:
            read_weights(tmp_path / "weights.safetensors")
        said = "\nexpected: a safetensors file, which holds numbers and no code; nothing of this one was executed"
        assert str(raised.value).endswith(said)
    assert not marker.exists()


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda _: b"", lambda _: bytes(100)])
def test_a_damaged_file(tmp_path, damage):
    file = tmp_path / "weights"
    write_weights({"a": torch.ones(100)}, {}, file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError, match="weights cannot be read as weights"):
        read_weights(file)
    file.unlink()
    with pytest.raises(UsageError, match="weights cannot be read as weights"):
        read_weights(file)


@pytest.mark.parametrize(
    ("state", "kept", "complaint"),
    [
        ({"a": torch.ones(1), "extra": {"n": 1}}, {}, "its state has extra, which is no tensor and would need a pickle"),
        (
            {"a": torch.ones(1)},
            {"shape": [1], "odd": torch.ones(1)},
            "its checkpoint has shape, odd, of which something is not plain and would need a pickle",
        ),
    ],
)
def test_what_would_need_a_pickle(tmp_path, state, kept, complaint):
    with pytest.raises(UsageError, match=f"^{re.escape(complaint)}$"):
        write_weights(state, kept, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
