import torch
from hypothesis import given
from hypothesis import strategies as st

from gradgrad.standardize import Standardize

numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(numbers, min_size=1, max_size=4), st.floats(0.01, 100), numbers)
def test_inverse_undoes_forward(x, std, mean):
    layer = Standardize(torch.full((len(x),), mean), torch.full((len(x),), std)).double()
    x = torch.tensor([x], dtype=torch.float64)
    torch.testing.assert_close(layer.inverse(layer(x)), x, rtol=1e-12, atol=1e-9)


def test_a_training_part_comes_out_with_zero_mean_and_unit_variance():
    x = torch.tensor([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]], dtype=torch.float64)
    z = Standardize(x.mean(0), x.std(0, correction=0))(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2, dtype=torch.float64))


def test_statistics_travel_in_the_state_dict_and_are_not_trained():
    layer = Standardize(torch.tensor([3.0]), torch.tensor([2.0]))
    other = Standardize.placeholder(1)
    assert other(torch.tensor([[5.0]])).item() == 5
    other.load_state_dict(layer.state_dict())
    assert other(torch.tensor([[5.0]])).item() == 1
    assert list(layer.parameters()) == []
