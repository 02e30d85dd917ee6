"""The page: self-contained, escaped, in order, bounded; its verdicts agree with hand-made cases."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from medseg import Refused
from medseg.io.encode import encode_jpeg, encode_png
from medseg.metrics import METRICS, Score, Scores, contingency, score_arrays
from medseg.phantoms import cells
from medseg.report import Gallery, Panel, render_report
from medseg.report.curves import charts, spread
from medseg.report.differences import compare
from medseg.report.pictures import PREDICTION, draw

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """All elements with their attributes, and the text inside each tag name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.text.setdefault(tag, []).append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and all(a.get(k) == v for k, v in wanted.items())]

    def cases(self) -> list[str]:
        return [a["data-case"] for a in self.all("article")]


def panel(case: str, shape: tuple[int, int] = (40, 56), seed: int = 0) -> Panel:
    image, instances = cells(shape, n=4, rng=np.random.default_rng(seed), diameter=10)
    prediction = instances.copy()
    prediction[prediction == 1] = 0
    return Panel(case, image, prediction, instances)


def scores_of(panels: list[Panel]) -> Scores:
    assert all(p.reference is not None for p in panels)
    return Scores.join(
        score_arrays(p.prediction, p.reference, case=p.case, metrics=("ap", "count_error"))
        for p in panels
        if p.reference is not None
    )


def pixels(uri: str) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


@pytest.fixture
def full(tmp_path: Path) -> Page:
    panels = [
        panel(name, seed=k) for k, name in enumerate(["a", "b & <i>c</i>", "<script>alert(1)</script>"])
    ]
    history = [{"step": s, "loss": 1 / s, "lr": 1e-3} | ({"val_loss": 2 / s, "ap": 0.5} if s % 5 == 0 else {})
               for s in range(1, 21)]  # fmt: skip
    path = render_report(
        tmp_path / "report.html",
        title='"Cells" <b>x</b>',
        panels=panels,
        scores=scores_of(panels),
        history=history,
        plan='[patch]\nsize = 64 # fits </pre><script>alert(2)</script>\nname = "a#b"',
        facts={"Device": "<img src=x onerror=alert(3)>"},
    )
    return Page(path)


def test_the_page_asks_for_nothing_outside_itself(full: Page) -> None:
    links = [
        value
        for _, attributes in full.elements
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    ]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")) for link in links)
    style = "".join(full.text["style"])
    assert "url(" not in style
    assert "@import" not in style
    policy = full.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert "default-src 'none'" in policy
    targets = {a["id"] for _, a in full.elements if "id" in a}
    assert {link[1:] for link in links if link.startswith("#")} <= targets


def test_what_is_named_by_users_is_inert(full: Page) -> None:
    assert full.unbalanced == []
    assert full.open == []
    assert len(full.all("script")) == 1
    assert not full.all("img")
    assert not full.all("b", onerror="alert(3)")
    assert full.cases()[2] == "<script>alert(1)</script>"
    assert "".join(full.text["title"]).startswith('"Cells" <b>x</b>')
    assert "</pre><script>alert(2)</script>" in "".join(full.text["pre"])
    assert "<img src=x onerror=alert(3)>" in "".join(full.text["dd"])


