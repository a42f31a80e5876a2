"""The queue on disk: order, other processes, kill -9, a full disk."""

import logging
import math
import os
import signal
import subprocess
import sys

import pytest

from gradgrad.tracking.spool import Spool, SpoolInUseError, spools


def payloads(spool):
    return [entry.payload for entry in spool.head(1000)]


def test_entries_come_back_in_order_and_unharmed(project):
    spool = Spool.of_run("one")
    spool.put("metrics", [["train/loss", 0.1 + 0.2, 5, 0], ["val/loss", math.inf, 5, 0], ["x", math.nan, 5, 0]])
    spool.put("text", {"path": "a.csv", "text": "ä\n'\""})
    (metrics, text) = spool.head(10)
    assert (metrics.kind, text.kind) == ("metrics", "text")
    assert metrics.payload[0] == ["train/loss", 0.1 + 0.2, 5, 0]
    assert metrics.payload[1][1] == math.inf
    assert math.isnan(metrics.payload[2][1])
    assert text.payload == {"path": "a.csv", "text": "ä\n'\""}
    assert len(spool) == 2


def test_what_was_delivered_is_forgotten_and_an_empty_spool_leaves_no_file(project):
    spool = Spool.of_run("one")
    for number in range(5):
        spool.put("tags", {"n": number})
    spool.drop(spool.head(3))
    assert payloads(spool) == [{"n": 3}, {"n": 4}]
    spool.close()
    assert [file.name for file in spools()] == ["one.db"]
    again = Spool.of_run("one")
    again.put("tags", {"n": 5})
    assert payloads(again) == [{"n": 3}, {"n": 4}, {"n": 5}]
    again.drop(again.head(10))
    again.close()
    assert list((project / "mlruns" / "spool").iterdir()) == []


def test_what_mlflow_refuses_stays(project):
    spool = Spool.of_run("one")
    spool.put("tags", {"n": 1})
    spool.refuse(spool.head(1)[0], "too long")
    assert (len(spool), spool.refused) == (0, 1)
    spool.close()
    assert [file.name for file in spools()] == ["one.db"]
    assert Spool.of_run("one").refused == 1


HOLDER = """
import sys
from gradgrad.tracking.spool import Spool
spool = Spool.of_run("one")
for number in range(1000):
    spool.put("tags", {"n": number})
print(spool.file.name, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_and_frees_the_file(project):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "one.db\n"
    with pytest.raises(SpoolInUseError, match=r"one\.db$"):
        Spool(project / "mlruns" / "spool" / "one.db")
    second = Spool.of_run("one")  # two processes may log into one run
    assert second.file.name == "one.1.db"
    assert second.run_id == "one"
    second.close()
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    spool = Spool.of_run("one")
    assert spool.file.name == "one.db"
    assert payloads(spool) == [{"n": number} for number in range(1000)]


def test_a_full_disk_loses_nothing_and_is_told_once(project, caplog):
    spool = Spool.of_run("one")
    spool.put("tags", {"n": 0})
    pages = spool._database.execute("PRAGMA page_count").fetchone()[0]
    spool._database.execute(f"PRAGMA max_page_count={pages}")  # SQLite's own word for a full disk: SQLITE_FULL
    with caplog.at_level(logging.WARNING):
        for number in range(1, 6):
            spool.put("tags", {"n": number, "long": "x" * 5000})
    assert [record.message for record in caplog.records] == [
        "the spool of run one cannot be written: database or disk is full\n"
        "what it would hold waits in memory, is delivered from there, and written when there is room again"
    ]
    assert [payload["n"] for payload in payloads(spool)] == [0, 1, 2, 3, 4, 5]
    spool.drop(spool.head(2))
    assert [payload["n"] for payload in payloads(spool)] == [2, 3, 4, 5]
    spool._database.execute("PRAGMA max_page_count=100000")
    spool.put("tags", {"n": 6})
    spool.close()
    assert [payload["n"] for payload in payloads(Spool.of_run("one"))] == [2, 3, 4, 5, 6]


def test_mlruns_is_not_seen_by_git(project):
    Spool.of_run("one")
    assert (project / "mlruns" / ".gitignore").read_text() == "*\n"
