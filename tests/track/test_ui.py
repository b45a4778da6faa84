"""`make ui` in a real browser: a sweep's runs, two of them compared, and what a run holds.

With CODETUNE_SCREENSHOTS=FOLDER the pictures of docs/ui.md are written there.
"""

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from stages.common.core.stage import Settings
from stages.track.__main__ import main
from stages.track.settings import TrackSettings
from stages.track.view import link_to_view
from tests.helpers.fork_server import free_port
from tests.helpers.sweep_runs import CURVE_STEPS, EVERY, NAME, make_sweep
from tests.helpers.tiny_project import REPOSITORY, Project, environment

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PASS, LOW, HIGH = "0.316667", "0.213059", "0.442338"  # of rank 16: 19 of 60
PATIENCE = 30_000  # milliseconds: a machine may be busy
WINDOW = {"width": 1280, "height": 800}
# The browser's own errands (updates, accounts) fail before they ask a name server
AT_HOME = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def project(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project with a store of its own, which holds the run of its pipeline."""
    project = finished.copy(tmp_path_factory.mktemp("ui") / "project")
    for path in project.root.glob("mlflow.db*"):
        path.unlink()  # it holds the place of the artifacts of what was copied
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("DVC_EXP_NAME", raising=False)
        main(Settings("track", {"track": TrackSettings()}))
    return project


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[str]:
    """The address of what `make ui` starts; it may not answer yet."""
    port = free_port()
    # `-o setup`: this interpreter is the project's, there is nothing to install
    command = ["make", "-f", str(REPOSITORY / "Makefile"), "-o", "setup", "ui", f"PORT={port}"]
    with (project.root.parent / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=project.root,
            env=environment(project.root),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
        try:
            process.wait(20)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def names(project: Project, server: str) -> dict[int, str]:
    """Names of a sweep's runs by rank; they are made while the server starts."""
    with pytest.MonkeyPatch.context() as patch:
        return make_sweep(project.root, patch)


@pytest.fixture(scope="module")
def address(project: Project, server: str, names: dict[int, str]) -> str:
    """Where `make ui` answers."""
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=5):
                return server
        except OSError:
            assert time.monotonic() < end, (project.root.parent / "ui.log").read_text()
            time.sleep(0.1)


@dataclass
class Visitor:
    """A browser, what its user chose once (docs/ui.md says what), and every address that its pages asked."""

    browser: Browser
    chosen: Any
    asked: list[str]

    def page(self) -> Page:
        context = self.browser.new_context(viewport=WINDOW, storage_state=self.chosen)
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: self.asked.append(request.url))
        return context.new_page()


@pytest.fixture(scope="module")
def visitor(address: str) -> Iterator[Visitor]:
    """A visitor after the first page. Neither that nor what comes later asks another host."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=AT_HOME)
        visitor = Visitor(browser, None, [])
        page = visitor.page()
        page.goto(address)
        page.get_by_text("Model training", exact=True).click()
        page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()
        visitor.chosen = page.context.storage_state()
        page.context.close()
        yield visitor
        browser.close()
    hosts = {urlsplit(url).netloc for url in visitor.asked if url.startswith(("http", "ws"))}
    assert hosts == {urlsplit(address).netloc}


@pytest.fixture
def page(visitor: Visitor, address: str) -> Iterator[Page]:
    """The page of the experiment, its runs not unfolded."""
    page = visitor.page()
    page.goto(f"{address}/#/experiments")
    page.get_by_role("link", name="codetune").click()
    page.get_by_text("matching runs").wait_for()
    yield page
    page.context.close()


def row(page: Page, name: str) -> Locator:
    """A run's row of the table, or of its part that holds the names."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def open_sweep(page: Page) -> None:
    row(page, f"sweep {NAME}").get_by_role("button").first.click()


