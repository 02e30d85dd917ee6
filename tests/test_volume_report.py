"""Volumes on the page: sides, proportions, the place of the largest error, surfaces, in every orientation."""

from __future__ import annotations

import base64
import itertools
import re
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.measure import label, points_in_poly
from test_report import Page, pixels

from medseg import Refused
from medseg.io import raster_affine, write
from medseg.jobs import report
from medseg.jobs.manifest import Manifest, Predicted
from medseg.metrics import Score, Scores, contingency
from medseg.phantoms import cells
from medseg.report import Gallery, Volume, render_report
from medseg.report.place import telling_place, wrong_voxels
from medseg.report.planes import outline
from medseg.report.surfaces import MOST_VERTICES, Mesh, solid
from medseg.report.tables import case_table, heading
from medseg.report.volumes import VolumeView, draw_volume

SHAPE, SPACING = (12, 20, 16), (0.8, 1.5, 4.0)
ORIENTATIONS = [
    "".join(side[bit] for side, bit in zip(sides, bits))
    for sides in itertools.permutations(("LR", "PA", "IS"))
    for bits in itertools.product((0, 1), repeat=3)
]
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def oblique(codes: str, degrees: float = 17.0) -> np.ndarray:
    """Affine of an array whose axes point about where the letters say, turned by some degrees."""
    matrix = np.zeros((3, 3))
    for axis, code in enumerate(codes):
        world, sign = AXES[code]
        matrix[world, axis] = sign * SPACING[axis]
    affine = np.eye(4)
    affine[:3, :3] = (
        Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, -0.48, 0.64])).as_matrix() @ matrix
    )
    affine[:3, 3] = (-12.0, 33.0, 250.0)
    return affine


