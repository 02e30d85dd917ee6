"""Codes of classes: each is in pydicom's dictionary of terminologies, and means what it should."""

from __future__ import annotations

import importlib
import re

import pytest

from medseg import Plan, Refused, load_plan
from medseg.bundle_files import find_bundle
from medseg.io.dicom.codes import (
    ABNORMAL,
    LEFT,
    RIGHT,
    SUBSTANCE,
    TISSUE,
    UNCODED_SCHEME,
    UNSAID,
    known_structures,
    segments_of,
    structure_named,
)
from medseg.plan.codes import ANATOMICAL, structure_from_text

concepts = pytest.importorskip("pydicom.sr._concepts_dict")


def meanings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entries in concepts.concepts["SCT"].values():
        for value, (meaning, _) in entries.items():
            found.setdefault(value, []).append(meaning.lower())
    return found


def test_every_code_is_held_by_pydicom_and_means_the_same() -> None:
    held = meanings()
    codes = {s.code for s in known_structures().values()}
    categories = {ANATOMICAL, ABNORMAL, TISSUE, SUBSTANCE, UNSAID}
    listed = importlib.import_module("pydicom.sr.codedict").codes.cid7150
    allowed = {getattr(listed, name).value: getattr(listed, name).meaning for name in listed.dir()}
    assert all(allowed[c.value] == c.meaning for c in categories)
    codes |= {LEFT, RIGHT}
    vague = {"of", "the", "structure", "body", "bone", "zone", "lobe", "vein", "artery", "gland", "muscle"}
    assert len(codes) > 170
    for code in codes:
        assert code.scheme == "SCT"
        assert code.value in held, code
        words = set(re.findall(r"[a-z0-9]+", code.meaning.lower()))
        there = [set(re.findall(r"[a-z0-9]+", text)) for text in held[code.value]]
        telling = (words - vague) or words
        alike = [any(word[:5] == other[:5] for word in telling for other in text) for text in there]
        assert any(alike), f"{code} is {held[code.value]}"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("liver", "SCT:10200004:Liver"),
        ("Left Kidney", "SCT:64033007:Kidney + SCT:7771000:Left"),
        ("kidney_right", "SCT:64033007:Kidney + SCT:24028007:Right"),
        ("lung_upper_lobe_left", "SCT:45653009:Upper lobe of lung + SCT:7771000:Left"),
        ("heart_atrium_left", "SCT:82471001:Left atrium"),
        ("vertebrae_L4", "SCT:11994002:Vertebra L4"),
        ("vertebrae_C1", "SCT:14806007:Atlas vertebra C1"),
        ("vertebrae_T12", "SCT:23215003:Vertebra T12"),
        ("rib_left_7", "SCT:113197003:Rib + SCT:7771000:Left"),
        ("Oesophagus", "SCT:32849002:Esophagus"),
        ("tumour", "SCT:108369006:Neoplasm in SCT:49755003:Morphologically Abnormal Structure"),
        ("postcava", "SCT:64131007:Inferior vena cava"),
    ],
)
def test_names_of_data_sets_are_found(name: str, code: str) -> None:
    assert str(structure_named(name)) == code


@pytest.mark.parametrize("name", ["foreground", "left", "left right kidney", "rib_left_x", "ß\\:\n" * 40, ""])
def test_what_nobody_coded_has_a_code_of_medsegs_own(name: str) -> None:
    structure = structure_named(name)
    assert not structure.known
    assert structure.code.scheme == UNCODED_SCHEME
    assert 1 <= len(structure.code.value) <= 16
    assert 1 <= len(structure.code.meaning) <= 64
    assert structure.category == UNSAID
    assert structure_from_text(str(structure.code)).code == structure.code


def test_a_plan_says_what_its_classes_are() -> None:
    plan = Plan().with_values(
        {
            "target.classes": ("background", "A", "spleen", "odd"),
            "target.values": (0, 3, 1, 7),
            "target.codes": ("", "SCT:10200004:Liver", "", ""),
        }
    )
    found = [(s.value, s.name, s.code.code.meaning, s.code.known) for s in segments_of(plan)]
    assert found == [(3, "A", "Liver", True), (1, "spleen", "Spleen", True), (7, "odd", "odd", False)]


def test_the_shipped_model_of_the_hippocampus_is_coded() -> None:
    plan = load_plan(find_bundle("hippocampus") / "plan.toml")
    assert [str(s.code) for s in segments_of(plan)] == [
        "SCT:5366008:Hippocampus + SCT:255549009:Anterior",
        "SCT:5366008:Hippocampus + SCT:255551008:Posterior",
    ]
    held = meanings()
    assert "anterior" in held["255549009"]
    assert "posterior" in held["255551008"]


def test_a_plan_of_objects_has_no_segments() -> None:
    plan = Plan().with_values({"target.kind": "instances"})
    with pytest.raises(Refused) as error:
        segments_of(plan)
    assert error.value.reason == "not-semantic"


@pytest.mark.parametrize("text", ["liver", "SCT:1", "SCT::Liver", "S C T:1:x", "SCT:1:" + "x" * 65])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(Refused) as error:
        Plan().with_values({"target.codes": ("", text)})
    assert error.value.reason == "bad-code"


def test_codes_are_as_many_as_classes() -> None:
    with pytest.raises(Refused, match=r"got 1, expected 2"):
        Plan().with_values({"target.codes": ("SCT:10200004:Liver",)})
