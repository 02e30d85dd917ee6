"""Bad input gets one clear line and exit code 1, and nothing is half-written."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

import medseg
from medseg.bundle import save_bundle
from medseg.cli import main
from medseg.networks import build_network
from medseg.phantoms import cells
from medseg.plan import Plan

QUICK = ["train.steps=2", "network.channels=[2,4]", "train.patch=[32,32]", "train.workers=0"]


def make_bundle(path: Path, **values: object) -> Path:
    plan = Plan(name=path.name).with_values({"network.channels": (2, 4), **values})
    return save_bundle(path, plan, build_network(plan), card="# Made for a test")


def make_data(root: Path, n: int = 3, shape: tuple[int, int] = (40, 52)) -> Path:
    rng = np.random.default_rng(1)
    for i in range(n):
        image, instances = cells(shape, n=3 + i, diameter=10, rng=rng)
        medseg.write((image * 200 + 20).clip(0, 255).astype(np.uint8), root / f"images/c{i}.png")
        medseg.write(instances.astype(np.uint16), root / f"labels/c{i}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_data(root / "good")
    make_bundle(root / "grey")
    make_bundle(root / "colour", **{"input.channels": 3})
    make_bundle(root / "five", **{"input.channels": 5})
    make_bundle(root / "volumes", **{"input.spatial_dims": 3, "train.patch": (16, 16, 16)})
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with copies of the good things; paths in the tests are relative to it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(root: Path) -> dict[str, tuple[bool, int, bytes]]:
    """All files with their contents: what a refusal must leave as it was."""
    return {
        str(p.relative_to(root)): (p.is_file(), p.stat().st_mtime_ns, p.read_bytes())
        if p.is_file()
        else (False, 0, b"")
        for p in root.rglob("*")
    }


@pytest.fixture
def refused(here: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: object) -> str:
        before = listing(here)
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a warning on stderr would be a line too many
            code = main([str(w) for w in words])
        out, err = capfd.readouterr()
        assert code == 1, (code, out, err)
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("medseg: ")
        assert "Traceback" not in err
        assert "unexpected" not in err
        assert listing(here) == before
        return lines[0].removeprefix("medseg: ")

    return run


def test_the_good_things_are_good(here: Path) -> None:
    """Otherwise the refusals below could have another cause."""
    assert main(["predict", "grey", "good/images", "-o", "out"]) == 0
    assert main(["evaluate", "good/labels", "good", "-o", "scores.json"]) == 0
    assert main(["train", "good", "-o", "run", *QUICK]) == 0


# what is not there


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan nowhere -o p.toml", "no such dataset"),
        ("train nowhere -o run", "no such dataset"),
        ("plan empty -o p.toml", "is empty"),
        ("train empty -o run", "is empty"),
        ("predict grey empty -o out", "no image in 'empty'"),
        ("predict grey nowhere -o out", "no image or folder 'nowhere'"),
        ("predict grey nowhere.png -o out", "no image or folder 'nowhere.png'"),
        ("predict nowhere good/images -o out", "no bundle 'nowhere'"),
        ("evaluate nowhere good -o s.json", "no file or folder 'nowhere'"),
        ("evaluate good/labels nowhere -o s.json", "no file or folder 'nowhere'"),
        ("evaluate empty good -o s.json", "no map in 'empty'"),
        ("evaluate good/labels empty -o s.json", "no map in 'empty'"),
        ("info nowhere.png", "no such image 'nowhere.png'"),
        ("info empty", "no image in 'empty'"),
        ("report nowhere -o p.html", "no folder 'nowhere'"),
        ("report good -o p.html", "not a folder of predictions"),
        ("report grey -o p.html", "not a folder of predictions"),
        ("bundle show nowhere", "no bundle 'nowhere'"),
        ("train good -o run --plan nowhere.toml", "no plan 'nowhere.toml'"),
    ],
)
def test_missing_and_empty(here: Path, refused: Callable[..., str], words: str, said: str) -> None:
    (here / "empty").mkdir()
    assert said in refused(*words.split())


# data sets


def test_an_image_without_a_label_and_the_reverse(here: Path, refused: Callable[..., str]) -> None:
    (here / "good/labels/c1.png").rename(here / "c1.png")
    line = refused("train", "good", "-o", "run", *QUICK)
    assert "1 of the images has no label" in line
    assert "'c1'" in line
    (here / "c1.png").rename(here / "good/labels/c1.png")
    (here / "good/images/c2.png").unlink()
    line = refused("plan", "good", "-o", "p.toml")
    assert "1 of the labels has no image" in line
    assert "'c2'" in line


@pytest.mark.parametrize("words", [["plan", "good", "-o", "p.toml"], ["train", "good", "-o", "run", *QUICK]])
@pytest.mark.parametrize("part", ["shape", "float", "text", "nan"])
def test_a_bad_file_in_a_data_set(
    here: Path, refused: Callable[..., str], words: list[str], part: str
) -> None:
    label, image = here / "good/labels/c1.png", here / "good/images/c1.png"
    if part == "shape":
        medseg.write(np.zeros((40, 50), np.uint8), label)
        said = ["c1.png' has another shape", "(40, 50)", "(40, 52)"]
    elif part == "float":
        label.unlink()
        tifffile.imwrite(label.with_suffix(".tif"), np.full((40, 52), 0.5, np.float32))
        said = ["c1.tif' has labels that are not whole numbers", "0.5", "nearest"]
    elif part == "text":
        image.write_text("not an image")
        said = ["cannot read", "c1.png' as PNG"]
    else:
        image.unlink()
        pixels = np.ones((40, 52), np.float32)
        pixels[3, 4] = np.nan
        tifffile.imwrite(image.with_suffix(".tif"), pixels)
        said = ["c1.tif' has pixels that are NaN or infinite", "(3, 4)"]
    line = refused(*words)
    assert all(text in line for text in said), line


def test_a_training_after_a_refused_one_is_not_hindered_by_it(
    here: Path, refused: Callable[..., str]
) -> None:
    good = (here / "good/images/c1.png").read_bytes()
    (here / "good/images/c1.png").write_text("x")
    refused("train", "good", "-o", "run", *QUICK)
    (here / "good/images/c1.png").write_bytes(good)
    assert main(["train", "good", "-o", "run", *QUICK, "train.lr=1e-4"]) == 0


# image files


def write_bad_files(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("zero.png", "zero.tif", "zero.nii.gz"):
        (folder / name).touch()
    (folder / "text.png").write_text("hello")
    (folder / "text.nii.gz").write_text("hello")
    Image.fromarray(rng.integers(0, 255, (60, 70), dtype=np.uint8)).save(folder / "whole.png")
    tifffile.imwrite(folder / "whole.tif", rng.integers(0, 255, (60, 70), dtype=np.uint8), compression="zlib")
    nibabel.save(
        nibabel.Nifti1Image(rng.random((20, 21, 22), np.float32), np.eye(4)), folder / "whole.nii.gz"
    )
    for suffix in (".png", ".tif", ".nii.gz"):
        content = (folder / f"whole{suffix}").read_bytes()
        (folder / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    infinite = np.ones((30, 40), np.float32)
    infinite[5, 6] = -np.inf
    tifffile.imwrite(folder / "infinite.tif", infinite)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zero.png", "zero bytes"),
        ("zero.tif", "zero bytes"),
        ("zero.nii.gz", "zero bytes"),
        ("text.png", "cannot read 'text.png' as PNG"),
        ("text.nii.gz", "cannot read 'text.nii.gz' as NIfTI"),
        ("cut.png", "cannot read 'cut.png' as PNG"),
        ("cut.tif", "'cut.tif' is truncated"),
        ("cut.nii.gz", "cannot read 'cut.nii.gz' as NIfTI"),
        ("infinite.tif", "NaN or infinite"),
    ],
)
def test_damaged_images(here: Path, refused: Callable[..., str], name: str, said: str) -> None:
    write_bad_files(here)
    model = "volumes" if "nii" in name else "grey"
    assert said in refused("predict", model, name, "-o", "out")
    if name != "infinite.tif":  # `info` tells it instead
        assert said in refused("info", name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("two.nii.gz", "states two geometries, up to 20 mm apart"),
        ("flat.nii", "does not state the size of its voxels: got pixdim 1 x 0 x 1"),
        ("gas.nii", "3 of 4620, first -inf at (0, 0, 0) channel 0"),
        ("packed.nii", "Rename it to 'packed.nii.gz'"),
        ("pair.hdr", "half of a pair of files"),
    ],
)
def test_volumes_that_could_lie_anywhere_or_nowhere(
    here: Path, refused: Callable[..., str], name: str, said: str
) -> None:
    array = np.ones((20, 21, 11), np.float32)
    if name == "gas.nii":
        array[0, 0, :3] = -np.inf
    image = nibabel.Nifti1Image(array, np.eye(4))
    if name == "two.nii.gz":
        image.set_qform(np.diag([-1.0, 1, 1, 1]), code=1)
        image.header["qoffset_x"] = 18.0
    nibabel.save(image, here / ("plain.nii.gz" if name == "packed.nii" else name))
    if name == "packed.nii":
        (here / "plain.nii.gz").rename(here / name)
    if name == "flat.nii":
        with (here / name).open("r+b") as file:
            file.seek(84)  # pixdim[2]
            file.write(np.array([0], "<f4"))
    assert said in refused("predict", "volumes", name, "-o", "out")
    if name != "gas.nii":  # `info` tells it instead
        assert said in refused("info", name)


def test_damaged_maps(here: Path, refused: Callable[..., str]) -> None:
    write_bad_files(here)
    assert "cut.png" in refused("evaluate", "cut.png", "good/labels/c0.png", "-o", "s.json")
    assert "text.png" in refused("evaluate", "good/labels/c0.png", "text.png", "-o", "s.json")
    medseg.write(np.zeros((40, 50), np.uint8), here / "small.png")
    line = refused("evaluate", "small.png", "good/labels/c0.png", "-o", "s.json")
    assert "(40, 50) and (40, 52)" in line


@pytest.mark.parametrize(
    ("model", "shape", "axes", "said"),
    [
        ("grey", (3, 30, 40), "CYX", "got 3, expected 1"),
        ("grey", (2, 30, 40), "CYX", "got 2, expected 1"),
        ("colour", (2, 30, 40), "CYX", "got 2, expected 3"),
        ("five", (2, 30, 40), "CYX", "got 2, expected 5"),
        ("colour", (5, 30, 40), "CYX", "got 5, expected 3"),
        ("grey", (6, 30, 40), "ZYX", "save each plane"),
        ("volumes", (2, 30, 40), "CYX", "channels and 3 axes"),
    ],
)
def test_images_of_another_kind_than_the_model_takes(
    here: Path, refused: Callable[..., str], model: str, shape: tuple[int, ...], axes: str, said: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    tifffile.imwrite(
        here / "image.ome.tif", pixels, ome=True, photometric="minisblack", metadata={"axes": axes}
    )
    assert said.lower() in refused("predict", model, "image.ome.tif", "-o", "out").lower()


def test_colour_that_is_grey_is_taken(here: Path) -> None:
    """The reverse of the refusal above: nothing is lost."""
    grey = np.random.default_rng(0).integers(0, 255, (30, 40, 1), dtype=np.uint8)
    Image.fromarray(np.repeat(grey, 3, axis=2)).save(here / "rgb.png")
    assert main(["predict", "grey", "rgb.png", "-o", "out"]) == 0


# words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trian good -o run", "unknown command 'trian'. Did you mean 'train'?"),
        ("bundle shwo grey", "unknown command 'shwo'. Did you mean 'show'?"),
        ("train good -o run --devise cpu", "unknown option '--devise'. Did you mean '--device'?"),
        ("predict grey", "missing argument 'IMAGE'"),
        ("train good", "missing option '--out' / '-o'. Try 'medseg train --help'."),
        ("train good -o run --fold first", "'--fold'"),
        ("train good -o run --fold 9", "fold 9 of 5"),
        ("evaluate good/labels good -o s.json --metrics dise", "Did you mean 'dice'?"),
        ("plan good -o p.toml network.name=unett", "Did you mean 'unet'?"),
        ("plan good -o p.toml train.loss=cross_entropi", "Did you mean 'cross_entropy'?"),
        ("train good -o run train.loss=cross_entropi", "Did you mean 'cross_entropy'?"),
        ("train good -o run train.lrr=1", "Did you mean 'train.lr'?"),
        ("train good -o run target.kind=instances target.name=forground", "Did you mean 'foreground'?"),
        ("train good -o run network.norm=bacth", "Did you mean 'batch'?"),
        ("train good -o run target.kind=instances predict.method=watersched", "Did you mean 'watershed'?"),
        ("train good -o run train.lr", "key=value"),
        ("train good -o run train.lr=fast", "'train.lr'"),
        ("train good -o run train.lr=-1", "'train.lr'"),
        ("train good -o run train.patch=[33,33] network.channels=[2,4]", "Use (34, 34)."),
        ("predict gray good/images -o out", "no bundle 'gray'"),
        ("predict good good/images -o out", "'good' is not a bundle"),
        ("predict grey good/images -o out --device gpu", "cannot use device 'gpu'"),
        ("predict grey good/images -o out --device cuda:77", "cannot use device 'cuda:77'"),
        ("train good -o run --device cuda:77", "cannot use device 'cuda:77'"),
        ("predict grey good/images -o out --max-ram -1", "expected more than 0"),
        ("predict grey good/images -o out --max-ram 0.0001", "--max-ram"),
        ("predict grey good/images -o out --max-ram much", "'--max-ram'"),
        ("evaluate good/labels good -o s.txt", ".json or .csv"),
        ("evaluate good/labels good -o s", ".json or .csv"),
        ("train good -o run network.channels=[100000,100000]", "do not fit into memory"),
        ("plan good -o p.toml --memory 0.0001", "too big for this memory"),
    ],
)
def test_wrong_words(refused: Callable[..., str], words: str, said: str) -> None:
    assert said in refused(*words.split())


# places


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing"])
@pytest.mark.parametrize(
    "words",
    [
        "predict grey good/images -o {}",
        "train good -o {}",
        "plan good -o {}/p.toml",
        "evaluate good/labels good -o {}/s.json",
        "report predictions -o {}/p.html",
        "demo -o {}",
    ],
)
def test_places_that_cannot_be_written(
    here: Path, refused: Callable[..., str], words: str, place: str
) -> None:
    (here / "file").write_text("here already")
    assert main(["predict", "grey", "good/images/c0.png", "-o", "predictions"]) == 0
    assert "cannot write" in refused(*words.format(place).split())


def test_images_and_labels_are_not_overwritten(here: Path, refused: Callable[..., str]) -> None:
    for folder in ("good/images", "good/labels"):
        line = refused("predict", "grey", "good/images", "-o", folder)
        assert "would overwrite" in line
        assert "choose another folder" in line.lower()


def test_a_folder_with_other_files_is_no_run(here: Path, refused: Callable[..., str]) -> None:
    assert "holds other files" in refused("train", "good", "-o", "grey/..", *QUICK)


def test_a_run_of_another_plan(here: Path, refused: Callable[..., str]) -> None:
    assert main(["train", "good", "-o", "run", *QUICK]) == 0
    line = refused("train", "good", "-o", "run", *QUICK, "train.lr=0.5")
    assert "train.lr = 0.5, the run has 0.001" in line
    assert "another fold" in refused("train", "good", "-o", "run", "--fold", "1")
    make_data(here / "more", n=4)
    assert "other cases" in refused("train", "more", "-o", "run", *QUICK, "name=good")


def test_predictions_of_two_models_are_not_mixed(here: Path, refused: Callable[..., str]) -> None:
    assert main(["predict", "grey", "good/images/c0.png", "-o", "out"]) == 0
    assert "by another model" in refused("predict", "colour", "good/images/c1.png", "-o", "out")
    assert main(["predict", "colour", "good/images/c0.png", "-o", "out"]) == 0  # replaces all there is


def test_equal_stems(here: Path, refused: Callable[..., str]) -> None:
    medseg.write(np.zeros((40, 52), np.uint8), here / "good/images/c0.tif")
    line = refused("predict", "grey", "good/images", "-o", "out")
    assert "two images are called 'c0'" in line
    assert "c0.png" in line
    assert "c0.tif" in line
    assert "same stem" in refused("train", "good", "-o", "run")
    medseg.write(np.zeros((40, 52), np.uint8), here / "good/labels/c0.tif")
    shutil.copytree(here / "good/labels", here / "maps")
    assert "two maps" in refused("evaluate", "maps", "good/images/c1.png", "-o", "s.json")


# plans and bundles


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"format = 1\n[train]\nlr = = 3", "is not TOML"),
        (b"format = 1\n[train]\nlrr = 3", "Did you mean 'train.lr'?"),
        (b"format = 7\n", "unknown format"),
        (b"\xff\xfe\x00", "cannot read 'p.toml'"),
        (b"format = 1\n[trian]\nlr = 3", "Did you mean 'train'?"),
        (b'format = 1\n[train]\nlr = "fast"', "'train.lr'"),
        (b"", "format"),
    ],
)
def test_bad_plans(here: Path, refused: Callable[..., str], content: bytes, said: str) -> None:
    (here / "p.toml").write_bytes(content)
    assert said in refused("train", "good", "-o", "run", "--plan", "p.toml")


def test_broken_bundles(here: Path, refused: Callable[..., str]) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(here / "grey", here / name))

    weights = broken("changed") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert "checksum differs" in refused("predict", "changed", "good/images", "-o", "out")
    (broken("lacking") / "weights.safetensors").unlink()
    assert "is not a bundle" in refused("predict", "lacking", "good/images", "-o", "out")
    (broken("unsigned") / "sha256sums.txt").unlink()
    assert "lacks sha256sums.txt" in refused("bundle", "show", "unsigned")
    with zipfile.ZipFile(here / "hollow.zip", "w"):
        pass
    assert "hollow.zip" in refused("predict", "hollow.zip", "good/images", "-o", "out")
    (here / "torn.zip").write_bytes(b"PK\x03\x04torn")
    assert "torn.zip" in refused("predict", "torn.zip", "good/images", "-o", "out")


def test_a_broken_manifest(here: Path, refused: Callable[..., str]) -> None:
    assert main(["predict", "grey", "good/images", "-o", "out"]) == 0
    (here / "out/predictions.json").write_text("{")
    assert "predictions.json" in refused("report", "out", "-o", "p.html")
    assert "predictions.json" in refused("evaluate", "out", "good", "-o", "s.json")


# one bad case among many


@pytest.fixture
def mixed(here: Path) -> Path:
    """Three good images and two bad ones."""
    write_bad_files(here)
    shutil.copy(here / "cut.png", here / "good/images/bad.png")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 30, 40), dtype=np.uint8)
    tifffile.imwrite(here / "good/images/two.tif", pixels, ome=True, metadata={"axes": "CYX"})
    return here


def test_predict_does_the_rest(mixed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "grey", "good/images", "-o", "out"]) == 2
    out, err = capfd.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == ["out/c0.png", "out/c1.png", "out/c2.png"]
    lines = err.splitlines()
    assert lines[0] == "medseg: 2 of 5 cases failed"
    assert lines[1].startswith("  bad: cannot read")
    assert lines[1].endswith("[unreadable]")
    assert lines[2].startswith("  two: ")
    assert lines[2].endswith("[channel-mismatch]")
    assert len(lines) == 3
    assert sorted(p.name for p in (mixed / "out").iterdir()) == [
        "c0.png",
        "c1.png",
        "c2.png",
        "classes.csv",
        "predictions.json",
    ]
    cases = json.loads((mixed / "out/predictions.json").read_text())["cases"]
    assert [case["case"] for case in cases] == ["c0", "c1", "c2"]


def test_a_missing_image_among_many_is_told(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "grey", "good/images/c0.png", "nowhere.png", "-o", "out"]) == 2
    assert "nowhere: no such image 'nowhere.png'" in capfd.readouterr().err


def test_info_does_the_rest(mixed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "good/images"]) == 2
    out, err = capfd.readouterr()
    assert out.count("shape") == 4
    assert "1 of 5 cases failed" in err
    assert "good/images/bad.png: cannot read" in err


def test_evaluate_does_the_rest(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(here / "good/labels", here / "maps")
    (here / "maps/c1.png").write_text("x")
    shutil.copy(here / "maps/c0.png", here / "maps/extra.png")
    assert main(["evaluate", "maps", "good", "-o", "s.json"]) == 2
    out, err = capfd.readouterr()
    assert "2 of 4 cases failed" in err
    assert "c1: cannot read" in err
    assert "extra: no reference of this name in 'good'" in err
    assert medseg.metrics.Scores.load(here / "s.json").cases == ("c0", "c2")
    assert "dice" in out


def test_a_second_failure_leaves_the_first_result(mixed: Path) -> None:
    assert main(["predict", "grey", "good/images/c0.png", "-o", "out"]) == 0
    before = listing(mixed / "out")
    assert main(["predict", "grey", "cut.png", "-o", "out"]) == 1
    assert listing(mixed / "out") == before


# the traceback


def test_debug_shows_the_traceback(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / "text.png").write_text("x")
    for words in (["predict", "grey", "text.png", "-o", "out"], ["train", "nowhere", "-o", "run"]):
        assert main([*words, "--debug"]) == 1
        err = capfd.readouterr().err
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("medseg: ")


def test_an_error_of_ours_is_one_line_too(
    here: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("division by zero\nand more")

    monkeypatch.setattr("medseg.planning.deriving.take_fingerprint", fails)
    with pytest.raises(AssertionError, match="unexpected"):  # the fixture wants none of these
        refused("plan", "good", "-o", "p.toml")
    monkeypatch.setattr("medseg.jobs.predicting.predict", fails)
    with pytest.raises(AssertionError, match="unexpected"):
        refused("predict", "grey", "good/images/c0.png", "-o", "out")


def test_no_memory_and_no_space_are_one_line(
    here: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", "p.toml")

    def used_up(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr("medseg.planning.deriving.take_fingerprint", full)
    assert "No space left on device: 'p.toml'" in refused("plan", "good", "-o", "p.toml")
    monkeypatch.setattr("medseg.planning.deriving.take_fingerprint", used_up)
    assert "not enough memory" in refused("plan", "good", "-o", "p.toml")