def world(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """World coordinates of every voxel, shape (3, X, Y, Z)."""
    return np.tensordot(affine[:3, :3], np.indices(shape), axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)


def boxes() -> tuple[np.ndarray, np.ndarray]:
    """A prediction with one large and one small error, and its reference."""
    reference = np.zeros(SHAPE, np.uint8)
    reference[2:8, 3:12, 4:12] = 1
    prediction = reference.copy()
    prediction[8:11, 5:8, 9:12] = 1
    prediction[1, 17, 2] = 2
    return prediction, reference


def decoded(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    points = np.frombuffer(base64.b64decode(mesh.points), "<i2").reshape(-1, 3) / 32767
    return points, np.frombuffer(base64.b64decode(mesh.triangles), "<u2").reshape(-1, 3)


def voxel(view: VolumeView) -> tuple[int, ...]:
    found = re.search(r"voxel (\d+), (\d+), (\d+)", view.place)
    assert found is not None
    return tuple(int(v) for v in found.groups())


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_sides_and_proportions_are_right_for_every_orientation(codes: str) -> None:
    affine = oblique(codes)
    assert "".join(nibabel.aff2axcodes(affine)) == codes
    prediction, reference = boxes()
    places = world(affine, SHAPE)
    axis_of = {AXES[code][0]: axis for axis, code in enumerate(nibabel.aff2axcodes(affine))}
    extents = [SHAPE[axis_of[w]] * SPACING[axis_of[w]] for w in range(3)]  # to the right, to the front, up
    for towards, (light, dark) in enumerate(("RL", "AP", "SI")):
        view = draw_volume(Volume("a", places[towards], prediction, reference, affine), surfaces=False)
        assert f"axes {codes}, tilted by up to 1" in view.facts
        assert [plane.name for plane in view.planes] == ["axial", "coronal", "sagittal"]
        for plane, (across, down) in zip(view.planes, ((0, 1), (0, 2), (1, 2))):
            assert (plane.width, plane.height) == pytest.approx((extents[across], extents[down]))
            # brightness is how far a voxel lies towards one side: that side of the picture is the brighter
            shown = pixels(plane.image).astype(float)
            assert shown.shape == (SHAPE[axis_of[down]], SHAPE[axis_of[across]])
            left, right, top, bottom = plane.letters
            if towards == across:
                assert (left, right) == (light, dark)
                assert shown[:, 0].mean() > shown[:, -1].mean()
            elif towards == down:
                assert (top, bottom) == (light, dark)
                assert shown[0].mean() > shown[-1].mean()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPL", "AIR", "PSR"])
def test_the_planes_go_through_the_planted_error(codes: str) -> None:
    affine = oblique(codes)
    prediction, reference = boxes()
    view = draw_volume(Volume("a", prediction * 5.0, prediction, reference, affine, classes={1: "liver"}))
    pieces = label(prediction != reference, connectivity=1)
    largest = np.bincount(pieces[pieces > 0]).argmax()
    at = voxel(view)
    assert pieces[at] == largest
    assert "mostly" not in view.place
    assert "false liver" in view.place
    amount = (pieces == largest).sum() * np.prod(SPACING) / 1000
    assert f"Largest wrong region: {amount:.3g} ml, {27 / 28:.0%} of what is wrong" in view.place
    x, y, z = affine[:3] @ (*at, 1)
    sides = [pair[int(w > 0)] + f" {abs(w):.0f}" for pair, w in zip(("LR", "PA", "IS"), (x, y, z))]
    assert ", ".join(sides) + " mm" in view.place.replace("\N{NO-BREAK SPACE}", " ")
    for plane in view.planes:  # the wrong voxels of the plane are tinted, the place among them
        tint = pixels(plane.tint)[..., 3] > 0
        row = int(plane.cross[1] / plane.height * tint.shape[0])
        column = int(plane.cross[0] / plane.width * tint.shape[1])
        assert tint[row, column]
    axis = "".join(nibabel.aff2axcodes(affine)).translate(str.maketrans("LPI", "RAS")).index("S")
    axial = np.moveaxis(prediction != reference, axis, 0)[at[axis]]
    assert tint_count(view, 0) == axial.sum()


def tint_count(view: VolumeView, plane: int) -> int:
    return int((pixels(view.planes[plane].tint)[..., 3] > 0).sum())


def test_the_picture_of_a_plane_is_that_plane(rng: np.random.Generator) -> None:
    image = rng.random(SHAPE)
    prediction, reference = boxes()
    view = draw_volume(Volume("a", image, prediction, reference, np.diag([*SPACING, 1.0])), surfaces=False)
    i, j, k = voxel(view)
    # of RAS axes the picture begins at the right, in front and above
    for plane, expected in zip(
        view.planes, (image[::-1, ::-1, k].T, image[::-1, j, ::-1].T, image[i, ::-1, ::-1].T)
    ):
        shown = pixels(plane.image).astype(float)
        inner = (shown > 0) & (shown < 255)
        assert inner.mean() > 0.5
        assert np.corrcoef(shown[inner], expected[inner])[0, 1] > 0.999


def test_the_largest_region_is_that_of_a_plain_search(rng: np.random.Generator) -> None:
    for seed in range(8):
        noise = np.random.default_rng(seed).random((14, 11, 9))
        mask = ndimage.gaussian_filter(noise, 1.0) > 0.53
        place = telling_place(mask, (1.0, 2.0, 3.0))
        pieces = label(mask, connectivity=1)
        sizes = np.bincount(pieces.ravel())[1:]
        assert place.size == sizes.max()
        region = pieces == pieces[place.index]
        assert region.sum() == sizes.max()
        assert np.array_equal(region[place.box], place.region)
        per_plane = region.sum(axis=(0, 1))
        assert per_plane[place.index[2]] == per_plane.max()
        inside = region[:, :, place.index[2]]
        depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=(1, 2))[1:-1, 1:-1]
        assert depth[place.index[:2]] == depth.max()
    empty = telling_place(np.zeros((4, 6, 3), bool), (1.0, 1.0, 1.0))
    assert (empty.index, empty.size) == ((2, 3, 1), 0)


def test_ids_of_objects_mean_nothing(rng: np.random.Generator) -> None:
    _, reference = cells((16, 40, 50), n=8, rng=rng, diameter=11)
    shuffled = np.where(reference > 0, 900 - 7 * reference, 0)
    assert not wrong_voxels(shuffled, reference, contingency(shuffled, reference)).any()
    prediction = np.where(shuffled == 900 - 7 * 3, 0, shuffled)  # one missed
    prediction[prediction == 900 - 7 * 5] = 900 - 7 * 2  # two joined, if they touch or not
    prediction[:2, :3, :4] = np.where(reference[:2, :3, :4] == 0, 5, prediction[:2, :3, :4])
    wrong = wrong_voxels(prediction, reference, contingency(prediction, reference))
    expected = np.zeros(reference.shape, bool)
    for p, r in itertools.product(np.unique(prediction), np.unique(reference)):
        mine, theirs = prediction == p, reference == r
        match = p == r == 0 or (p and r and (mine & theirs).sum() > 0.5 * (mine | theirs).sum())
        expected |= mine & theirs & (not match)
    assert np.array_equal(wrong, expected)
    assert wrong.any()


def rings(path: str) -> list[np.ndarray]:
    """Corners of each closed line of an SVG path."""
    lines = []
    for part in path.split("M")[1:]:
        first, *moves = part.rstrip("z").split("l")
        steps = [[int(v) for v in step.split()] for step in (first, *moves)]
        lines.append(np.cumsum(steps, axis=0))
    return lines


@pytest.mark.parametrize("seed", range(4))
def test_contours_enclose_the_pixels_of_their_value_and_no_others(seed: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((23, 31)), 1.5)
    labels = np.digitize(noise, np.quantile(noise, (0.4, 0.7))) * 4
    centres = np.stack(np.mgrid[0:23, 0:31][::-1], axis=-1).reshape(-1, 2) * 2 + 1
    for value, path in outline(labels, True):
        inside = np.zeros(labels.size, bool)
        for ring in rings(path):
            inside ^= points_in_poly(centres, ring)  # a hole is a ring inside of a ring
        assert np.array_equal(inside.reshape(labels.shape), labels == value)
    (one,) = outline(labels, False)
    assert one[0] == 0
    assert one[1] == "".join(path for _, path in outline(labels, True))
    assert outline(np.zeros((4, 5), int), True) == []


def test_surfaces_lie_in_world_millimetres() -> None:
    affine = oblique("PSR")
    shape = (60, 34, 14)
    places = world(affine, shape)
    centre = affine[:3] @ (30, 17, 7, 1)
    ball = (np.sqrt(((places - centre.reshape(3, 1, 1, 1)) ** 2).sum(axis=0)) < 18).astype(np.uint8)
    made = solid({"p1": (ball, 1)}, affine, (30, 17, 7))
    assert made is not None
    points, triangles = decoded(made.meshes[0])
    assert len(points) <= MOST_VERTICES
    middle = (points.max(axis=0) + points.min(axis=0)) / 2 * made.radius
    there = points * made.radius - middle
    distance = np.linalg.norm(there, axis=1)
    assert abs(np.median(distance) - 18) < 0.7
    assert np.abs(distance - 18).max() < 3.0  # a plane is 4 mm thick
    a, b, c = (there[triangles[:, i]] for i in range(3))
    enclosed = abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6
    assert enclosed == pytest.approx(ball.sum() * np.prod(SPACING), rel=0.04)
    # every edge belongs to two triangles: the surface is closed
    edges = np.sort(
        np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1
    )
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    assert np.linalg.norm(np.array(made.cross) * made.radius - middle) < 2.5


def test_surfaces_keep_to_their_budget_and_lose_no_speck() -> None:
    ball = (np.square(np.indices((90, 100, 110)) - 50).sum(axis=0) < 40**2).astype(np.uint8)
    ball[2:4, 95:97, 104:106] = 1
    affine = np.diag([0.7, 0.9, 1.3, 1.0])
    made = solid({"p1": (ball, 1), "r1": (ball * (ball.cumsum(2) > 8), 1)}, affine, (50, 50, 50), most=1500)
    assert made is not None
    clouds = [decoded(mesh)[0] for mesh in made.meshes]
    assert sum(len(points) for points in clouds) <= 1500
    assert all(len(points) > 200 for points in clouds)
    cloud = clouds[0] * made.radius
    near = np.linalg.norm(cloud - cloud[cloud[:, 2].argmax()], axis=1) < 12  # the speck is highest
    (speck, size), (_, ball_size) = (
        ((part.max(axis=0) + part.min(axis=0)) / 2, np.ptp(part, axis=0))
        for part in (cloud[near], cloud[~near])
    )
    assert (size < 10).all()
    assert ball_size == pytest.approx(80 * np.array([0.7, 0.9, 1.3]), rel=0.06)
    cross = np.array(made.cross) * made.radius
    assert speck - cross == pytest.approx(affine[:3, :3] @ (2.5 - 50, 95.5 - 50, 104.5 - 50), abs=3)
    assert solid({"p1": (np.zeros((4, 5, 6), int), 1)}, affine, (1, 1, 1)) is None


def test_touching_objects_are_two_surfaces() -> None:
    ids = np.zeros((12, 12, 20), int)
    ids[2:10, 2:10, 2:10], ids[2:10, 2:10, 10:18] = 4, 9
    made = solid({"p0": (ids, None)}, np.eye(4), (5, 5, 5))
    assert made is not None
    points, triangles = decoded(made.meshes[0])
    group = np.arange(len(points))
    for _ in range(60):
        for i in range(3):
            np.minimum.at(group, triangles[:, i], group[triangles].min(axis=1))
    assert len(np.unique(group)) == 2


def test_the_window_is_that_of_the_organ_and_not_of_air_and_bone(rng: np.random.Generator) -> None:
    image = rng.normal(-900, 30, (60, 50, 20))
    image[10:50, 5:45] = rng.normal(60, 15, (40, 40, 20))
    image[40:44] = 1500
    organ = np.zeros(image.shape, np.uint8)
    organ[18:32, 12:30, 4:16] = 1
    image[organ > 0] += 50
    view = draw_volume(Volume("ct", image, organ, organ, np.diag([1.0, 1.0, 3.0, 1.0])), surfaces=False)
    found = re.search(r"black (\S+), white (\S+)", view.facts)
    assert found is not None
    black, white = (float(v.replace("\N{MINUS SIGN}", "-")) for v in found.groups())
    assert -60 < black < 45
    assert 140 < white < 230


def test_a_voxel_is_as_large_as_its_spacing_and_squares_of_a_case_are_alike() -> None:
    prediction, reference = boxes()
    view = draw_volume(
        Volume("a", prediction, prediction, reference, np.diag([*SPACING, 1.0])), surfaces=False
    )
    sides = {plane.part[2:] for plane in view.planes} | {plane.part[3:] * 2 for plane in view.planes}
    assert len(sides) == 1
    for plane in view.planes:
        rows, columns = pixels(plane.image).shape
        assert plane.step == pytest.approx((plane.width / columns / 2, plane.height / rows / 2))
        assert plane.whole[2] == max(s * n for s, n in zip(SPACING, SHAPE))
        for (left, top, width, height), bar in zip((plane.part, plane.whole), plane.bars):
            assert width == height
            assert left <= plane.cross[0] <= left + width
            assert top <= plane.cross[1] <= top + height
            assert width / 9 < bar <= width / 3 * (1 + 1e-9)


def test_what_a_case_may_lack() -> None:
    prediction, reference = boxes()
    alone = draw_volume(Volume("a", prediction, prediction))
    assert prediction[voxel(alone)] == 1
    assert "no reference" in alone.sums[0][1]
    assert alone.planes[0].tint == ""
    perfect = draw_volume(Volume("a", prediction, reference, reference, classes={1: "liver"}))
    assert reference[voxel(perfect)] == 1
    assert perfect.sums == (("plain", "every voxel is as in the reference"),)
    nothing = draw_volume(Volume("a", prediction * 0.0, prediction * 0, reference * 0, classes={1: "liver"}))
    assert nothing.solid is None
    assert nothing.layers == ()
    missed = draw_volume(Volume("a", reference, reference * 0, reference, classes={1: "liver"}))
    assert reference[voxel(missed)] == 1
    assert [layer.name for layer in missed.layers] == ["r1"]
    flat = draw_volume(Volume("a", reference[..., :1], prediction[..., :1] > 0, reference[..., :1] > 0))
    assert [plane.name for plane in flat.planes] == ["axial"]
    assert flat.solid is None
    picture = draw_volume(Volume("a", prediction, prediction, reference, raster_affine((4, 2, 1)), "um"))
    assert [plane.name for plane in picture.planes] == ["x, y", "x, z", "y, z"]
    assert [(p.width, p.height) for p in picture.planes] == [(16, 40), (16, 48), (40, 48)]
    assert all(plane.letters == "" for plane in picture.planes)


def test_many_classes_share_the_budget_of_the_worst() -> None:
    reference = np.zeros((20, 20, 40), np.uint8)
    for value in range(1, 13):
        reference[3:17, 3:17, 3 * value : 3 * value + 2] = value
    prediction = reference.copy()
    prediction[np.isin(reference, range(5, 13))] = 0
    names = {value: f"part {value}" for value in range(1, 12)}
    view = draw_volume(Volume("a", reference, prediction, reference, classes=names))
    assert view.solid is not None
    assert {int(mesh.layer[1:]) for mesh in view.solid.meshes} == set(range(5, 13))
    assert view.solid_note == "the 8 of 12 classes with most errors"
    assert [layer.text for layer in view.layers if layer.value == 12] == ["value 12"]


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.zeros((3, 4))},
        {"image": np.zeros(SHAPE, complex)},
        {"prediction": np.zeros((3, 4, 5), int)},
        {"prediction": np.zeros(SHAPE)},
        {"reference": np.full(SHAPE, -1)},
        {"affine": np.zeros((4, 4))},
    ],
)
def test_what_cannot_be_shown_is_refused(change: dict[str, np.ndarray]) -> None:
    prediction, reference = boxes()
    given = {"image": prediction, "prediction": prediction, "reference": reference} | change
    with pytest.raises(Refused) as refusal:
        draw_volume(Volume("case 7", **given))
    assert refusal.value.reason == "bad-panel"
    assert "case 7" in str(refusal.value)


