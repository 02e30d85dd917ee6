"""The page in a real browser: it sorts, it asks for nothing outside itself, it fits a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from medseg.metrics import Score, Scores
from medseg.phantoms import cells
from medseg.report import Panel, render_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
VALUES = {"a": 0.9, "b": 0.2, "c": 0.5}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    panels = []
    for i, case in enumerate(VALUES):
        image, instances = cells((60, 90), rng=np.random.default_rng(i))
        panels.append(Panel(case, image, instances, instances))
    scores = Scores([Score(case, "ap", "mean", value) for case, value in VALUES.items()])
    return render_report(tmp_path / "report.html", title="Cells", panels=panels, scores=scores)


def dom_after(page: Path, script: str, width: int = 1400) -> str:
    """Return the page as the browser has it after a script ran at the end of it."""
    copy = page.with_name("with-script.html")
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    profile = page.with_name("profile")
    words = [CHROMIUM, "--headless", *QUIET.split(), "--disable-component-update", "--disable-sync"]
    words += [f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom", f"file://{copy}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)  # type: ignore[arg-type]
    return done.stdout


def test_the_table_sorts_by_a_click_and_again_the_other_way(page: Path) -> None:
    click = "document.querySelectorAll('table.sortable thead button')[1].click();"
    table = r"<table[^>]*sortable.*?</table>"
    for times, order in ((1, ["b", "c", "a"]), (2, ["a", "c", "b"])):
        found = re.search(table, dom_after(page, click * times), re.S)
        assert found is not None
        assert re.findall(r'<th scope="row" data-value="(\w)"', found[0]) == order
        assert ("ascending", "descending")[times - 1] in found[0]


def test_pictures_are_ordered_and_nothing_is_asked_from_outside(page: Path) -> None:
    script = """
      const order = document.getElementById('order'); order.value = 'low';
      order.dispatchEvent(new Event('change'));
      const asked = performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'));
      document.body.dataset.asked = asked.length;
      const articles = [...document.querySelectorAll('article')];
      document.body.dataset.order = articles.map((a) => a.dataset.case).join('');
    """
    dom = dom_after(page, script)
    assert 'data-asked="0"' in dom
    assert 'data-order="bca"' in dom


def test_a_phone_needs_no_sideways_scrolling(page: Path) -> None:
    script = "document.body.dataset.wide = document.documentElement.scrollWidth - window.innerWidth;"
    found = re.search(r'data-wide="(-?\d+)"', dom_after(page, script, width=500))
    assert found is not None
    assert int(found[1]) <= 0
