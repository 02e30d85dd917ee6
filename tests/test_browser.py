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
from medseg.report import Panel, Volume, render_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
# WebGL without a graphics card is drawn by the processor, which some versions do only when asked
QUIET = "--no-sandbox --disable-gpu --enable-unsafe-swiftshader "
QUIET += "--disable-quic --no-first-run --disable-background-networking"
# A browser without a window may show no frame for as long as the test lasts. It has to be said before the
# page asks for its first: a page that waits for a frame asks for no second one.
FRAMES = "window.requestAnimationFrame = (f) => setTimeout(f, 0);"
VALUES = {"a": 0.9, "b": 0.2, "c": 0.5}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    panels = []
    for i, case in enumerate(VALUES):
        image, instances = cells((60, 90), rng=np.random.default_rng(i))
        panels.append(Panel(case, image, instances, instances))
    scores = Scores([Score(case, "ap", "mean", value) for case, value in VALUES.items()])
    return render_report(tmp_path / "report.html", title="Cells", panels=panels, scores=scores)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    panels = []
    for i, case in enumerate("ab"):
        image, instances = cells((24, 60, 40), rng=np.random.default_rng(i), diameter=14)
        reference = (instances > 0).astype(np.uint8)
        reference[:, 30:] *= 2
        prediction = np.where(instances == 1, 0, reference)
        affine = np.diag([-1.0, 0.5, 2.0, 1.0])
        names = {1: "liver", 2: "spleen"}
        panels.append(Volume(case, image, prediction, reference, affine, classes=names))
    return render_report(tmp_path / "report.html", title="Volumes", panels=panels)


def dom_after(page: Path, script: str, width: int = 1400) -> str:
    """Return the page as the browser has it after a script ran at the end of it."""
    copy = page.with_name("with-script.html")
    text = page.read_text().replace("<head>", f"<head><script>{FRAMES}</script>", 1)
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    profile = page.with_name("profile")
    words = [CHROMIUM, "--headless", *QUIET.split(), "--disable-component-update", "--disable-sync"]
    words += [
        f"--user-data-dir={profile}",
        f"--window-size={width},900",
        "--virtual-time-budget=3000",
        "--dump-dom",
        f"file://{copy}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)  # type: ignore[arg-type]
    return done.stdout


@pytest.mark.parametrize(
    ("names", "filled"), [(None, False), ({1: "cell"}, False), ({1: "car", 2: "road"}, True)]
)
def test_several_classes_are_filled_with_their_colours_at_once(
    tmp_path: Path, names: dict[int, str] | None, filled: bool
) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:9, 3:12], labels[11:18, 14:28] = 1, 2 if filled else 1
    panel = Panel("a", labels * 9, labels, classes=names)
    found = dom_after(render_report(tmp_path / "page.html", title="Classes", panels=[panel]), "")
    body = re.search(r"<body[^>]*>", found)
    assert body is not None
    assert ("fills" in body[0]) == filled


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


COUNT = """
  const drawn = (canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let n = 0;
    for (let i = 0; i < data.length; i += 4) n += Math.max(data[i], data[i + 1], data[i + 2]) > 60;
    return n / (data.length / 4);
  };
  const [canvas, other] = document.querySelectorAll('canvas.solid'), out = document.body.dataset;
  const later = (f) => setTimeout(f, 250);
"""


def number(dom: str, name: str) -> float:
    found = re.search(rf'data-{name}="(-?[\d.e-]+)"', dom)
    assert found is not None, name
    return float(found[1])


def test_surfaces_are_drawn_turned_and_hidden(volumes: Path) -> None:
    script = (
        COUNT
        + """
      later(() => {  // what the page itself asked to draw is drawn
      out.all = drawn(canvas);
      out.other = drawn(other);
      const first = canvas.toDataURL();
      canvas.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }));
      later(() => {
        out.turned = Number(canvas.toDataURL() !== first);
        canvas.closest('article').querySelector('[data-look="0"]').click();
        later(() => {
        out.front = drawn(canvas);
        canvas.closest('article').querySelector('input[data-value="1"]').click();
        later(() => {
          out.part = drawn(canvas);
          const paths = [...document.querySelectorAll('path[data-layer]')];
          const hidden = paths.filter((p) => p.style.display === 'none');
          out.hidden = hidden.length;
          out.others = hidden.filter((p) => !p.dataset.layer.endsWith('1')).length;
          for (const who of ['p', 'r'])
            canvas.closest('article').querySelector(`input[data-who="${who}"]`).click();
          later(() => { out.none = drawn(canvas); out.untouched = drawn(other); out.done = 1; });
        });
        });
      });
      });
    """
    )
    dom = dom_after(volumes, script)
    assert number(dom, "done") == 1
    assert number(dom, "all") > 0.03
    assert number(dom, "other") > 0.03
    assert number(dom, "turned") == 1
    assert 0.01 < number(dom, "part") < number(dom, "front")
    assert number(dom, "hidden") > 0
    assert number(dom, "others") == 0
    assert number(dom, "none") < 0.003  # the cross is left
    assert number(dom, "untouched") == number(dom, "other")


def test_planes_are_square_and_can_be_seen_whole(volumes: Path) -> None:
    script = """
      const svg = document.querySelector('svg.plane'), box = () => svg.viewBox.baseVal.width;
      const out = document.body.dataset;
      out.part = box();
      document.getElementById('wholes').click();
      out.whole = box();
      const squares = [...document.querySelectorAll('.square')].map((s) => s.getBoundingClientRect());
      out.square = Math.max(...squares.map((r) => Math.abs(r.width - r.height)));
      out.small = Math.min(...squares.map((r) => r.width));
      const asked = performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'));
      out.asked = asked.length;
      out.wide = document.documentElement.scrollWidth - window.innerWidth;
    """
    for width in (1400, 500):
        dom = dom_after(volumes, script, width)
        assert number(dom, "whole") == 80  # 40 planes of 2 mm
        assert number(dom, "part") <= 80
        assert number(dom, "square") < 1
        assert number(dom, "small") > 250
        assert number(dom, "asked") == 0
        assert number(dom, "wide") <= 0


def test_without_webgl_the_page_says_so(volumes: Path) -> None:
    text = volumes.read_text()
    before = "<script>HTMLCanvasElement.prototype.getContext = () => null;</script>"
    volumes.write_text(text.replace("<script>", before + "<script>", 1))
    script = """
      const shown = (e) => getComputedStyle(e).display !== 'none';
      document.body.dataset.lost = [...document.querySelectorAll('.lost')].filter(shown).length;
    """
    dom = dom_after(volumes, script)
    assert number(dom, "lost") == 2
    assert "needs a browser with JavaScript and WebGL" in dom
