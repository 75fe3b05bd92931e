"""The site builds without a warning and loads nothing from elsewhere; no document has a dead link."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import tracked_files

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def test_the_site_holds_every_page(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert len(pages) > 10
    assert all((site / page).is_file() for page in pages)


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"""<(?:script|img|iframe)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*//|url\(["']?(?:https?:)?//"""
    )
    found = {
        f"{path.relative_to(site)}: {match.group()}"
        for path in site.rglob("*")
        if path.suffix in {".html", ".css"}
        for match in loads.finditer(path.read_text(encoding="utf-8"))
    }
    assert not found


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown file's headings, as repository pages and the site make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dead_links(path: Path) -> list[str]:
    """The links of a Markdown file to files or headings that are not there."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


def test_no_document_has_a_dead_link() -> None:
    documents = [path for path in tracked_files() if path.suffix == ".md"]
    assert ROOT / "README.md" in documents
    dead = {str(path.relative_to(ROOT)): links for path in documents if (links := dead_links(path))}
    assert not dead


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A Title\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#a-title) [b](there.md#none) [c](gone.md) [d](https://example.com/x)\n")
    assert dead_links(page) == ["there.md#none", "gone.md"]
