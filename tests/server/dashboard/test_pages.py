"""The dashboard as a person uses it: every view in a real browser, with pointer, keyboard and phone."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fleet_folder import FleetFolder
from fedstill.common.compressors import make_plan

VIEWS = {
    "runs": "#/",
    "fleet": "#/run/small",
    "died": "#/run/died",
    "nodes": "#/run/small/nodes",
    "node": "#/run/small/node/node-0003",
    "tradeoff": "#/run/small/tradeoff",
    "exchange": "#/run/died/exchange",
    "compare": "#/compare?runs=small,died,large",
}
CHARTS = {"runs": 0, "fleet": 4, "died": 4, "nodes": 0, "node": 3, "tradeoff": 1, "exchange": 4, "compare": 2}
SIZES = {
    "light": {"color_scheme": "light", "viewport": {"width": 1360, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1360, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 375, "height": 740}, "has_touch": True},
}
# Text and what lies behind it, for every piece of text in sight.
READ_TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    if (!text || !box.width || !box.height) continue;
    if (element.closest('[hidden], :disabled, #skip, noscript')) continue;
    const clear = (part) => /, 0\\)$|transparent/.test(getComputedStyle(part).backgroundColor);
    let behind = element;
    while (behind && clear(behind)) behind = behind.parentElement;
    const paper = getComputedStyle(behind ?? document.documentElement).backgroundColor;
    found.push([text, getComputedStyle(element).color, paper]);
  }
  return found;
}"""


@pytest.fixture
def open_view(browser: Any, dashboard: str) -> Iterator[Callable[..., Any]]:
    """Opens a view; complaints of the page and its requests are kept on it."""
    pages = []

    def opener(view: str, *, address: str = dashboard, size: str = "light", wait: bool = True) -> Any:
        page = browser.new_page(**SIZES[size])
        pages.append(page)
        page.complaints, page.requested = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(f"{address}/{view}")
        if wait:
            page.wait_for_selector("main:not(.waiting)")
        return page

    yield opener
    for page in pages:
        page.close()


