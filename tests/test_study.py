"""One study from files to results, and many in real children: right, whole, the same bytes, nobody's name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import dicom_series as made
import numpy as np
import pydicom
import pytest
from made_studies import BAD, THRESHOLD, bad_study, study, threshold_bundle

import medseg
from medseg.bundle import Bundle, load_bundle
from medseg.errors import Refused
from medseg.io.dicom.model import MAYBE_INCOMPLETE
from medseg.radiology import Limits, StudyOptions, process_study, run_studies
from medseg.radiology.options import RESULTS
from medseg.radiology.study import make_study, study_id

FILES = [
    "measurements.json",
    "report.dcm",
    "report.html",
    "rtstruct.dcm",
    "segmentation.dcm",
    "segmentation.nii.gz",
    "segmentation.seg.nrrd",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(threshold_bundle(tmp_path_factory.mktemp("model") / "threshold"), device="cpu")


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_a_study_is_measured_right_and_comes_whole(tmp_path: Path, model: Bundle) -> None:
    result = process_study(study(tmp_path / "in", 1, lift=160), model, tmp_path / "out")
    assert result.id == study_id("1.2.826.1") == result.folder.name
    assert sorted(content(result.folder)) == FILES
    assert [p.name for p in (tmp_path / "out").iterdir()] == [result.id]

    g = made.OBLIQUE
    true = np.stack([np.round(made.hu(g.points(g.position(k)))) + 160 for k in range(g.planes)])
    voxel_ml = 0.7 * 0.9 * 2.5 / 1000
    for name, inside in (("liver", true > THRESHOLD), ("spleen", true < -THRESHOLD)):
        assert result.volumes_ml[name] == pytest.approx(inside.sum() * voxel_ml, rel=0.01)
        mean = next(s["mean"] for s in result.record["structures"] if s["name"] == name)
        assert mean == pytest.approx(true[inside].mean(), rel=0.01)
    assert result.doubt is not None
    assert 0 <= result.doubt <= 1

    record = json.loads((result.folder / "measurements.json").read_text())
    assert record == {k: v for k, v in result.record.items() if k not in ("files", "looks")}
    assert record["series"]["shape"] == [18, 26, 9]
    assert record["series"]["spacing_mm"] == [0.7, 0.9, 2.5]
    digests = sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "in").iterdir())
    assert (
        record["input"]["sha256"] == hashlib.sha256("".join(f"{d}\n" for d in digests).encode()).hexdigest()
    )
    for name, about in result.record["files"].items():
        assert about["sha256"] == hashlib.sha256((result.folder / name).read_bytes()).hexdigest()
    # every voxel of the NIfTI lies where it lay in the patient
    image = medseg.read(tmp_path / "in")
    label = medseg.io.read_label(result.folder / "segmentation.nii.gz")
    assert np.allclose(image.affine, label.affine, atol=1e-4)
    values = np.asarray(image[0])
    expected = np.where(values > THRESHOLD, 1, np.where(values < -THRESHOLD, 2, 0))
    assert (np.asarray(label[0]) == expected).all()


def test_the_same_study_gives_the_same_bytes_and_replaces_what_was_there(
    tmp_path: Path, model: Bundle
) -> None:
    source = study(tmp_path / "in", 1)
    first = content(process_study(source, model, tmp_path / "out").folder)
    (tmp_path / "out" / study_id("1.2.826.1") / "stray").touch()
    second = process_study([*source.iterdir()], model, tmp_path / "out")
    assert content(second.folder) == first
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_results_say_that_a_series_may_not_be_whole(tmp_path: Path, model: Bundle) -> None:
    source = study(tmp_path / "in", 1)
    said: dict[str, list[Any]] = {}
    for name, notes in (("plain", ()), ("maybe", (MAYBE_INCOMPLETE,))):
        (tmp_path / name).mkdir()
        record = make_study([source], model, tmp_path / name, notes=notes)
        assert ("completeness-unknown" in {w["code"] for w in record["warnings"]}) == bool(notes)
        page = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        assert (MAYBE_INCOMPLETE.text in page) == bool(notes)
        files = [
            pydicom.dcmread(tmp_path / name / RESULTS[r]) for r in ("segmentation", "report", "rtstruct")
        ]
        said[name] = [str(f.SeriesDescription) for f in files]
        said[f"{name} uids"] = [str(f.SOPInstanceUID) for f in files]
    assert said["plain"] == [f"{what} by threshold" for what in ("Segmentation", "Measurements", "Contours")]
    assert said["maybe"] == [f"{text}, source may be incomplete" for text in said["plain"]]
    assert not set(said["plain uids"]) & set(said["maybe uids"])  # other objects, which a PACS keeps apart


def test_pages_and_paths_name_nobody_unless_asked(tmp_path: Path, model: Bundle) -> None:
    source = study(tmp_path / "in", 1)
    plain = process_study(source, model, tmp_path / "plain").folder
    for name in ("report.html", "measurements.json", "segmentation.seg.nrrd"):
        text = (plain / name).read_bytes()
        for word in ("HÄRTE", "script>alert", "=1+1", "20240229", "29.02.2024", str(tmp_path)):
            assert word.encode() not in text
    options = StudyOptions(show=("patient-name", "patient-id"), results=("nifti",), doubt=False)
    told = process_study(source, model, tmp_path / "told", options=options)
    page = (told.folder / "report.html").read_text(encoding="utf-8")
    assert "HÄRTE^&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "20240229" not in page
    assert sorted(content(told.folder)) == ["measurements.json", "report.html", "segmentation.nii.gz"]
    assert told.doubt is None


def test_what_deserves_a_look_is_said(tmp_path: Path, model: Bundle) -> None:
    source = study(tmp_path / "in", 1, lift=-3000)  # nothing is bright
    (source / "notes.txt").write_text("beside")
    result = process_study(
        source, model, tmp_path / "out", options=StudyOptions(results=("nifti",), doubt=False)
    )
    told = {w["code"]: w["text"] for w in result.record["warnings"]}
    assert told["not-found"] == "Not found: liver."
    assert told["cut-off"].endswith("cut off: spleen.")
    assert "1 not-dicom" in told["files-skipped"]
    page = (result.folder / "report.html").read_text()
    for text in told.values():
        assert text in page


@pytest.mark.parametrize(
    "kind", [k for k, reason in BAD.items() if reason not in ("no-study", "empty-study")]
)
def test_a_refusal_leaves_nothing(tmp_path: Path, model: Bundle, kind: str) -> None:
    with pytest.raises(Refused) as refused:
        process_study(bad_study(tmp_path / "in", 1, kind), model, tmp_path / "out")
    assert refused.value.reason == BAD[kind]
    assert not any((tmp_path / "out").iterdir())


def test_rules_choose_among_series_and_two_studies_are_refused(tmp_path: Path, model: Bundle) -> None:
    made.KINDS["two-series"].make(tmp_path / "in")
    fast = StudyOptions(results=("nifti",), doubt=False)
    first = process_study(tmp_path / "in", model, tmp_path / "out", series=1, options=fast)
    (tmp_path / "rules.toml").write_text("number = 2\n")
    second = process_study(
        tmp_path / "in", model, tmp_path / "b", series=tmp_path / "rules.toml", options=fast
    )
    assert first.id == second.id
    assert first.record["series"]["id"] != second.record["series"]["id"]
    study(tmp_path / "two/a", 1)
    study(tmp_path / "two/b", 2)
    with pytest.raises(Refused) as refused:
        process_study(tmp_path / "two", model, tmp_path / "c")
    assert refused.value.reason == "several-studies"


def test_a_model_of_planes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        process_study(tmp_path / "nowhere", "nuclei", tmp_path / "out")
    assert refused.value.reason == "not-organs"
    study(tmp_path / "in", 1)
    with pytest.raises(Refused) as refused:
        run_studies("nuclei", [tmp_path / "in"], tmp_path / "out")
    assert refused.value.reason == "not-organs"


def test_a_night_of_real_studies(tmp_path: Path, model: Bundle) -> None:
    source = tmp_path / "müller_hans"
    for number in (1, 2):
        study(source / f"p{number}", number, lift=40.0 * number)
    bad_study(source / "gap", 3, "a slice is missing")
    (source / "empty").mkdir()
    how: dict[str, Any] = {
        "limits": Limits(memory_gb=2.0, minutes=5),
        "options": StudyOptions(show=("patient-id", "folder")),
        "asked_by": "the night shift",
    }
    stages = []
    result = run_studies(
        model.path, [source], tmp_path / "out", progress=lambda *about: stages.append(about), **how
    )
    assert {o.id for o in result.outcomes if o.state == "done"} == {study_id(f"1.2.826.{n}") for n in (1, 2)}
    assert sorted(f.reason for f in result.batch.failed) == ["empty-study", "missing-slices"]
    assert stages[-1] == ("Segmenting studies", 4, 4)
    alone = process_study(
        source / "p1", model, tmp_path / "alone", options=StudyOptions(show=("patient-id",))
    )
    assert content(tmp_path / "out" / alone.id) == content(alone.folder)  # a child gives what a call gives

    page = (tmp_path / "out/night.html").read_text(encoding="utf-8")
    for outcome in result.outcomes:
        assert outcome.id in page
    for text in ("missing-slices", "empty-study", "=1+2", f"{source}/gap", f"{alone.id}/report.html"):
        assert text in page
    lists = json.loads((tmp_path / "out/quarantine/refused.json").read_text())
    assert [row["reason"] for row in lists["refused"]] == ["empty-study", "missing-slices"]
    sheet = (tmp_path / "out/quarantine/refused.csv").read_text(encoding="utf-8")
    assert f"{study_id('1.2.826.3')},missing-slices," in sheet
    assert ",'=1+3," in sheet  # no formula
    lines = [json.loads(line) for line in (tmp_path / "out/audit.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert line["asked_by"] == "the night shift"
        assert len(line["model"]["weights_sha256"]) == 64
        assert "ller" not in json.dumps(line)
    done = next(line for line in lines if line["study"] == alone.id)
    assert done["output"] == {name: about["sha256"] for name, about in alone.record["files"].items()}
    assert [p.name for p in sorted(source.iterdir())] == ["empty", "gap", "p1", "p2"]  # only read