def test_the_page_can_be_read_by_everyone(full: Page) -> None:
    assert full.all("html")[0]["lang"] == "en"
    for svg in full.all("svg"):
        named = svg.get("aria-label") or svg.get("aria-labelledby")
        assert svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and named)
    ids = [a["id"] for _, a in full.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_a_comment_of_the_plan_starts_outside_quotes(full: Page) -> None:
    assert "".join(full.text["i"]) == "# fits </pre><script>alert(2)</script>"


def test_the_order_given_is_kept_and_the_table_is_worst_first(tmp_path: Path) -> None:
    scores = Scores(
        [Score("a", "dice", "x", 0.9), Score("b", "dice", "x", 0.2), Score("c", "dice", "x", float("nan"))]
    )
    order = [panel(c) for c in ("c", "a", "b")]
    page = Page(render_report(tmp_path / "r.html", title="t", panels=order, scores=scores))
    assert page.cases() == ["c", "a", "b"]
    assert [a["data-value"] for a in page.all("article")] == ["", "0.9", "0.2"]
    assert [a["data-value"] for a in page.all("th", scope="row") if "data-value" in a] == ["b", "a", "c"]
    assert [a["data-value"] for a in page.all("td") if "data-value" in a] == ["0.2", "0.9", ""]
    text = "".join(page.text["section"])
    assert "0.550" in text  # mean of 0.9 and 0.2
    assert "1 without a value" in text


def test_panels_are_drawn_one_at_a_time_and_no_more_than_shown(tmp_path: Path) -> None:
    drawn = []

    def many() -> Iterator[Panel]:
        for k in range(9):
            drawn.append(k)
            yield panel(f"case {k}", seed=k)

    scores = Scores([Score(f"case {k}", "dice", "x", k / 10) for k in range(9)])
    page = Page(render_report(tmp_path / "r.html", title="t", panels=Gallery(many(), 4), scores=scores))
    assert drawn == [0, 1, 2, 3]
    assert len(page.cases()) == 4
    assert "5 more cases are not shown" in "".join(page.text["p"])
    assert len([a for a in page.all("tr") if "id" in a]) == 9


def test_the_rest_of_a_generator_without_scores_is_told(tmp_path: Path) -> None:
    page = Page(render_report(tmp_path / "r.html", title="t", panels=Gallery((panel(c) for c in "abc"), 2)))
    assert "first 2 cases" in "".join(page.text["p"])
    page = Page(render_report(tmp_path / "r.html", title="t", panels=Gallery((panel(c) for c in "ab"), 2)))
    assert "not shown" not in "".join(page.text["main"])


def test_an_empty_report_and_one_without_reference(tmp_path: Path) -> None:
    assert Page(render_report(tmp_path / "e.html", title="t", panels=[])).cases() == []
    shown = panel("a")
    page = Page(
        render_report(tmp_path / "n.html", title="t", panels=[Panel("a", shown.image, shown.prediction)])
    )
    assert len(page.all("figure")) == 2
    assert "3 objects predicted; no reference" in "".join(page.text["article"])
    empty = np.zeros((5, 9), np.uint16)
    page = Page(render_report(tmp_path / "z.html", title="t", panels=[Panel("z", empty, empty, empty)]))
    assert "0 of 0 objects found" in "".join(page.text["article"])


def test_the_page_stays_small(tmp_path: Path) -> None:
    image, instances = cells((750, 1000), n=40, rng=np.random.default_rng(0), diameter=40)
    path = render_report(
        tmp_path / "r.html",
        title="t",
        panels=Gallery([Panel("a", image, instances, instances)], max_side=512),
    )
    assert path.stat().st_size < 400_000
    boxes = {a["viewbox"] for a in Page(path).all("svg", role="img") if "aria-label" in a}
    assert boxes == {"0 0 512 384"}


def test_a_failure_leaves_the_old_page(tmp_path: Path) -> None:
    path = render_report(tmp_path / "r.html", title="old", panels=[])
    with pytest.raises(Refused):
        render_report(
            path, title="new", panels=[panel("a"), Panel("b", np.zeros((2, 3, 4)), np.zeros((2, 3), int))]
        )
    assert "old" in "".join(Page(path).text["h1"])
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.parametrize(
    ("image", "prediction", "reference"),
    [
        (np.zeros((4, 5, 6)), np.zeros((4, 5), int), None),
        (np.zeros((4, 5, 4)), np.zeros((4, 5), int), None),
        (np.zeros((0, 5)), np.zeros((0, 5), int), None),
        (np.zeros((4, 5), complex), np.zeros((4, 5), int), None),
        (np.zeros((4, 5)), np.zeros((5, 4), int), None),
        (np.zeros((4, 5)), np.zeros((4, 5)), None),
        (np.zeros((4, 5)), np.full((4, 5), -1), None),
        (np.zeros((4, 5)), np.zeros((4, 5), int), np.zeros((3, 4, 5), int)),
    ],
)
def test_what_cannot_be_shown_is_refused(
    image: np.ndarray, prediction: np.ndarray, reference: np.ndarray | None
) -> None:
    with pytest.raises(Refused) as refusal:
        draw(Panel("case 7", image, prediction, reference))
    assert refusal.value.reason == "bad-panel"
    assert "case 7" in str(refusal.value)


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    scores = Scores([Score("a", "dice", "x", 0.9)])
    for given in (scores, None):
        with pytest.raises(Refused) as refusal:
            render_report(tmp_path / "r.html", title="t", panels=[], scores=given, metric="iou")
        assert refusal.value.reason == "unknown-metric"


def test_contours_lie_on_the_object_and_nowhere_else() -> None:
    prediction = np.zeros((700, 800), np.int64)
    prediction[100:200, 300:500] = 70_000
    prediction[200:260, 300:500] = 3
    layer = pixels(draw(Panel("a", np.zeros((700, 800)), prediction)).prediction)
    ink = layer[..., 3] > 0
    assert layer.shape == (700, 800, 4)
    assert (layer[ink][:, :3] == PREDICTION).all()
    assert not ink[prediction == 0].any()
    assert ink[100, 300:500].all()
    assert ink[199, 300:500].all()  # where two objects touch, both are outlined
    assert ink[200, 300:500].all()
    assert not ink[110:190, 310:490].any()


def test_colours_differ_where_objects_touch() -> None:
    grid = np.kron(np.arange(1, 31).reshape(5, 6), np.ones((120, 110), int))
    layer = pixels(draw(Panel("a", np.zeros(grid.shape), grid)).prediction_colours)
    for axis in (0, 1):
        step = np.diff(grid, axis=axis) != 0
        change = (np.diff(layer.astype(int), axis=axis) != 0).any(axis=-1)
        assert (change == step).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (37, 3)])