def until(holds: Callable[[], Any], seconds: float = 20) -> None:
    """Waits for something that the page's policy keeps Playwright from waiting for by itself."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shown_nodes(page: Any) -> list[str]:
    return page.locator(".grid .body .row:not([hidden]) .cell:first-child").all_inner_texts()


def luminance(colour: str) -> float:
    channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_reads_well_and_stays_at_home(
    open_view: Any, dashboard: str, tmp_path: Path, view: str, size: str
) -> None:
    page = open_view(VIEWS[view], size=size)
    until(lambda: page.locator(".uplot canvas").count() == CHARTS[view] and page.locator("h1").count())

    picture = page.screenshot(path=tmp_path / f"{view}-{size}.png", full_page=True)

    assert len(picture) > 15_000
    assert page.complaints == []
    assert {url.partition("/api")[0].partition("/static")[0].rstrip("/") for url in page.requested} == {
        dashboard
    }
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size]["viewport"]["width"]
    texts = page.evaluate(READ_TEXTS)
    assert len(texts) > 20
    faint = [(text, ink, paper) for text, ink, paper in texts if contrast(ink, paper) < 4.5]
    assert faint == []
    assert (luminance(texts[0][2]) < 0.1) == (size == "dark")


def test_charts_say_what_they_show(open_view: Any) -> None:
    page = open_view(VIEWS["fleet"])
    page.wait_for_selector(".uplot canvas")

    labels = [plot.get_attribute("aria-label") for plot in page.locator(".plot").all()]

    assert re.match(r"Accuracy by round: students 0\.\d{3} after round 4, teacher 0\.981", labels[0])
    assert re.match(r"Accuracy against bytes: 12 points; the best is node-\d{4}: 0\.\d{3}, .* kB", labels[1])


def test_figures_are_those_of_the_summary(open_view: Any, runs_dir: Path) -> None:
    fleet = json.loads((runs_dir / "small" / "summary.json").read_text())["fleet"]

    tiles = open_view(VIEWS["fleet"]).locator(".tiles").inner_text()

    for figure in (fleet["accuracy_mean"], fleet["local_accuracy_mean"], fleet["accuracy_min"], 0.981):
        assert f"{figure:.3f}" in tiles


def test_a_click_on_a_heading_sorts_and_another_turns_round(open_view: Any) -> None:
    page = open_view("#/run/large/nodes")
    column = "document.querySelectorAll('.grid .body .row:not([hidden])')[{}].children[2].textContent"

    def ends() -> tuple[float, float]:
        return float(page.evaluate(column.format(0))), float(page.evaluate(column.format(9)))

    page.get_by_role("button", name="Accuracy", exact=True).click()
    best = ends()
    page.get_by_role("button", name="Accuracy", exact=True).click()
    worst = ends()

    assert best[0] >= best[1] > worst[1] >= worst[0]
    assert page.locator("[aria-sort=ascending]").inner_text().startswith("Accuracy")


def test_a_thousand_rows_are_a_few_elements_and_all_can_be_reached(open_view: Any) -> None:
    page = open_view("#/run/large/nodes")
    grid = page.get_by_role("grid")

    assert grid.get_attribute("aria-rowcount") == "1001"
    assert page.locator(".grid .row").count() < 80
    grid.evaluate("element => { element.scrollTop = element.scrollHeight; }")
    page.get_by_text("node-0999").wait_for()
    assert page.locator(".grid .row").count() < 80


def test_nodes_are_searched_and_filtered(open_view: Any) -> None:
    page = open_view("#/run/large/nodes")
    page.get_by_label("Student", exact=True).select_option("cnn-tiny")
    assert page.locator("output").inner_text() == "250 of 1,000"
    page.get_by_label("Search nodes").fill("node-004")
    assert shown_nodes(page) == ["node-0040", "node-0044", "node-0048"]
    page.get_by_label("Search nodes").fill("no such")
    assert page.get_by_text("No node fits.").is_visible()


def test_nodes_in_trouble_are_found(open_view: Any, runs_dir: Path) -> None:
    lines = (runs_dir / "died" / "log.jsonl").read_text().splitlines()
    dropped = {line["node"] for line in map(json.loads, lines) if line["event"] == "reply_dropped"}
    page = open_view("#/run/died/nodes")

    page.get_by_label("Which nodes").select_option("dropped")

    assert set(shown_nodes(page)) == dropped


def test_a_row_opens_its_node_with_history_and_plan(open_view: Any) -> None:
    page = open_view(VIEWS["nodes"])
    page.get_by_text("node-0005").click()
    page.wait_for_selector("h2:has-text('Compression plan')")

    assert page.url.endswith("#/run/small/node/node-0005")
    assert page.locator(".heading h2").inner_text() == "node-0005"
    assert "cnn-small" in page.get_by_label("Compression plan").inner_text()
    page.get_by_label("Next node: node-0006").click()
    page.get_by_role("heading", name="node-0006").wait_for()


def test_a_plan_tells_what_was_applied_and_what_each_step_cost(
    open_view: Any, serve: Any, runs_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs_dir / "small", tmp_path / "small")
    artefact = tmp_path / "small" / "nodes" / "node-0003" / "artefact"
    artefact.mkdir(parents=True)
    steps = [
        {"step": "prune", "accuracy_before": 0.98, "bytes_before": 40_000, "bytes_after": 12_000},
        {"step": "quantise", "accuracy_before": 0.97, "bytes_before": 12_000, "bytes_after": 7_900},
    ]
    plan = make_plan(steps="prune,quantise", prune_ratio=0.3)
    compression = {"method": "static int8", "bits": 8, "steps": steps, "plan": plan.to_json()}
    (artefact / "manifest.json").write_text(json.dumps({"width": 1.0, "compression": compression}))

    with serve(tmp_path) as address:
        page = open_view("#/run/small/node/node-0003", address=address)
        table = page.get_by_label("Compression plan")
        table.get_by_text("plan · prune ratio").wait_for()
        told = table.inner_text()
        assert page.complaints == []

    assert "[object" not in told
    assert re.search(r"steps · prune · bytes before\s+40\.0 kB", told)
    assert re.search(r"steps · quantise · accuracy before\s+0\.97", told)
    assert re.search(r"plan · prune ratio\s+0\.3", told)
    for unused in ("sparsity", "pattern", "energy", "rank", "group size", "qat"):
        assert f"plan · {unused}" not in told


def test_a_plan_that_is_not_collected_yet_has_no_idle_settings_either(open_view: Any) -> None:
    table = open_view(VIEWS["node"]).get_by_label("Compression plan")
    table.get_by_text("plan · steps").wait_for()

    assert "plan · bits" in table.inner_text()
    assert "prune" not in table.inner_text()


def test_the_command_that_goes_on_with_a_run_names_its_folder(open_view: Any, runs_dir: Path) -> None:
    command = open_view(VIEWS["died"]).locator(".progress code, p code").first.inner_text()

    assert shlex.split(command) == ["fedstill", "simulate", "--resume", str((runs_dir / "died").resolve())]


def test_losses_near_zero_are_told_in_digits(
    open_view: Any, serve: Any, runs_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(runs_dir / "small", folder)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        for node in line["nodes"]:
            node["distillation_loss"] = 1.234e-5 / line["round"]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    with serve(tmp_path) as address:
        for view in ("", "/node/node-0003"):
            page = open_view(f"#/run/tiny{view}", address=address)
            figure = page.locator("figure", has=page.get_by_role("heading", name=re.compile("[Ll]oss")))
            figure.get_by_text("3.09×10⁻⁶").wait_for()
            assert "0.0000" not in figure.inner_text()
            assert page.complaints == []


def test_a_node_that_is_none_is_said(open_view: Any) -> None:
    page = open_view("#/run/small/node/nobody")

    page.get_by_text("nobody: no such node.").wait_for()


def test_a_point_tells_its_node_and_leads_there(open_view: Any) -> None:
    page = open_view(VIEWS["tradeoff"])
    box = page.locator(".u-over").bounding_box()
    label = page.locator(".plot").get_attribute("aria-label")
    best = re.search(r"node-\d{4}", label).group()
    spots = ((x, y) for x in range(4, int(box["width"] / 2), 8) for y in range(2, 120, 8))
    for x, y in spots:
        page.mouse.move(box["x"] + x, box["y"] + y)
        if page.locator(".tip").is_visible() and best in page.locator(".tip").inner_text():
            break
    page.mouse.down()
    page.mouse.up()

    page.wait_for_url(f"**/#/run/small/node/{best}")


def test_other_costs_and_gains_can_be_chosen(open_view: Any) -> None:
    page = open_view(VIEWS["tradeoff"])

    page.get_by_label("Cost", exact=True).select_option("latency_seconds")
    page.get_by_label("Gain", exact=True).select_option("private_accuracy")

    assert page.locator("figure h3").inner_text() == "Private accuracy against latency"
    assert "µs" in page.get_by_label("The front").inner_text()


def test_events_are_filtered(open_view: Any) -> None:
    page = open_view(VIEWS["exchange"])
    everything = page.locator(".log li").count()

    page.get_by_label("Level").select_option("warning")
    warnings = page.locator(".log li").all_inner_texts()

    assert 0 < len(warnings) < everything
    assert all("reply dropped (error): connection reset by peer" in text for text in warnings)
    assert f"{len(warnings)}" in page.get_by_label("Faults").inner_text()


def test_runs_are_chosen_and_compared(open_view: Any) -> None:
    page = open_view(VIEWS["runs"])
    page.get_by_text("Choose runs to compare").click()
    assert page.get_by_role("button", name="Compare").is_disabled()
    page.get_by_label("small").check()
    page.get_by_label("large").check()
    page.get_by_role("button", name="Compare").click()

    table = page.get_by_label("Figures of the runs")
    table.wait_for()
    assert {"small", "large"} <= set(table.get_by_role("link").all_inner_texts())
    assert "federation.num_nodes" in page.get_by_label("Differing keys").inner_text()


def test_the_keyboard_is_enough(open_view: Any) -> None:
    page = open_view(VIEWS["runs"])
    page.keyboard.press("/")
    page.keyboard.type("small")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "grid":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("nav a[aria-current]:has-text('Fleet')")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Nodes":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector(".grid")
    page.evaluate("document.querySelector('.grid').focus()")
    for key in ("ArrowDown", "ArrowDown", "End", "Home", "ArrowDown", "Enter"):
        page.keyboard.press(key)

    page.wait_for_url("**/#/run/small/node/node-0001")
    assert page.complaints == []


def test_everything_that_can_be_clicked_can_be_reached_with_the_keyboard(open_view: Any) -> None:
    for view in ("runs", "fleet", "nodes", "exchange"):
        page = open_view(VIEWS[view])
        wanted = page.evaluate(
            "[...document.querySelectorAll('a[href], button, select, input, summary, [tabindex=\"0\"]')]"
            ".filter(element => element.checkVisibility() && !element.disabled).length"
        )
        page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(3 * wanted):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        assert len(reached) >= wanted, view


def test_the_theme_is_chosen_and_kept(open_view: Any) -> None:
    page = open_view(VIEWS["fleet"])
    button = page.get_by_role("button", name=re.compile("Theme"))
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(paper)

    button.click()
    button.click()
    dark = page.evaluate(paper)
    page.reload()

    assert luminance(dark) < 0.1 < luminance(light)
    assert page.evaluate(paper) == dark
    assert button.inner_text() == "Theme: dark"


def test_a_print_has_every_row(open_view: Any) -> None:
    page = open_view("#/run/large/nodes")

    page.emulate_media(media="print")
    until(lambda: len(shown_nodes(page)) == 1000)

    assert not page.locator(".tools").is_visible()


def test_a_live_run_moves_without_being_asked(open_view: Any, serve: Any, tmp_path: Path) -> None:
    with (
        FleetFolder(tmp_path / "live", num_nodes=8, num_rounds=4, fail_ratio=0.0) as fleet,
        serve(tmp_path) as address,
    ):
        page = open_view("#/run/live", address=address)
        page.get_by_text("0 of 4 rounds committed").wait_for()
        asked = len(page.requested)
        fleet.close_round()
        page.get_by_text("1 of 4 rounds committed").wait_for()
        fleet.start_round(num_answered=5)
        page.get_by_text("5 of 8 nodes answered").wait_for()
        fleet.close_round()
        fleet.finish()
        page.wait_for_selector(".status.finished")

        assert re.match(
            r"Accuracy by round: .* after round 2", page.locator(".plot").first.get_attribute("aria-label")
        )
        assert page.requested[asked:] == []
        assert page.complaints == []


def test_a_server_that_ends_is_said(open_view: Any, serve: Any, runs_dir: Path) -> None:
    with serve(runs_dir) as address:
        page = open_view("#/run/small", address=address)
        assert not page.locator("#link").is_visible()

    page.get_by_text("Connection lost; trying again.").wait_for()


def test_what_a_run_wrote_is_text_and_never_markup(
    open_view: Any, serve: Any, runs_dir: Path, tmp_path: Path
) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.toml", "rounds.jsonl", "summary.json"):
        (folder / name).write_text((runs_dir / "small" / name).read_text().replace("node-0001", hostile))
    line = {
        "time": "2026-01-01T00:00:00+00:00",
        "level": "warning",
        "event": "warned",
        "node": hostile,
        "text": hostile,
    }
    (folder / "log.jsonl").write_text(json.dumps(line) + "\n")

    with serve(tmp_path) as address:
        for view in ("", "/nodes", "/exchange"):
            page = open_view(f"#/run/run{view}", address=address)
            page.get_by_text(hostile).first.wait_for()
            assert page.locator("img").count() == 0
            assert page.complaints == []


def test_a_link_with_the_token_signs_in(open_view: Any, serve: Any, runs_dir: Path) -> None:
    with serve(runs_dir, token="correct-horse-battery") as address:
        page = open_view("login#correct-horse-battery", address=address)
        page.get_by_role("heading", name="Runs").wait_for()
        wrong = open_view("login#guess", address=address, wait=False)
        wrong.get_by_text("That is not the token.").wait_for()

    assert not any("battery" in url.partition("#")[0] for url in page.requested)
