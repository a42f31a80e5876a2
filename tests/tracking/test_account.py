"""A run's own words on its end."""

from gradgrad.tracking.account import account
from gradgrad.tracking.ranks import RankFailure
from gradgrad.tracking.verdict import Verdict


def caught(error):
    try:
        raise error
    except type(error) as caught:
        return caught


def test_a_good_end_says_nothing_more():
    assert account(None, None, "") == (Verdict("FINISHED", 0), {}, {})


def test_a_signal_is_named():
    assert account(caught(KeyboardInterrupt()), None, "") == (Verdict("KILLED", 130, "SIGINT"), {"signal": "SIGINT"}, {})


def test_an_error_has_its_traceback():
    end, tags, texts = account(caught(ValueError("what it was")), None, "-5")
    assert (end, tags, list(texts)) == (Verdict("FAILED", 1, "ValueError"), {"exception": "ValueError"}, ["traceback-5.txt"])
    assert "ValueError: what it was" in texts["traceback-5.txt"]


def test_the_rank_that_failed_first_wins():
    end, tags, texts = account(caught(RuntimeError("connection lost")), RankFailure(1, "OSError", "its traceback"), "")
    assert end == Verdict("FAILED", 1, "OSError")
    assert tags == {"exception": "OSError on rank 1"}
    assert texts == {"traceback-rank1.txt": "its traceback"}