def test_planes_are_cut_and_the_volume_is_not_converted() -> None:
    shape = (160, 180, 120)
    reference = np.zeros(shape, np.uint8)
    reference[30:130, 40:140, 20:100] = 1
    prediction = np.roll(reference, 3, axis=0)
    image = np.zeros(shape, np.int16)
    volume = Volume("a", image, prediction, reference, classes={1: "liver"})
    draw_volume(volume, surfaces=False)  # imports
    tracemalloc.start()
    draw_volume(volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * image.size  # the wrong voxels, their pieces, and one surface at a time


def test_the_page_of_volumes(tmp_path: Path) -> None:
    prediction, reference = boxes()
    names = {1: "liver", 2: "<i>spleen</i>"}
    panels = [Volume(c, prediction, prediction, reference, oblique("LPS"), classes=names) for c in "abc"]
    rows = [
        Score(case, metric, part, value + k / 10, unit)
        for k, case in enumerate("abc")
        for metric, unit, values in (
            ("dice", "", {"liver": 0.5, "<i>spleen</i>": 0.25, "mean": 0.375}),
            ("hd95_mm", "mm", {"liver": 3.25, "mean": 3.25}),
        )
        for part, value in values.items()
    ]
    gallery = Gallery(panels, max_panels=3, max_solids=2)
    page = Page(render_report(tmp_path / "v.html", title="Volumes", panels=gallery, scores=Scores(rows)))
    assert page.unbalanced == []
    assert page.open == []
    assert len(page.all("canvas")) == 2
    assert len(page.all("script")) == 2
    assert len(page.all("svg", role="img")) == 10  # nine planes and the spread
    links = [a[k] for _, a in page.elements for k in ("src", "href") if k in a]
    assert all(link.startswith(("data:image/", "#")) for link in links)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert not [t for t in page.all("i") if t]
    cells_of = " ".join(page.text["table"]).split()
    first = "Class dice hd95_mm <i>spleen</i> 0.250 \N{EN DASH} liver 0.500 3.25 case 0.375 3.25"
    assert f" {first} " in " ".join(cells_of)
    layers = {a["data-layer"] for a in page.all("path") if "data-layer" in a}
    assert {"p1", "r1"} <= layers <= {"p1", "r1", "p2"}
    for canvas in page.all("canvas"):
        assert canvas["aria-label"]
    alone = Page(render_report(tmp_path / "n.html", title="n", panels=[]))
    assert len(alone.all("script")) == 1


def test_a_table_of_many_classes_has_the_worst() -> None:
    rows = [Score("a", "dice", f"c{k}", k / 20) for k in range(14)] + [Score("a", "dice", "mean", 0.5)]
    rows += [Score("a", "volume_error_ml", f"c{k}", 5.0 - k, "ml") for k in range(14)]
    found = case_table(rows, "dice")
    assert found is not None
    assert [row["label"] for row in found["rows"]] == [*(f"c{k}" for k in range(10)), "case"]
    assert found["rest"] == 4
    by_error = case_table(rows, "volume_error_ml")
    assert by_error is not None
    assert by_error["rows"][0]["label"] == "c13"  # 8 ml too little
    assert [heading(c["metric"], c["unit"]) for c in by_error["columns"]] == ["volume_error_ml", "dice"]
    assert case_table([Score("a", "ap", "0.50", 0.5)], "ap") is None


def folder_of(tmp_path: Path, suffix: str, affine: np.ndarray, unit: str, kind: str) -> Path:
    """Write a folder as `medseg predict` leaves it: two cases, the second with more errors."""
    out = tmp_path / "results"
    out.mkdir()
    prediction, reference = boxes()
    cases = []
    for name, grown in (("good", 1), ("bad", 3)):
        worse = np.roll(prediction, grown - 1, axis=0)
        files = {}
        for part, array in (("image", reference * 100 + 7), ("label", reference), ("map", worse)):
            tensor = MetaTensor(torch.as_tensor(array[None]), affine=affine, meta={"spacing_unit": unit})
            to = out / f"{name}{suffix}" if part == "map" else tmp_path / f"{name}-{part}{suffix}"
            files[part] = write(tensor, to)
        cases.append(Predicted(name, str(files["image"]), files["map"].name, (str(files["label"]),)))
    classes = {"liver": 1, "spleen": 2} if kind == "semantic" else {}
    Manifest(out, kind, classes, "model", tuple(cases), {"model": "model"}).save()
    return out


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_folder_of_oblique_volumes_becomes_a_page(tmp_path: Path, suffix: str) -> None:
    affine = oblique("SPL")
    page = Page(report(folder_of(tmp_path, suffix, affine, "mm", "semantic"), tmp_path / "r.html"))
    assert page.cases() == ["bad", "good"]
    text = "".join(page.text["article"])
    assert "axes SPL, tilted by up to 1" in text
    assert "12 \N{MULTIPLICATION SIGN} 20 \N{MULTIPLICATION SIGN} 16 voxels of 0.8" in text
    assert "false liver" in text
    assert len(page.all("canvas")) == 2
    spans = [a["class"] for a in page.all("span") if a.get("class", "").startswith("side")]
    assert len(spans) == 2 * 3 * 4
    # sagittal: 20 voxels of 1.5 mm from front to back, 12 of 0.8 mm from above down
    sizes = {(float(a["width"]), float(a["height"])) for a in page.all("image")}
    assert sizes == {(64.0, 30.0), (64.0, 9.6), (30.0, 9.6)}


def test_a_folder_of_stacks_becomes_a_page(tmp_path: Path) -> None:
    made = folder_of(tmp_path, ".tif", raster_affine((2.0, 0.5, 0.25)), "um", "instances")
    page = Page(report(made, tmp_path / "r.html"))
    text = "".join(page.text["article"])
    assert "1 of 1 object found" in text
    assert "1 false" in text
    assert "x, y, plane" in text
    assert "\N{MICRO SIGN}m" in text
    assert not [a for a in page.all("span") if a.get("class", "").startswith("side")]
