"""MLflow's UI as users see it: a real browser on `gradgrad ui`."""

import json
import os
import shutil
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from conftest import REGRESSOR, runs_of
from processes import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 60  # seconds for a page, which takes three on a quiet machine
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH (Debian: chromium-driver)"),
]


class Pages:
    """The browser on the server; SCREENSHOTS names a folder for pictures to be looked at."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address

    def open(self, route, *expected, name=None):
        """Open a page and wait until it says all that is expected, in this order."""
        from selenium.webdriver.common.by import By

        self.browser.get(f"{self.address}/#{route}")
        self.wait(lambda: in_order(self.browser.find_element(By.TAG_NAME, "body").text, expected), expected)
        if name and (folder := os.environ.get("SCREENSHOTS")):
            time.sleep(2)  # for the charts
            self.browser.save_screenshot(Path(folder) / f"{name}.png")

    def press(self, text):
        self.browser.find_element("xpath", f"//*[text()='{text}']").click()

    def wait(self, condition, expected):
        from selenium.common.exceptions import StaleElementReferenceException

        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except StaleElementReferenceException:
                pass
            time.sleep(0.2)
        raise AssertionError(f"{expected} is not on the page:\n{self.browser.find_element('tag name', 'body').text}")

    def count(self, selector):
        return len(self.browser.find_elements("css selector", selector))


def in_order(text, expected):
    place = 0
    for part in expected:
        if (place := text.find(part, place)) < 0:
            return False
        place += len(part)
    return True


@pytest.fixture
def pages(project, start_cli):
    """Two short runs of one experiment, and a browser."""
    from selenium import webdriver

    common = ("--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
    trainings = [
        start_cli("fit", "-c", REGRESSOR, *common, f"--seed_everything={seed}", "--register=diabetes") for seed in (3, 4)
    ]
    for training in trainings:
        out, _ = training.communicate(timeout=200)
        assert training.returncode == 0, out
    port = free_port()
    server = start_cli("ui", "--port", port)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=5)
            break
        except OSError:
            time.sleep(0.2)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1700,1800"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield Pages(browser, address)
    browser.quit()
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)


def test_runs_are_found_compared_and_read(pages, client):
    second, first = (run.info.run_id for run in runs_of(client))
    experiment = client.get_run(first).info.experiment_id
    home = f"/experiments/{experiment}/runs"
    names = [client.get_run(run).info.run_name for run in (first, second)]
    assert sorted(names) == ["max_epochs=2 seed_everything=3", "max_epochs=2 seed_everything=4"]

    pages.open(home, "Run Name", names[1], names[0], "2 matching runs", name="list")
    # Charts of both runs side by side, one group for each prefix; MLflow draws what is in sight.
    pages.open(f"{home}?compareRunsMode=CHART", names[1], names[0], "best", "best/loss", "best/rmse", "hessian", name="charts")
    pages.wait(lambda: pages.count("svg .bars .point") >= 2, "a bar for each run")
    pages.open(
        f"/compare-runs?runs={json.dumps([first, second])}&experiments={json.dumps([experiment])}",
        *("Comparing 2 Runs from 1 Experiment", names[0], names[1], "Parameters", "seed_everything", "Metrics", "best/loss"),
        name="compare",
    )
    pages.open(f"{home}/{first}", "Description", "test", "rmse", "best", "gradgrad fit -c", "data", "seed", name="overview")
    pages.open(f"{home}/{first}/model-metrics", "best", "(5)", "hessian", name="model-metrics")
    pages.open(f"{home}/{first}/system-metrics", "System metrics", "(11)", "cpu_utilization_percentage", name="system-metrics")
    pages.open(f"{home}/{first}/artifacts", "checkpoints", "hessian", "config.yaml", "predictions.png")
    pages.press("predictions.png")
    loaded = "return [...document.images].some(i => i.naturalWidth >= 400 && i.naturalHeight >= 400)"
    pages.wait(lambda: pages.browser.execute_script(loaded), "the figure")
    pages.open(f"{home}/{first}/artifacts", "predictions.png", name="figure")

    model = next(model for model in client.search_logged_models([experiment]) if model.source_run_id == first)
    (version,) = (each.version for each in client.search_model_versions("name='diabetes'") if each.run_id == first)
    pages.open(home, "Run Name", "Models", "diabetes", f"v{version}")
    pages.press("Model training")  # the UI opens on its tools for language models
    pages.open(f"/experiments/{experiment}/models", "Models", "Status", "model", "Ready", names[0], "diabetes", name="models")
    pages.open(
        f"/experiments/{experiment}/models/{model.model_id}",
        *(
            "Metrics (4)",
            "test/rmse",
            "Parameters",
            "penalties.0",
            "Status",
            "Ready",
            "Source run",
            names[0],
            "diabetes",
            f"v{version}",
        ),
        name="model",
    )
    pages.open(
        f"/models/diabetes/versions/{version}",
        "diabetes",
        f"Version {version}",
        "Source Run",
        names[0],
        "Inputs (1)",
        name="registered",
    )