def picture(page: Page, name: str) -> None:
    """A picture for the documents, where one is asked for."""
    if folder := os.environ.get("CODETUNE_SCREENSHOTS"):
        from PIL import Image

        path = Path(folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        place = page.get_by_text(re.compile("^Path: "))  # of the artifacts, on this machine
        page.screenshot(path=path, animations="disabled", mask=[place], mask_color="white")
        Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


def test_the_sweeps_runs_are_listed_below_it_and_two_are_compared(page: Page, names: dict[int, str]) -> None:
    expect(
        page.get_by_text("5 matching runs")
    ).to_be_visible()  # the pipeline's own, the sweep's, its three points
    expect(row(page, names[16])).to_have_count(0)
    open_sweep(page)
    for rank in (4, 16):
        row(page, names[rank]).get_by_role("checkbox").first.check()
    expect(row(page, names[8])).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for part in ("Parameters", "Metrics"):
        page.get_by_role("switch", name=f"{part} - Show diff only").click()
    changed = page.get_by_role("row").filter(has_text="train.lora.rank")
    expect(changed).to_have_count(1)
    assert set(changed.inner_text().split()) == {"train.lora.rank", "4", "16"}
    expect(page.get_by_text("base.name")).to_have_count(0)  # what does not differ
    picture(page, "compare")
    page.locator(".ReactVirtualized__Grid").last.hover()  # the values; the names follow them
    turn_the_wheel(page, until=page.get_by_text("tuned/pass_at_1", exact=True))
    for value in ("0.183", "0.317"):
        expect(page.get_by_text(value, exact=True).last).to_be_visible()


def turn_the_wheel(page: Page, until: Locator) -> None:
    """Scroll what is below the mouse, a table that makes its rows as they come into sight."""
    end = time.monotonic() + PATIENCE / 1000
    while not until.is_visible():
        assert time.monotonic() < end, f"{until} does not come"
        page.mouse.wheel(0, 100)
        page.evaluate("() => new Promise(requestAnimationFrame)")


def test_the_link_that_make_ui_prints_shows_scores_and_intervals(
    page: Page, project: Project, address: str, names: dict[int, str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        link = link_to_view(address.rpartition(":")[2])
    assert "viewStateShareKey" in link
    page.goto(link)
    page.reload()
    page.get_by_text("matching runs").wait_for()
    open_sweep(page)
    for column in ("tuned/pass_at_1", "tuned/pass_at_1_low", "tuned/pass_at_1_high"):
        expect(page.get_by_role("columnheader", name=column, exact=True).first).to_be_visible()
    cells = page.get_by_role("gridcell")
    for value in ("0.183333", "0.233333", "0.316667"):
        expect(cells.filter(has_text=re.compile(f"^{value}$"))).to_be_visible()
    picture(page, "runs")


def test_a_run_shows_parameters_pass_at_1_with_its_interval_datasets_and_curves(
    page: Page, names: dict[int, str]
) -> None:
    open_sweep(page)
    page.get_by_role("link", name=names[16], exact=True).click()
    expect(page.get_by_text("pass@1: base 5 of 60 (8.3%), tuned 19 of 60 (31.7%)")).to_be_visible()
    expect(page.get_by_role("link", name=f"sweep {NAME}")).to_be_visible()
    expect(page.get_by_text("dvc repro")).to_be_visible()
    page.get_by_placeholder("Search metrics").fill("tuned/pass")
    for name, value in (("", PASS), ("_low", LOW), ("_high", HIGH)):
        metric = page.get_by_role("row").filter(
            has=page.get_by_role("link", name=f"tuned/pass_at_1{name}", exact=True)
        )
        expect(metric).to_contain_text(value)
    picture(page, "run")
    page.get_by_placeholder("Search parameters").fill("lora.rank")
    expect(page.get_by_role("row").filter(has_text="train.lora.rank")).to_contain_text("16")
    page.get_by_text("data/packed").click()
    data = page.get_by_role("dialog")
    for dataset, context in (("data/packed", "training"), ("data/benchmarks", "evaluation")):
        expect(data.get_by_role("button", name=dataset)).to_contain_text(context)
    data.get_by_role("button", name="Close").click()
    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_placeholder("Search metric charts").fill("^train/.*loss")
    charts = page.get_by_test_id("experiment-view-compare-runs-card")
    expect(charts).to_have_count(2)
    for name, points in (("train/loss", CURVE_STEPS), ("train/validation_loss", CURVE_STEPS // EVERY)):
        chart = charts.filter(has_text=f"({name})")
        expect(chart.locator(".scatterlayer .point")).to_have_count(points)
    picture(page, "curves")


def test_the_report_and_the_samples_of_a_point_and_of_the_pipelines_own_run(
    page: Page, names: dict[int, str]
) -> None:
    open_sweep(page)
    page.get_by_role("link", name=names[16], exact=True).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("index.html", exact=True).click()
    report = page.frame_locator("iframe")
    expect(report.get_by_role("heading", name="codetune")).to_be_visible()
    expect(report.get_by_text("31.7%").first).to_be_visible()
    picture(page, "report")
    for name in ("evaluate", "tuned", "samples.jsonl"):
        page.get_by_text(name, exact=True).first.click()
    expect(page.get_by_text("evaluate/tuned/samples.jsonl", exact=True)).to_be_visible()
    expect(page.get_by_text('"HumanEval/59"')).to_be_attached()
    page.get_by_role("link", name="Runs").last.click()
    page.get_by_role("link", name="tiny", exact=True).click()
    expect(page.get_by_text("tiny pass@1: base 0 of 4 (0.0%), tuned 0 of 4 (0.0%)")).to_be_visible()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("index.html", exact=True).click()
    report = page.frame_locator("iframe")
    expect(report.get_by_text("tiny").first).to_be_visible()
