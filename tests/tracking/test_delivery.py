"""From the spool to MLflow: order, outages, what MLflow refuses."""

import logging
import time

import pytest
from mlflow.exceptions import MlflowException

from conftest import runs_of
from gradgrad.tracking import MLflowLogger
from gradgrad.tracking.delivery import Delivery, deliver
from gradgrad.tracking.spool import Spool, spools


class Store:
    """What stands in for MLflow: it takes things, or not."""

    def __init__(self):
        self.got, self.down = [], None

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        if self.down:
            raise self.down
        if any(tag.value == "bad" for tag in tags):
            raise MlflowException.invalid_parameter_value("bad tag")
        self.got += [(metric.key, metric.step) for metric in metrics] + [(tag.key, tag.value) for tag in tags]


@pytest.fixture
def spool(project):
    spool = Spool.of_run("one")
    yield spool
    spool.close()


@pytest.fixture
def delivery(spool):
    store = Store()
    delivery = Delivery(store, spool, pace=60)
    yield delivery
    delivery.stop()


def metrics(step):
    return [["loss", 1.0, 5, step]]


def test_metrics_go_together_and_all_else_keeps_its_place(spool):
    store, requests = Store(), []
    whole = store.log_batch
    store.log_batch = lambda *args, **kwargs: (requests.append(len(kwargs.get("metrics", ()))), whole(*args, **kwargs))
    for step in range(1500):
        spool.put("metrics", metrics(step))
    spool.put("tags", {"n": "1"})
    spool.put("metrics", metrics(1500))
    assert deliver(store, spool) == 1502
    assert store.got == [*(("loss", step) for step in range(1500)), ("n", "1"), ("loss", 1500)]
    assert requests == [1000, 500, 0, 1]
    assert len(spool) == 0


def test_a_dead_store_stops_nothing_is_told_once_and_gets_all_when_it_is_back(delivery, spool, caplog):
    delivery.client.down = ConnectionError("refused")
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            begin = time.perf_counter()
            spool.put("metrics", metrics(step))
            assert time.perf_counter() - begin < 1
        assert not delivery.drain(patience=1.2)
        assert len(spool) == 3
        delivery.client.down = None
        assert delivery.drain()
    assert delivery.client.got == [("loss", 0), ("loss", 1), ("loss", 2)]
    assert [record.message for record in caplog.records] == [
        f"the tracking store does not take what run one logs: refused\nit waits in {spool.file}; the training goes on",
        "the tracking store is back: 3 entries of run one delivered",
    ]


def test_what_mlflow_will_never_take_is_put_aside_and_the_rest_arrives(spool, caplog):
    store = Store()
    for value in ("1", "bad", "2", "bad"):
        spool.put("tags", {"n": value})
    with caplog.at_level(logging.WARNING):
        assert deliver(store, spool) == 2
    assert store.got == [("n", "1"), ("n", "2")]
    assert (len(spool), spool.refused) == (0, 2)
    assert [record.message for record in caplog.records] == [
        f"MLflow refuses tags of run one, which stay in {spool.file}: bad tag"
    ]


def test_an_outage_at_the_end_leaves_a_file_that_says_so(project, client, monkeypatch, caplog):
    logger = MLflowLogger("one", flush_seconds=60)
    logger.log_metrics({"train/loss": 1.0}, 0)
    monkeypatch.setattr(logger.experiment, "log_batch", lambda *args, **kwargs: (_ for _ in ()).throw(ConnectionError("down")))
    monkeypatch.setattr(Delivery.drain, "__defaults__", (0.5, 2.0))
    with caplog.at_level(logging.WARNING):
        logger.finalize()
    (file,) = spools()
    told = f"3 entries of run {logger.version} wait in {file}\nwrite: gradgrad sync, when the tracking store is back"
    assert caplog.records[-1].message == told
    monkeypatch.undo()
    (run,) = runs_of(client, "one")
    assert (run.info.status, run.data.metrics) == ("RUNNING", {})
