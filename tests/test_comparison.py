"""The page that compares systems: what stands in it, what is best, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from medseg import Refused
from medseg.phantoms import cells
from medseg.report import Column, Shown, System, comparison_markdown, render_comparison

COLUMNS = [Column("iou", "region"), Column("error", "region", higher_is_better=False), Column("nsd", "rim")]
SYSTEMS = [
    System("plain", {"iou": (0.5, 0.7), "error": (0.3, 0.5), "nsd": (math.nan, 0.2)}, {"parameters": "3 M"}),
    System("<b>bold</b>", {"iou": (0.4, 0.4), "error": (0.1, 0.2)}, {"seconds": "2"}, note="A & B"),
]


def test_the_table_has_means_deviations_and_the_best(tmp_path: Path) -> None:
    text = comparison_markdown(COLUMNS, SYSTEMS)
    assert text.splitlines() == [
        "| system | iou | error | nsd | parameters | seconds |",
        "|---|---|---|---|---|---|",
        "| plain | **0.600 ± 0.141** | 0.400 ± 0.141 | **0.200** | 3 M |  |",
        "| <b>bold</b> | 0.400 ± 0.000 | **0.150 ± 0.071** | - |  | 2 |",
    ]
    page = render_comparison(tmp_path / "a.html", title="T", columns=COLUMNS, systems=SYSTEMS).read_text()
    assert "0.600 ± 0.141" in page
    assert "<b>0.150 ± 0.071</b>" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert "A &amp; B" in page
    assert page.count("<circle") == 4 + 2 + 2 + 1
    assert 'colspan="2" scope="colgroup">region' in page


def test_every_system_is_shown_on_every_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shown = []
    for number in range(2):
        image, truth = cells((48, 70), n=4, diameter=14, rng=rng)
        half = np.where(truth % 2, truth, 0)
        found = {"plain": half, "<b>bold</b>": truth}
        shown.append(Shown(f"image {number}", image, truth, found, {"plain": "dice 0.5"}))
    page = render_comparison(
        tmp_path / "a.html", title="T", columns=COLUMNS, systems=SYSTEMS, shown=iter(shown), facts={"a": "b"}
    ).read_text()
    assert page.count("<figure>") == 2 * 3
    assert page.count("data:image/jpeg") == 2, "each image once"
    assert "plain, dice 0.5" in page
    assert "src=" not in page
    assert "http" not in page.replace('http-equiv="', "")


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        render_comparison(tmp_path / "a.html", title="T", columns=COLUMNS, systems=[])
    assert caught.value.reason == "nothing-to-compare"
    bad = Shown("x", np.zeros((4, 5)), np.zeros((4, 5), int), {"plain": np.zeros((5, 4), int)})
    with pytest.raises(Refused, match="cannot be shown"):
        render_comparison(tmp_path / "a.html", title="T", columns=COLUMNS, systems=SYSTEMS, shown=[bad])
    assert not (tmp_path / "a.html").exists()
