"""What lies in a folder of predictions: one JSON file beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import Refused
from ..files import write_text

__all__ = ["MANIFEST", "Manifest", "Predicted"]

MANIFEST = "predictions.json"


@dataclass(frozen=True)
class Predicted:
    """One predicted case.

    Attributes
    ----------
    case : str
        Its name.
    image : str or tuple of str
        Path of the image, or of the files of its channels.
    prediction : str
        Name of the file beside the manifest.
    reference : tuple of str
        Paths of the reference; empty where there is none.
    objects : int
        Number of objects; -1 for label maps.
    colours : tuple of ((red, green, blue), value)
        Where the reference shows its values as colours.
    """

    case: str
    image: str | tuple[str, ...]
    prediction: str
    reference: tuple[str, ...] = ()
    objects: int = -1
    colours: tuple[tuple[tuple[int, int, int], int], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The cases of a folder of predictions, and what the maps hold.

    Attributes
    ----------
    folder : Path
        Where it lies.
    kind : {"instances", "semantic"}
        What the maps are.
    classes : dict
        Name -> value of the classes of label maps.
    model : str
        Name of the bundle.
    cases : tuple of Predicted
    facts : dict
        Versions, device and time, for the page.
    ignore : tuple of int
        Values of references whose pixels do not count.
    """

    folder: Path
    kind: str
    classes: dict[str, int]
    model: str
    cases: tuple[Predicted, ...]
    facts: dict[str, str]
    ignore: tuple[int, ...] = ()

    def save(self) -> Path:
        """Write it beside the predictions."""
        about: dict[str, Any] = {
            "format": 1,
            "kind": self.kind,
            "classes": self.classes,
            "ignore": list(self.ignore),
            "model": self.model,
            "facts": self.facts,
            "cases": [asdict(case) for case in self.cases],
        }
        return write_text(self.folder / MANIFEST, json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read it.

        Raises
        ------
        Refused
            ``not-predictions``.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            cases = tuple(Predicted(**{k: _held(v) for k, v in case.items()}) for case in about["cases"])
            ignore = tuple(about.get("ignore", ()))
            return cls(folder, about["kind"], about["classes"], about["model"], cases, about["facts"], ignore)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refused(
                "not-predictions",
                f"'{folder}' is not a folder of predictions",
                expected=f"a readable {MANIFEST}",
                do="name a folder that 'medseg predict' or 'medseg train' wrote",
            ) from error


def _held(value: Any) -> Any:
    # JSON knows no tuples
    return tuple(_held(one) for one in value) if isinstance(value, list) else value