def test_small_images_are_enlarged_by_whole_pixels(shape: tuple[int, int]) -> None:
    view = draw(Panel("a", np.arange(np.prod(shape)).reshape(shape), np.ones(shape, bool)), max_side=700)
    assert view.height % shape[0] == 0
    assert view.width // shape[1] == view.height // shape[0]
    assert 600 <= max(view.height, view.width) <= 700


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64, bool])
def test_all_kinds_of_images_use_the_whole_range(dtype: type) -> None:
    ramp = np.tile(np.linspace(0, 1, 800), (700, 1))
    scale = 1 if dtype is bool or np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    shown = pixels(draw(Panel("a", (ramp * scale).round().astype(dtype), np.zeros(ramp.shape, int))).image)
    assert shown.min() < 10
    assert shown.max() > 245


def test_values_that_are_no_numbers_do_not_spoil_the_picture() -> None:
    image = np.tile(np.linspace(0, 1, 800), (700, 1))
    image[:100] = np.nan
    image[100:200] = np.inf
    shown = pixels(draw(Panel("a", image, np.zeros(image.shape, int))).image)
    assert shown[20:80].max() < 20
    assert shown[120:180].min() > 235
    assert 100 < shown[400, 400] < 155
    draw(Panel("a", np.full((5, 6), np.nan), np.zeros((5, 6), int)))


def test_colour_images_stay_in_colour() -> None:
    image = np.zeros((700, 800, 3), np.uint8)
    image[..., 0] = 200
    assert (
        np.abs(pixels(draw(Panel("a", image, np.zeros((700, 800), int))).image)[5, 5] - [200.0, 0, 0]).max()
        < 6
    )


def test_verdicts_on_objects() -> None:
    reference = np.zeros((12, 60), int)
    for k in range(6):
        reference[2:10, 10 * k + 1 : 10 * k + 8] = k + 1
    prediction = np.zeros_like(reference)
    prediction[2:10, 1:8] = 9  # 1 found
    prediction[2:10, 11:28] = 4  # 2 and 3 merged
    prediction[2:6, 31:38] = 5  # 4 split in two
    prediction[6:10, 31:38] = 6
    prediction[2:4, 41:48] = 7  # 5 is missed: a quarter is not enough
    prediction[0:2, 55:60] = 2  # false
    verdict = compare(contingency(prediction, reference))
    of = {name: (getattr(verdict, name).nonzero()[0]) for name in verdict.__dataclass_fields__}
    assert (of["found"] + 1).tolist() == [1]
    assert (of["swallowed"] + 1).tolist() == [2, 3]
    assert (of["split"] + 1).tolist() == [4]
    assert (of["missed"] + 1).tolist() == [5, 6]
    ids = np.array([2, 4, 5, 6, 7, 9])
    assert ids[of["false"]].tolist() == [2, 7]
    assert ids[of["merged"]].tolist() == [4]
    assert ids[of["fragment"]].tolist() == [5, 6]


def test_found_missed_and_false_agree_with_ap(rng: np.random.Generator) -> None:
    _, reference = cells((120, 160), n=20, rng=rng, diameter=16, touching=0)
    prediction = np.where(np.isin(reference, [3, 8, 11]), 0, reference)
    prediction[:4, :4] = np.where(reference[:4, :4] == 0, 99, 0)
    verdict = compare(contingency(prediction, reference))
    hits, missed, false = verdict.found.sum(), verdict.missed.sum(), verdict.false.sum()
    expected = score_arrays(prediction, reference, case="a", metrics=("ap",)).value("a", "ap", "0.50")
    assert hits / (hits + missed + false) == pytest.approx(expected)


def test_label_maps_are_judged_by_their_pixels() -> None:
    reference = np.zeros((8, 20), int)
    reference[2:6, 2:8] = 1
    reference[2:6, 12:18] = 2
    names = {1: "liver", 2: "spleen"}
    swapped = np.where(reference == 2, 1, reference)
    swapped[2, 2:8] = 0
    swapped[0, :6] = 1
    view = draw(Panel("a", reference, swapped, reference, classes=names))
    assert view.comparison is None
    assert view.sums == (
        ("missed", "12% of the reference missed"),
        ("false", "12% of the prediction false"),
        ("mixed", "57% of what both hold of another class"),
    )
    assert draw(Panel("a", reference, reference, reference, classes=names)).sums == (
        ("plain", "no pixel is wrong"),
    )
    as_objects = draw(Panel("a", reference, np.where(reference == 2, 3, reference), reference)).comparison
    assert as_objects is not None
    assert as_objects.found.all()


