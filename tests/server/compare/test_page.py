"""The comparison's page as a person opens it: from disk, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedstill.server.compare import write_page
from fedstill.server.compare.records import Comparison

TWO = {"local": {0: 0.50, 1: 0.52, 2: 0.54}, "teacher": {0: 0.9, 1: 0.91, 2: 0.93}}
SWEPT = {
    f"{scheme} distill.temperature={value}": {seed: base + value / 100 + seed / 50 for seed in (0, 1)}
    for scheme, base in (("local", 0.4), ("teacher", 0.8))
    for value in (1, 4)
}


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a comparison's page; complaints of the page and its requests are kept on it."""
    pages = []

    def opener(comparison: Comparison, **options: Any) -> Any:
        page = browser.new_page(**options)
        pages.append(page)
        page.complaints, page.requested = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(write_page(comparison, tmp_path).as_uri())
        return page

    yield opener
    for page in pages:
        page.close()


def test_the_page_opens_from_disk_and_asks_for_nothing_else(write_comparison: Any, open_page: Any) -> None:
    page = open_page(write_comparison(TWO))

    assert len(page.requested) == 1
    assert page.complaints == []
    assert all(picture.is_visible() for picture in page.locator("figure svg").all())
    assert page.locator("figure svg").count() == 3


def test_means_spreads_and_winner_are_visible(write_comparison: Any, open_page: Any) -> None:
    page = open_page(write_comparison(TWO))

    assert "0.520 ± 0.020" in page.locator(".cells tbody tr").nth(0).inner_text()
    assert "0.913 ± 0.015 best" in page.locator(".cells tbody tr").nth(1).inner_text()
    assert page.get_by_text("teacher is best.").first.is_visible()
    assert page.get_by_text("All are equal.").first.is_visible()


def test_every_run_links_to_its_report(write_comparison: Any, open_page: Any) -> None:
    page = open_page(write_comparison(TWO))

    links = [link.get_attribute("href") for link in page.locator(".runs a").all()]
    assert len(links) == 6
    assert links[0] == "runs/local_seed%3D0/report.html"


def test_failed_runs_stand_before_the_figures(write_comparison: Any, open_page: Any) -> None:
    page = open_page(write_comparison(TWO, failures={"local_seed=2": "<b>boom</b>"}))

    assert "failed and is in no mean: <b>boom</b>" in page.locator(".notes").inner_text()
    assert "2 (1 failed)" in page.locator(".cells tbody tr").first.inner_text()


def test_command_stands_ready_to_be_copied(write_comparison: Any, open_page: Any) -> None:
    page = open_page(write_comparison(SWEPT, sweeps=("distill.temperature=1,4",)))

    assert page.locator("pre").inner_text() == (
        "fedstill compare --schemes local,teacher --seeds 0,1 --sweep distill.temperature=1,4"
    )


def test_no_finished_run_still_makes_a_page(write_comparison: Any, open_page: Any) -> None:
    page = open_page(write_comparison({"nothing": {0: 0.0}}))

    assert page.get_by_text("No run is finished.").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_page(write_comparison: Any, open_page: Any, scheme: str) -> None:
    page = open_page(write_comparison(SWEPT, sweeps=("distill.temperature=1,4",)), color_scheme=scheme)

    paper, *inks = page.evaluate(
        """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
          ...[...document.querySelectorAll('figure svg text')].map(text => getComputedStyle(text).fill)]"""
    )
    lines = page.evaluate(
        """() => [...Array(8).keys()].map(number => {
          const line = document.body.appendChild(document.createElement('i'));
          line.style.color = `var(--series-${number})`;
          return getComputedStyle(line).color;
        })"""
    )

    assert (luminance(paper) < 0.1) == (scheme == "dark")
    assert min(contrast(paper, ink) for ink in inks) >= 4.5
    assert min(contrast(paper, line) for line in lines) >= 3


def luminance(colour: str) -> float:
    channels = [int(channel) / 255 for channel in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_phone_scrolls_tables_and_not_the_page(write_comparison: Any, open_page: Any) -> None:
    comparison = write_comparison(SWEPT, sweeps=("distill.temperature=1,4",))

    page = open_page(comparison, viewport={"width": 360, "height": 740})

    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_same_figures_give_the_same_bytes(write_comparison: Any, tmp_path: Path) -> None:
    comparison = write_comparison(TWO)

    assert write_page(comparison, tmp_path).read_bytes() == write_page(comparison, tmp_path).read_bytes()
