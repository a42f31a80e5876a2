"""Ways and shots: distinct classes, distinct examples, labels, turns, devices."""

import pytest
import torch
from scipy.stats import chisquare

from gradgrad.datamodules.few_shot import Classes, FewShotTasks, turned
from gradgrad.errors import UsageError

RARE = 1e-3  # a fixed stream fails once and for all or never; a sound one does with this probability


class Numbered(FewShotTasks):
    """Examples that say which they are: 1000 * row + place, in every pixel of a 2 x 2 image but the first, which adds a half."""

    name, source = "numbered", "test"

    def __init__(self, counts=(6,) * 8, turns=None, dtype=torch.float32, **options):
        super().__init__(**options)
        self.counts, self.turns, self.dtype, self.asked = torch.tensor(counts), turns, dtype, []

    def classes(self, split):
        self.asked.append(split)
        rows = torch.arange(len(self.counts))
        places = torch.arange(int(self.counts.max()))
        examples = (1000 * rows[:, None] + places)[..., None, None, None] + torch.tensor([[[0.5, 0], [0, 0]]])
        turns = torch.arange(4).repeat(len(rows)) if self.turns else None
        return Classes(examples.to(self.dtype), self.counts, rows.repeat_interleave(4) if self.turns else rows, turns)


def rows_and_places(x):
    numbers = x[..., 0, 1, 1].long()
    return numbers // 1000, numbers % 1000


def test_shapes_and_the_order_of_labels():
    batch = Numbered(ways=3, shots=2, queries=1).tasks("train", 0, 5)
    assert [tuple(part.shape) for part in batch] == [(5, 6, 1, 2, 2), (5, 6), (5, 3, 1, 2, 2), (5, 3)]
    assert batch.support_y.tolist() == [[0, 0, 1, 1, 2, 2]] * 5
    assert batch.query_y.tolist() == [[0, 1, 2]] * 5
    assert batch.support_y.dtype == torch.int64
    assert batch.support_x.dtype == torch.float32


def test_classes_are_distinct_and_so_are_examples():
    batch = Numbered(counts=(4, 9, 5, 7, 4), ways=5, shots=2, queries=2).tasks("train", 0, 300)
    rows, places = (torch.cat([a, b], 1) for a, b in zip(*map(rows_and_places, (batch.support_x, batch.query_x)), strict=True))
    labels = torch.cat([batch.support_y, batch.query_y], 1)
    for task in range(300):
        of_label = [set(rows[task][labels[task] == label].tolist()) for label in range(5)]
        assert all(len(found) == 1 for found in of_label)
        assert len(set.union(*of_label)) == 5
        assert len(set(zip(rows[task].tolist(), places[task].tolist(), strict=True))) == 20
    assert (places < torch.tensor([4, 9, 5, 7, 4])[rows]).all()  # a ragged row is never read past its end


def test_every_class_and_example_has_the_same_chance():
    rows, places = rows_and_places(Numbered(ways=2).tasks("train", 0, 20_000).support_x)
    first = rows[:, 0] * 8 + rows[:, 1]
    pairs = [a * 8 + b for a in range(8) for b in range(8) if a != b]
    assert chisquare(torch.bincount(first, minlength=64)[pairs].numpy()).pvalue > RARE
    assert chisquare(torch.bincount(places.flatten(), minlength=6).numpy()).pvalue > RARE


def test_bytes_become_fractions():
    data = Numbered(counts=(2, 2), ways=2, dtype=torch.uint8)
    data.classes = lambda split: Classes(torch.full((2, 2, 3), 51, dtype=torch.uint8), data.counts, torch.arange(2))
    assert (data.tasks("train", 0, 1).support_x == 0.2).all()


def test_turns_are_quarter_turns_counterclockwise():
    x = torch.rand(50, 4, 2, 1, 5, 5)
    turns = torch.randint(4, (50, 4), generator=torch.Generator().manual_seed(0))
    expected = [torch.rot90(x[t, n], int(turns[t, n]), (-2, -1)) for t in range(50) for n in range(4)]
    assert torch.equal(turned(x, turns), torch.stack(expected).view_as(x))


def test_a_turned_character_is_another_class():
    batch = Numbered(turns=True, ways=2).tasks("train", 0, 2000)
    half = (batch.support_x % 1).flatten(2).argmax(2)  # where the marked corner went
    assert set(half.flatten().tolist()) == {0, 1, 2, 3}
    assert torch.equal(half, (batch.query_x % 1).flatten(2).argmax(2))  # all examples of a class turn alike
    rows, _ = rows_and_places(batch.support_x.amin((-2, -1), keepdim=True).expand(-1, -1, -1, 2, 2))
    assert ((rows[:, 0] == rows[:, 1]) & (half[:, 0] != half[:, 1])).any()


def test_tasks_are_whole_numbers_of_a_stream():
    data = Numbered(turns=True)
    together = data.tasks("val", 500, 20)
    apart = [data.tasks("val", 500 + i, 5) for i in (0, 5, 10, 15)]
    assert all(torch.equal(part, torch.cat(parts)) for part, *parts in zip(together, *apart, strict=True))
    assert data.asked == ["val"]  # once


def test_what_a_network_is_built_for():
    assert Numbered(ways=3).task_shape == ((1, 2, 2), 3, True)


def test_provenance_changes_with_the_examples_and_the_sizes():
    parts = [Numbered(**options).provenance() for options in ({}, {}, {"counts": (6,) * 7}, {"shots": 2}, {"seed": 1})]
    assert parts[0] == parts[1]
    assert len({part[1].digest for part in parts}) == 4
    assert parts[0][1].rows == 600


def test_too_few_classes_are_refused():
    with pytest.raises(UsageError, match="numbered: the training part has 8 classes, a task needs 9") as error:
        Numbered(ways=9).prepare_data()
    assert str(error.value).endswith("write: data.init_args.ways: 8, or more classes into test")


def test_too_few_examples_are_refused():
    with pytest.raises(UsageError, match="a class of the training part has 3 examples, 2 shots and 2 queries need 4") as error:
        Numbered(counts=(6, 3, 9, 9, 9), shots=2, queries=2).prepare_data()
    assert "write: data.init_args.shots and queries that make at most 3 together" in str(error.value)


@pytest.mark.parametrize(("key", "least"), [("ways", 2), ("shots", 1), ("queries", 1)])
def test_a_size_too_small_is_refused(key, least):
    with pytest.raises(UsageError, match=f"Numbered got {key} {least - 1}.\nwrite: data.init_args.{key}, at least {least}"):
        Numbered(**{key: least - 1})
