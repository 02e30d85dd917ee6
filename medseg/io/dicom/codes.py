"""What the classes of a plan are called in SNOMED CT: segments of a result, coded.

Every value is one of pydicom's dictionary of DICOM's terminologies (PS3.16); a test compares them. What
that does not hold has no code here: a wrong code is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import Refused
from ...palettes import Colour, class_colour
from ...plan.codes import ANATOMICAL, Code, Structure, structure_from_text

if TYPE_CHECKING:
    from ...plan import Plan

__all__ = ["ABNORMAL", "UNCODED_SCHEME", "Segment", "known_structures", "segments_of", "structure_named"]

ABNORMAL = Code("SCT", "49755003", "Morphologically Abnormal Structure")
TISSUE = Code("SCT", "85756007", "Tissue")
SUBSTANCE = Code("SCT", "91720002", "Body Substance")
UNSAID = Code("SCT", "309825002", "Spatial and Relational Concept")
UNCODED_SCHEME = "99MEDSEG"
"""Scheme of the codes of classes that nobody coded; DICOM keeps names that begin with 99 for private ones."""
LEFT, RIGHT = Code("SCT", "7771000", "Left"), Code("SCT", "24028007", "Right")


@dataclass(frozen=True)
class Segment:
    """A class of a result: its value in the label map, its name, and what it is.

    Examples
    --------
    >>> from medseg.io.dicom.codes import Segment, structure_named
    >>> segment = Segment(1, "liver", structure_named("liver"))
    >>> str(segment.code), segment.colour
    ('SCT:10200004:Liver', (0, 158, 115))
    """

    value: int
    name: str
    code: Structure

    @property
    def colour(self) -> Colour:
        """Red, green and blue, as in pages and pictures."""
        return class_colour(self.value)


# meaning: value, and the names under which data sets have it, besides the meaning itself
_ORGANS = """
Liver 10200004
Spleen 78961009
Pancreas 15776009
Kidney 64033007 | kidneys
Adrenal gland 23451007 | adrenal, adrenals, adrenal glands, suprarenal gland
Gallbladder 28231008 | gall bladder
Stomach 69695003
Duodenum 38848004
Esophagus 32849002
Small intestine 30315005 | small bowel
Large intestine 14742008 | large bowel
Colon 71854001
Sigmoid colon 60184004 | sigmoid
Rectum 34402009
Urinary bladder 89837001 | bladder
Prostate 41216001
Peripheral zone of the prostate 279706003 | prostate peripheral zone, peripheral zone
Transition zone of the prostate 399384005 | prostate transition zone, transition zone
Seminal vesicle 64739004 | seminal vesicles
Uterus 35039007
Cervix 71252005 | uterine cervix
Ovary 15497006
Vagina 76784001
Testis 40689003
Ureter 87953007
Urethra 13648007
Renal pelvis 25990002
Renal artery 2841007
Renal vein 56400007
Bile duct 28273000
Common bile duct 79741001
Heart 80891009
Left ventricle 87878005 | heart ventricle left, left ventricle of heart
Right ventricle 53085002 | heart ventricle right, right ventricle of heart
Left atrium 82471001 | heart atrium left
Right atrium 73829009 | heart atrium right
Left atrial appendage 33626005 | atrial appendage left
Left ventricle myocardium 49848007 | left ventricular myocardium, heart myocardium left
Pericardium 76848001
Aorta 15825003
Ascending aorta 54247002
Descending aorta 32672002
Abdominal aorta 7832008
Thoracic aorta 113262008
Inferior vena cava 64131007 | ivc, postcava, vena cava inferior
Superior vena cava 48345005 | svc, vena cava superior
Portal vein 32764006
Splenic vein 35819009
Hepatic vein 8993003 | hepatic veins
Superior mesenteric artery 42258001
Celiac trunk 57850000 | celiac axis, coeliac trunk
Pulmonary artery 81040000
Pulmonary vein 122972007 | pulmonary veins
Brachiocephalic trunk 12691009
Brachiocephalic vein 8887007
Carotid artery 69105007
Common carotid artery 32062004
Internal carotid artery 86117002
Subclavian artery 36765005
Common iliac artery 73634005 | iliac artery, iliac artery common, iliaca
Common iliac vein 46027005 | iliac vein, iliac vena
Blood vessel 59820001 | vessel, vessels, blood vessels
Artery 51114001 | arteries
Vein 29092000 | veins
Lung 39607008 | lungs
Upper lobe of lung 45653009 | lung upper lobe
Middle lobe of lung 40020002 | lung middle lobe
Lower lobe of lung 90572001 | lung lower lobe
Trachea 44567001
Bronchus 955009
Airway 89187006 | airways
Thyroid gland 69748006 | thyroid
Thymus 9875009
Mediastinum 72410000
Diaphragm 5798000
Breast 76752008
Brain 12738006
Brain stem 119238007 | brainstem
Cerebellum 113305005
Cerebral white matter 68523003
White matter 389080008
Gray matter 389081007 | grey matter
Cerebral cortex 40146001
Hippocampus 5366008
Amygdala 4958002
Thalamus 42695009
Putamen 89278009
Caudate nucleus 11000004 | caudate
Globus pallidus 14738005 | pallidum
Nucleus accumbens 427667007 | accumbens
Lateral ventricle 66720007
Third ventricle 49841001 | 3rd ventricle
Fourth ventricle 35918002 | 4th ventricle
Brain ventricle 35764002 | brain ventricles
Pituitary gland 56329008 | pituitary
Optic nerve 18234004
Optic chiasm 244453006 | chiasm
Optic disc 81016008 | optic disk
Retina 5665001
Eye 81745001 | eyeball
Lens of eye 78076003 | eye lens, lens
Parotid gland 45289007 | parotid
Submandibular gland 54019009 | submandibular
Lacrimal gland 13561001
Larynx 4596009
Pharynx 54066008
Oral cavity 74262004
Tongue 21974007
Mandible 91609006
Tooth 38199008 | teeth
Skull 89546000 | cranium
Spinal cord 2748008
Spinal canal 61853006
Spine 51282000 | vertebrae, vertebral column
Sacrum 54735007
Rib 113197003 | ribs
Costal cartilage 50016007 | costal cartilages
Sternum 56873002
Clavicle 51299004 | clavicula
Scapula 79601000
Humerus 85050009
Radius 62413002
Ulna 23416004
Hip 29836001
Femur 71341001
Femoral head 2812003
Patella 64234005
Tibia 12611008
Fibula 87342007
Bone 272673000
Erector spinae muscle 44947003 | autochthon, autochthonous
Head 69536005 | fetal head
Lymph node 59441001 | lymph nodes
Axis vertebra C2 39976000 | c2
Atlas vertebra C1 14806007 | c1
"""
_VERTEBRAE = {
    "C": "- - 113205007 5329002 36978003 36054005 87391001",
    "T": "64864005 53733008 1626008 73071006 56401006 45296009 62487009 11068009 82687006 7610001 12989004"
    " 23215003",
    "L": "66794005 14293000 36470004 11994002 49668003",
}
_OTHERS = {
    TISSUE: """
