"""The command line as people use it: help, words to pipe, progress, stopping and going on."""

from __future__ import annotations

import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

import medseg
from medseg.bundle import save_bundle
from medseg.cli import main
from medseg.cli.progress import Display
from medseg.networks import build_network
from medseg.phantoms import cells
from medseg.plan import Plan
from medseg.training import StepInfo

COMMANDS = ["demo", "info", "check", "plan", "train", "predict", "evaluate", "report", "bundle show"]
QUICK = ["train.steps=4", "network.channels=[2,4]", "train.patch=[32,32]", "train.workers=0"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # small networks are faster so
ENDLESS = ["train.steps=100000", "train.validate_every=5", *QUICK[1:]]


def make_data(root: Path, n: int = 4, shape: tuple[int, int] = (40, 52)) -> Path:
    rng = np.random.default_rng(1)
    for i in range(n):
        image, instances = cells(shape, n=3 + i, diameter=10, rng=rng)
        medseg.write((image * 200 + 20).clip(0, 255).astype(np.uint8), root / f"images/c{i}.png")
        medseg.write(instances.astype(np.uint16), root / f"labels/c{i}.png")
    return root


def make_bundle(path: Path, **values: object) -> Path:
    plan = Plan(name=path.name).with_values({"network.channels": (2, 4), **values})
    return save_bundle(path, plan, build_network(plan), card="# Made for a test")


def python(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, cwd=cwd)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# quick and readable


def test_help_and_import_are_light() -> None:
    """The heavy libraries cost seconds, and help must not wait for them."""
    script = (
        "import sys, medseg, medseg.cli; heavy = ['torch', 'monai', 'numpy', 'scipy', 'skimage'];"
        "print([m for m in heavy if m in sys.modules]);"
        "code = medseg.cli.main(sys.argv[1:]);"
        "print(code, [m for m in heavy if m in sys.modules])"
    )
    for words in (["--help"], ["train", "--help"], ["--version"], ["trian"]):
        result = python("-c", script, *words)
        lines = result.stdout.splitlines()
        assert lines[0] == "[]"
        assert lines[-1] == f"{int(words == ['trian'])} []"


def test_help_takes_less_than_half_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = python("-m", "medseg", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    assert result.stderr == ""
    # time of the processor: it does not depend on what else the machine has to do
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert f"medseg {command}" in out
    options = out[out.index("Options:") :] if "Arguments:" not in out else out[out.index("Arguments:") :]
    for line in re.findall(r"^  (\S.*)$", options, flags=re.MULTILINE):
        assert re.search(r"\S  +\S", line) or "  " not in line.strip(), f"no description: {line}"
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_no_words_are_a_call_for_help(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capfd.readouterr().out
    assert all(f"  {command.split()[0]} " in out for command in COMMANDS)
    assert "..." not in out.split("Commands:")[1], "a description is cut off"


def test_module_and_version() -> None:
    result = python("-m", "medseg", "--version")
    assert result.stdout == f"medseg {medseg.__version__}\n"
    assert python("-m", "medseg", "bundle").returncode == 1


# the jobs


def test_a_microscopist(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Train, segment, score, report; what is printed can be piped on."""
    make_data(here / "cells")
    assert main(["plan", "cells", "-o", "plan.toml", *QUICK]) == 0
    out = capfd.readouterr().out
    assert "instance maps" in out
    assert out.endswith("Wrote plan.toml\n")
    assert main(["train", "cells", "--plan", "plan.toml", "-o", "run"]) == 0
    out, err = capfd.readouterr()
    assert "medseg report run -o report.html" in out
    assert re.fullmatch(r"  step 4: loss .*\n", err)
    assert main(["predict", "run", "cells/images", "-o", "out"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"out/c{i}.png" for i in range(4)]
    assert all(re.fullmatch(r"out/\S+: (1 object|\d+ objects)", line) for line in lines)
    for references in ("cells", "cells/labels"):
        assert main(["evaluate", "out", references, "-o", "scores.csv"]) == 0
        scores = medseg.metrics.Scores.load(here / "scores.csv")
        assert scores.metrics == ("ap", "seg", "count_error", "dice", "iou")
        assert scores.cases == ("c0", "c1", "c2", "c3")
    for folder in ("out", "run"):
        assert main(["report", folder, "-o", f"pages/{folder}.html"]) == 0
        page = (here / f"pages/{folder}.html").read_text("utf-8")
        assert "c1" in page if folder == "out" else "Training run" in page
        assert not re.search(r'(src|href)="(?!data:|#)', page), "the page needs another file"
    capfd.readouterr()
    assert main(["bundle", "show", "run"]) == 0
    out = capfd.readouterr().out
    assert "[network]" in out
    assert "golden output reproduced" in out


def test_a_researcher_with_volumes(here: Path) -> None:
    """Geometry is kept through training on oblique, anisotropic NIfTI and prediction."""
    rng = np.random.default_rng(0)
    affine = np.array([[-0.9, 0.1, 0, 10], [0.1, 0.9, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1]])
    for i in range(4):
        label = np.zeros((20, 24, 9), np.uint8)
        label[4:14, 5 : 15 + i, 2:7] = 1
        label[7:11, 8:12, 3:6] = 2
        image = (label * 100 + rng.normal(50, 10, label.shape)).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            (here / "scans" / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), here / f"scans/{folder}/p{i}.nii.gz")
    assert main(["train", "scans", "-o", "run", *QUICK[:2], "train.patch=[16,16,8]", QUICK[3]]) == 0
    assert main(["predict", "run", "scans/imagesTr", "-o", "out"]) == 0
    made = nibabel.load(here / "out/p1.nii.gz")
    assert made.shape == (20, 24, 9)
    np.testing.assert_allclose(made.affine, affine, atol=1e-6)
    assert made.get_data_dtype() == np.uint8
    assert main(["evaluate", "out", "scans", "-o", "scores.json", "--metrics", "dice,iou"]) == 0
    scores = medseg.metrics.Scores.load(here / "scores.json")
    assert scores.labels("dice") == ("class_1", "class_2", "mean")
    assert scores.cases == ("p0", "p1", "p2", "p3")
    assert main(["report", "run", "-o", "page.html"]) == 0


def test_info(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pixels = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
    meta = {"axes": "YX", "PhysicalSizeX": 0.325, "PhysicalSizeY": 0.65}
    tifffile.imwrite(here / "a.ome.tif", pixels, ome=True, metadata=meta)
    tifffile.imwrite(here / "b.tif", np.full((4, 5), np.nan, np.float32))
    (here / "Thumbs.db").write_bytes(b"x")
    assert main(["info", "a.ome.tif"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    facts = dict(line.strip().split("  ", 1) for line in out.splitlines()[1:])
    assert facts["pixel size"].split() == ["0.65", "x", "0.325", "um"]
    assert facts["shape"].strip() == "20 x 30, 1 channel, uint16"
    assert facts["values"].strip() == "0 to 599, mean 299.5"
    assert main(["info", "."]) == 0
    out = capfd.readouterr().out
    assert "a.ome.tif" in out
    assert "NaN or infinite" in out
    assert "Thumbs" not in out


def test_names_of_files_as_people_have_them(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Spaces, other alphabets, litter, tables beside the images, palettes, 16 bits, relative paths."""
    bundle = make_bundle(here / "model")
    rng = np.random.default_rng(0)
    folder = here / "day 1 — mäuse"
    folder.mkdir()
    grey = rng.integers(0, 255, (30, 44), dtype=np.uint8)
    Image.fromarray(grey).save(folder / "细胞 1.png")
    palette = Image.fromarray(grey).convert("P")
    palette.putpalette([v for i in range(256) for v in (i, i, i)])
    palette.save(folder / "palette.png")
    medseg.write(grey.astype(np.uint16) * 200, folder / "deep [x=1].tif")
    for name in ("Thumbs.db", ".DS_Store", "._a.png", ".hidden.png", "notes.csv", "desktop.ini"):
        (folder / name).write_bytes(b"litter")
    (folder / "more").mkdir()
    assert main(["predict", os.path.relpath(bundle), os.path.relpath(folder), "-o", "out/deeper"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert sorted(p.name for p in (here / "out/deeper").iterdir()) == [
        "classes.csv",
        "deep [x=1].tif",
        "palette.png",
        "predictions.json",
        "细胞 1.png",
    ]
    assert "out/deeper/细胞 1.png: label map" in out
    assert main(["report", "out/deeper"]) == 0
    assert "deep [x=1]" in (here / "report.html").read_text("utf-8")
    assert main(["evaluate", "out/deeper", "out/deeper", "-o", "s.json"]) == 0
    assert medseg.metrics.Scores.load(here / "s.json").mean("dice") in (1.0, pytest.approx(1.0))


def test_predict_twice_into_one_folder(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = make_data(here / "cells")
    make_bundle(here / "model", **{"target.kind": "instances", "target.name": "foreground"})
    for image in ("c0", "c1", "c0"):
        assert main(["predict", "model", str(data / f"images/{image}.png"), "-o", "out"]) == 0
    rows = (here / "out/objects.csv").read_text().splitlines()
    assert len(rows) == len(set(rows)), "objects of a case are listed twice"
    assert {row.split(",")[0] for row in rows[1:]} <= {"c0", "c1"}
    assert main(["evaluate", "out", "cells", "-o", "s.json"]) == 0
    assert set(medseg.metrics.Scores.load(here / "s.json").cases) == {"c0", "c1"}
    assert "2 of 4 references have no prediction: 'c2', 'c3'" in capfd.readouterr().err


# stopping and going on


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_ctrl_c_saves_and_the_same_command_goes_on(here: Path) -> None:
    make_data(here / "cells")
    command = [sys.executable, "-m", "medseg", "train", "cells", "-o", "run", *ENDLESS]
    steps = []
    for _ in range(2):
        before = (here / "run/last.safetensors").stat().st_mtime_ns if steps else 0
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here, env=ONE_THREAD
        )
        wait_for(here / "run/last.safetensors", process)
        while (here / "run/last.safetensors").stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert out == ""
        last = err.splitlines()[-1]
        assert "Traceback" not in err
        found = re.fullmatch(
            r"medseg: stopped and saved after step (\d+)\. Run the same again to go on\.", last
        )
        assert found, err
        steps.append(int(found[1]))
    assert steps[1] > steps[0] >= 5
    first = re.search(r"step (\d+):", err)
    assert first
    assert int(first[1]) > steps[0], "it began again"


def test_killed_between_the_training_and_its_test(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = make_data(here / "cells")
    words = ["train", str(data), "-o", "run", *QUICK]
    medseg.fit(medseg.make_plan(data).with_overrides(QUICK), data, here / "run")
    assert not (here / "run/unseen").exists()
    assert main(["report", "run"]) == 1
    assert "Run 'medseg train' again" in capfd.readouterr().err
    weights = (here / "run/bundle/weights.safetensors").read_bytes()
    for _ in range(2):  # finished, once more does no harm
        assert main(words) == 0
        out, err = capfd.readouterr()
        assert err == "", "it trained again"
        assert "Scores on 1 test cases" in out
    assert (here / "run/unseen/scores.json").is_file()
    assert (here / "run/bundle/weights.safetensors").read_bytes() == weights


# progress


def test_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Display() as display:
        on_case, on_tile = display.cases("Segmenting", 4)
        on_tile(1, 4)
        now[0] += 11
        on_tile(2, 4)
        now[0] += 11
        on_case("a")
        on_case("b")
        now[0] += 11
        display.step(StepInfo("training", 20, 100, 0.5, 1e-3, 3700.0))
        now[0] += 11
        display.step(StepInfo("training", 21, 100, 0.25, 1e-3, 3700.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "  Segmenting: 0/4, tile 2/4  1:17 left",  # half a case in 11 s: 3.5 cases are left
        "  Segmenting: 1/4  1:06 left",
        "  Training: 21/100  loss 0.250  1:01:40 left",
    ]


def test_notes_are_not_wrapped_or_coloured(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a [bold]stage[/bold] " + "long " * 40
    with Display() as display:
        display.stage(text)
    assert capsys.readouterr().err.splitlines() == [text]


def test_a_bar_on_a_terminal() -> None:
    script = """if True:
        import sys
        from types import SimpleNamespace as Info
        from medseg.cli.progress import Display
        with Display() as display:
            for step in range(1, 41):
                scores = {"step": 20, "ap": 0.5} if step == 20 else None
                display.step(Info(phase="training", step=step, steps=40, loss=0.5, lr=1e-3,
                                  seconds_left=99.0, scores=scores))
                display.bar.refresh()
        print("result")"""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=follower, stdout=subprocess.PIPE, env=environment
    )
    os.close(follower)
    shown = b""
    while select.select([leader], [], [], 60)[0]:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other side has closed
            break
        if not part:
            break
        shown += part
    out, _ = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 0
    text = shown.decode()
    assert "━" in text
    assert re.search(r"Training.*39/40  loss 0\.500  1:39 left", text)
    assert "  step 20: ap 0.5" in text
    assert out == b"result\n", "control codes in what is piped on"


def test_a_closed_pipe_is_no_error(here: Path) -> None:
    """As in ``medseg info ... | head -1``."""
    for i in range(40):
        Image.fromarray(np.zeros((3, 4), np.uint8)).save(here / f"{i}.png")
    result = subprocess.run(
        f"{sys.executable} -u -m medseg info . | head -1",
        shell=True, capture_output=True, text=True, cwd=here, timeout=60, env=ONE_THREAD,
    )  # fmt: skip
    assert result.stdout == "0.png\n"
    assert result.stderr == ""
