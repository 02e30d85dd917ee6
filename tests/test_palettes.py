"""Colours: one place, told apart, the same in report and files, and never in the place of values."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

import medseg
from medseg import Refused, palettes
from medseg.io import read_label
from medseg.jobs import colour_maps, predict_files
from medseg.palettes import CLASSES, IGNORED_COLOUR, class_colour, class_table, instance_table, voc_palette
from medseg.report.pictures import Panel, draw
from medseg.report.volumes import _layers

# Machado, Oliveira, Fernandes (2009), table 1: severity 1.0, on linear RGB
BLINDNESS = {
    "none": [(1, 0, 0), (0, 1, 0), (0, 0, 1)],
    "protan": [
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ],
    "deutan": [
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ],
    "tritan": [
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ],
}


def seen(colours: np.ndarray, kind: str) -> np.ndarray:
    """Colours in Lab as such an eye sees them."""
    part = colours / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[kind]).T, 0, 1)
    return rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))


def test_classes_are_told_apart_by_every_eye() -> None:
    colours = np.array([*CLASSES[:8], (0, 0, 0), IGNORED_COLOUR])
    for kind in BLINDNESS:
        lab = seen(colours, kind)
        apart = deltaE_ciede2000(lab[:, None], lab[None]) + 100 * np.eye(len(lab))
        assert apart.min() > 7, (kind, np.argwhere(apart == apart.min()))


def test_no_two_of_256_classes_look_the_same_and_none_like_void() -> None:
    table = class_table()
    assert len(np.unique(table, axis=0)) == 256
    assert IGNORED_COLOUR not in {tuple(row) for row in table.tolist()}
    assert class_table(ignore=(3, 255))[[3, 255]].tolist() == [list(IGNORED_COLOUR)] * 2
    assert class_colour(0) == (0, 0, 0)


def test_the_palette_of_pascal_voc() -> None:
    """The colours that its development kit names, and its formula bit by bit."""
    named = {
        0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 5: (128, 0, 128),
        6: (0, 128, 128), 7: (128, 128, 128), 8: (64, 0, 0), 9: (192, 0, 0), 15: (192, 128, 128),
        20: (0, 64, 128), 255: (224, 224, 192),
    }  # fmt: skip
    table = voc_palette()
    assert {value: tuple(table[value].tolist()) for value in named} == named
    for number in range(256):
        rgb = [0, 0, 0]
        for k in range(8):
            for channel in range(3):
                rgb[channel] += (number >> (3 * k + channel) & 1) << (7 - k)
        assert table[number].tolist() == rgb


@pytest.mark.parametrize("shape", [(40, 60), (10, 14, 18)])
def test_neighbouring_objects_differ_and_the_same_map_has_the_same_colours(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    seeds = rng.random((25, len(shape))) * shape
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    instances = 1 + np.argmin(((grid[..., None, :] - seeds) ** 2).sum(-1), -1).astype(np.int32)
    table = instance_table(instances)
    assert np.array_equal(table, instance_table(instances.copy()))
    same = total = 0
    for axis in range(len(shape)):
        a, b = (np.take(instances, np.arange(*s), axis) for s in ((0, shape[axis] - 1), (1, shape[axis])))
        pairs = np.unique(np.stack([a[a != b], b[a != b]]), axis=1).T
        same += sum(int((table[i] == table[j]).all()) for i, j in pairs)
        total += len(pairs)
    assert total > 20
    assert same <= (0 if len(shape) == 2 else total // 10)  # in space eight colours may not be enough


def test_objects_of_a_panoptic_picture_differ_and_stuff_has_the_colour_of_its_class() -> None:
    labels = np.array([[2, 2, 7, 7, 0], [1, 1, 1, 7, 7], [2, 2, 2, 7, 7]])
    instances = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [2, 3, 3, 0, 0]])
    shown = palettes.panoptic_picture(labels, instances)
    assert (shown[labels == 7] == class_colour(7)).all()
    assert (shown[0, 4] == 0).all()
    objects = [shown[0, 0], shown[1, 0], shown[2, 0], shown[2, 1]]
    assert (shown[0, 1] == shown[0, 0]).all()
    assert all((a != b).any() for i, a in enumerate(objects) for b in objects[:i])
    only = palettes.panoptic_picture(np.full((3, 4), 2), np.full((3, 4), 1))
    assert len(np.unique(only.reshape(-1, 3), axis=0)) == 1


def test_void_of_a_panoptic_picture_has_the_colour_of_void() -> None:
    labels = np.array([[255, 3, 26, 26], [255, 3, 3, 26]])
    picture = palettes.panoptic_picture(labels, np.where(labels == 26, 1, 0), ignore=[255])
    assert (picture[labels == 255] == IGNORED_COLOUR).all()
    assert (picture[labels == 3] == class_colour(3)).all()
    assert class_table(ignore=[-1])[255].tolist() == list(class_colour(255))


def test_no_objects() -> None:
    assert instance_table(np.zeros((3, 4), int)).tolist() == [[0, 0, 0]]
    assert instance_table(np.zeros((0, 4), int)).tolist() == [[0, 0, 0]]


# --- files


def test_a_label_map_is_written_with_a_palette_and_its_values(tmp_path: Path) -> None:
    labels = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)
    labels[0, 0] = 255
    path = medseg.write(labels, tmp_path / "a.png", colours=class_table(ignore=(255,)))
    with Image.open(path) as held:
        assert held.mode == "P"
        assert np.array_equal(np.asarray(held), labels)
        shown = np.asarray(held.convert("RGB"))
    assert np.array_equal(shown, class_table(ignore=(255,))[labels])
    assert np.array_equal(read_label(path)[0], labels)


@pytest.mark.parametrize(
    ("labels", "name", "colours"),
    [
        (np.full((3, 4), 300), "a.png", class_table()),
        (np.ones((3, 4), np.uint8), "a.tif", class_table()),
        (np.full((3, 4), 9, np.uint8), "a.png", class_table()[:9]),
        (np.ones((3, 4), np.uint8), "a.png", class_table().astype(float)),
        (np.ones((3, 4), np.uint8), "a.png", np.zeros((300, 3), int)),
        (np.ones((3, 4), np.uint8), "a.png", [[0, 0, 0], [0, 0, 256]]),
    ],
)
def test_what_has_no_palette_is_refused(
    tmp_path: Path, labels: np.ndarray, name: str, colours: np.ndarray
) -> None:
    with pytest.raises(Refused) as refusal:
        medseg.write(labels, tmp_path / name, colours=colours)
    assert refusal.value.reason == "not-a-palette"
    assert list(tmp_path.iterdir()) == []


def test_predictions_get_colours_and_a_table_of_them(tmp_path: Path) -> None:
    plan = medseg.Plan().with_values(
        {
            "network.channels": (2, 4),
            "target.classes": ("background", "car", "road"),
            "target.values": (0, 2, 9),
            "target.ignore": (255,),
            "train.patch": (16, 16),
        }
    )
    from medseg.bundle import load_bundle, save_bundle
    from medseg.networks import build_network

    bundle = load_bundle(save_bundle(tmp_path / "bundle", plan, build_network(plan), card=""))
    medseg.write(np.random.default_rng(0).random((16, 24)).astype(np.float32), tmp_path / "in/a.tif")
    medseg.write(np.arange(16 * 24, dtype=np.uint16).reshape(16, 24), tmp_path / "in/b.png")
    predict_files(bundle, [tmp_path / "in"], tmp_path / "out")
    before = np.asarray(read_label(tmp_path / "out/b.png")[0])
    coloured = colour_maps(tmp_path / "out")
    assert [path.name for path in coloured] == ["b.png"]
    assert np.array_equal(read_label(coloured[0])[0], before)
    with Image.open(coloured[0]) as held:
        assert np.array_equal(np.asarray(held.convert("RGB")), class_table()[before])
    with (tmp_path / "out/colours.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["value"], row["name"]) for row in rows] == [("2", "car"), ("9", "road"), ("255", "ignored")]
    assert rows[0]["colour"] == palettes.hexadecimal(class_colour(2))
    prediction = medseg.predict(bundle, tmp_path / "in/b.png")
    own = prediction.save(tmp_path / "own.png", colours=True)
    with Image.open(own) as held:
        assert held.mode == "P"
    assert np.array_equal(read_label(own)[0], before)


def test_the_report_has_the_same_colours() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:9, 3:12], labels[11:18, 14:28] = 3, 12
    ignored = np.zeros((20, 30), bool)
    ignored[0:2] = True
    classes = {3: "car", 12: "road"}
    view = draw(Panel("a", labels * 9, labels, labels, classes=classes, ignored=ignored))
    expected = {"car": class_colour(3), "road": class_colour(12), "ignored": IGNORED_COLOUR}
    assert dict(view.classes) == {name: palettes.hexadecimal(colour) for name, colour in expected.items()}
    layers = _layers({3: "car", 12: "road"}, labels[None], None)
    assert {layer.name: layer.colour for layer in layers}
    assert [layer.colour for layer in layers] == [palettes.hexadecimal(class_colour(v)) for v in (3, 12)]