Skin 39937001
Muscle 91727004 | muscles
Skeletal muscle 127954009
Fat 55603005 | adipose tissue
""",
    SUBSTANCE: """
Blood 87612001
Cerebrospinal fluid 65216001 | csf
""",
    ABNORMAL: """
Neoplasm 108369006 | tumor, tumour, tumors, tumours
Lesion 52988006 | lesions
Cyst 367643001 | cysts
Nodule 27925004
Edema 79654002 | oedema
Necrosis 6574001
Hematoma 35566002 | haematoma
Pleural effusion 60046008
""",
}
_SIDES = {"left": LEFT, "l": LEFT, "lt": LEFT, "right": RIGHT, "r": RIGHT, "rt": RIGHT}


def _rows(text: str, category: Code) -> Iterator[tuple[str, Structure]]:
    """Yield every name of a table with its structure."""
    for line in text.strip().splitlines():
        first, _, others = line.partition(" | ")
        meaning, _, value = first.rpartition(" ")
        structure = Structure(Code("SCT", value, meaning), None, category)
        for name in (meaning, *filter(None, others.split(", "))):
            yield _plain(name), structure


def _plain(name: str) -> str:
    """Return a name in lower case, of letters and digits with one space between words."""
    spelt = name.replace("œ", "oe").lower()
    words = re.sub(r"[^a-z0-9]+", " ", spelt).split()
    return " ".join("esophagus" if word == "oesophagus" else word for word in words)


def known_structures() -> dict[str, Structure]:
    """Return every name that has a code, in lower case with a space between words, and its structure.

    Examples
    --------
    >>> from medseg.io.dicom.codes import known_structures
    >>> str(known_structures()["postcava"])
    'SCT:64131007:Inferior vena cava'
    """
    known = dict(_rows(_ORGANS, ANATOMICAL))
    for letter, values in _VERTEBRAE.items():
        for number, value in enumerate(values.split(), start=1):
            if value != "-":
                code = Code("SCT", value, f"Vertebra {letter}{number}")
                known[f"{letter.lower()}{number}"] = Structure(code)
    for category, text in _OTHERS.items():
        known.update(_rows(text, category))
    return known


def structure_named(name: str) -> Structure:
    """Return what a class of this name is: an organ of the table, on its side, or a code of medseg's own.

    Parameters
    ----------
    name : str
        As data sets write it: ``kidney_left``, ``Left kidney``, ``vertebrae_L1``, ``rib_right_4``.

    Returns
    -------
    Structure
        Where no organ has this name, ``known`` is False and the scheme is `UNCODED_SCHEME`.

    Examples
    --------
    >>> from medseg.io.dicom.codes import structure_named
    >>> str(structure_named("kidney_left")), str(structure_named("zone 7").code)
    ('SCT:64033007:Kidney + SCT:7771000:Left', '99MEDSEG:zone_7:zone 7')
    """
    known, plain = known_structures(), _plain(name)
    for prefix in ("vertebrae ", "vertebra "):
        plain = plain.removeprefix(prefix) if plain != prefix.strip() else plain
    if plain in known:
        return known[plain]
    words = plain.split()
    sides = {_SIDES[word] for word in words if word in _SIDES}
    rest = [word for word in words if word not in _SIDES]
    if rest[:1] == ["rib"] and len(rest) == 2 and rest[1].isdigit():
        rest = ["rib"]  # which of the twelve is in the name of the segment
    found = known.get(" ".join(rest))
    if found is not None and len(sides) == 1:
        return Structure(found.code, sides.pop(), found.category)
    if found is not None and not sides:
        return found
    return _uncoded(name)


def _uncoded(name: str) -> Structure:
    """Return a private code that says no more than the name of the class."""
    value = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:16] or "class"
    meaning = " ".join(re.sub(r"[^ -~]|[\\:]", " ", name).split())[:64] or "class"
    return Structure(Code(UNCODED_SCHEME, value, meaning), None, UNSAID, known=False)


def segments_of(plan: Plan) -> list[Segment]:
    """Return the segments of a plan's results: every class but the background, in their order.

    Parameters
    ----------
    plan : Plan
        Codes are those of ``target.codes``, or are looked up by the names of the classes.

    Raises
    ------
    Refused
        ``not-semantic`` for a plan of objects: its classes are no structures.

    Examples
    --------
    >>> from medseg import Plan
    >>> from medseg.io.dicom.codes import segments_of
    >>> plan = Plan().with_values({"target.classes": ("background", "spleen")})
    >>> [(s.value, str(s.code)) for s in segments_of(plan)]
    [(1, 'SCT:78961009:Spleen')]
    """
    target = plan.target
    if target.kind != "semantic":
        raise Refused(
            "not-semantic",
            f"the plan '{plan.name}' is of objects, which have no place in DICOM results",
            got=f'target.kind = "{target.kind}"',
            expected="semantic",
        )
    codes = target.codes or ("",) * len(target.classes)
    given = dict(zip(target.classes, codes))
    return [
        Segment(value, name, structure_from_text(given[name]) if given[name] else structure_named(name))
        for name, value in target.scored.items()
    ]
