"""When a penalty is in force, and how strongly."""

import pytest

from gradgrad.errors import UsageError
from gradgrad.penalties import GradientNormPenalty, InputGradientPenalty


@pytest.mark.parametrize(
    ("warmup_steps", "step", "weight"), [(0, 0, 2.0), (0, 9, 2.0), (4, 0, 0.0), (4, 1, 0.5), (4, 4, 2.0), (4, 5, 2.0)]
)
def test_the_weight_warms_up_linearly(warmup_steps, step, weight):
    assert GradientNormPenalty(2.0, warmup_steps=warmup_steps).weight_at(step) == weight


def test_every_third_step_three_times_as_strong():
    penalty = GradientNormPenalty(2.0, every=3)
    assert [penalty.weight_at(step) for step in range(7)] == [6, 0, 0, 6, 0, 0, 6]
    warm = GradientNormPenalty(2.0, every=3, warmup_steps=6)
    assert [warm.weight_at(step) for step in range(7)] == [0, 0, 0, 3, 0, 0, 6]


@pytest.mark.parametrize("kind", [GradientNormPenalty, InputGradientPenalty])
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), None, "0.1"])
def test_a_senseless_weight_is_refused(kind, weight):
    with pytest.raises(UsageError, match=rf"^{kind.__name__} got weight {weight}; write a finite number that is 0 or larger\.$"):
        kind(weight)


@pytest.mark.parametrize("kind", [GradientNormPenalty, InputGradientPenalty])
def test_senseless_steps_are_refused(kind):
    with pytest.raises(UsageError, match=rf"^{kind.__name__} got warmup_steps -1; write 0 \(no warm-up\) or more steps\.$"):
        kind(1.0, warmup_steps=-1)
    with pytest.raises(UsageError, match=rf"^{kind.__name__} got every 0; write 1 \(each optimizer step\) or a larger number\.$"):
        kind(1.0, every=0)