def test_curves_hold_every_row_that_has_a_number(full: Page) -> None:
    lines = {a["data-series"]: a for a in full.all("polyline")}
    assert {name: a["data-n"] for name, a in lines.items()} == {"loss": "20", "val_loss": "4", "ap": "4"}
    assert len(lines["loss"]["points"].split()) == 20


def test_curves_fall_where_the_loss_falls() -> None:
    rows = [
        {"step": 10, "loss": 2.0},
        {"step": 20, "loss": 1.0, "dice": None},
        {"step": 30, "loss": float("nan")},
    ]
    (chart,) = charts(rows)
    (x1, y1), (x2, y2) = chart.lines[0].points
    left, top, right, bottom = chart.frame
    assert x1 == left
    assert x2 == pytest.approx((left + right) / 2)
    assert top <= y1 < y2 <= bottom  # downwards in a picture is towards larger y
    assert charts([]) == []


def test_long_curves_are_averaged_and_say_so() -> None:
    (chart,) = charts([{"step": s, "loss": float(s % 2)} for s in range(4000)])
    points = chart.lines[0].points
    assert len(points) == 400
    assert len({y for _, y in points}) == 1  # the mean of ten alternating values
    assert "mean of 10 steps" in chart.note


def test_a_loss_over_decades_gets_a_logarithmic_axis() -> None:
    (chart,) = charts([{"step": s, "loss": 10.0 ** (1 - s)} for s in range(4)])
    gaps = np.diff([y for _, y in chart.lines[0].points])
    assert np.allclose(gaps, gaps[0], atol=0.2)


def test_the_spread_has_one_dot_a_case_inside_the_frame() -> None:
    values = (
        {f"c{k}": k / 400 for k in range(400)} | {"nan": float("nan")} | {f"s{k}": 0.5 for k in range(50)}
    )
    chart = spread(values)
    assert chart is not None
    assert len(chart.lines) == 450
    places = np.array([line.points[0] for line in chart.lines])
    left, top, right, bottom = chart.frame
    assert (places >= [left - 8, top]).all()
    assert (places <= [right + 8, bottom]).all()
    assert spread({"a": float("nan")}) is None


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3), (3, 5, 4), (1, 1)])
def test_png_is_lossless(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(pixels("," + base64.b64encode(encode_png(array)).decode()), array)


@pytest.mark.parametrize("bad", [np.zeros((3, 5)), np.zeros((3, 5, 2), np.uint8), np.zeros((0, 5), np.uint8)])
def test_encoders_refuse_what_is_no_picture(bad: np.ndarray) -> None:
    for encode in (encode_png, encode_jpeg):
        with pytest.raises(Refused) as refusal:
            encode(bad)
        assert refusal.value.reason == "not-a-picture"
    with pytest.raises(Refused):
        encode_jpeg(np.zeros((3, 5), np.uint8), quality=0)


def test_parts_stand_beside_their_metric(tmp_path: Path) -> None:
    shown = panel("a")
    rows = [Score("a", "pq", "objects", 0.5), Score("a", "pq", "sq", 0.8), Score("a", "pq", "rq", 0.625)]
    rows += [Score("a", "vi", "split", 0.25, "bits"), Score("a", "vi", "objects", 1.25, "bits")]
    rows += [Score("a", "ap", "0.50", 0.75), Score("a", "ap", "mean", 0.7)]
    page = Page(render_report(tmp_path / "r.html", title="t", panels=[shown], scores=Scores(rows)))
    spans = [" ".join(text.split()) for text in "".join(page.text["article"]).split("\n")]
    assert "pq 0.500 sq 0.800, rq 0.625" in spans
    assert "vi 1.25 bits split 0.250" in spans
    assert "ap mean 0.700" in spans
    assert [text.strip(" ↕") for text in page.text["button"][-8:]] == [
        "Case", "pq", "pq sq", "pq rq", "vi split (bits)", "vi (bits)", "ap 0.50", "ap mean",
    ]  # fmt: skip
    known = "".join(page.text["dl"])
    assert all(METRICS[name].summary in known for name in ("pq", "vi", "ap"))
    assert "higher is better" in known


def test_all_classes_together_are_told_from_a_single_number(tmp_path: Path) -> None:
    rows = [Score("a", "volume_ml", label, 2.0, "ml") for label in ("liver", "all")]
    rows += [Score("a", "pixel_error", "all", 0.01)]
    page = Page(render_report(tmp_path / "r.html", title="t", panels=[], scores=Scores(rows)))
    assert {"volume_ml liver", "volume_ml all", "pixel_error"} <= set(page.text["button"])
    left = [text for text in page.text["td"] if text in ("liver", "all")]
    assert left == ["liver", "all"]
