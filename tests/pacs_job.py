"""What children do in the tests of the PACS peer: no model, so that a start takes a tenth of a second.

The results of a series are objects of its study whose UIDs follow from the series, as those of real ones.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from medseg.errors import Refused
from medseg.radiology.results import checksums


class Job:
    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.setup = setup

    def prepare(self, request: Mapping[str, Any]) -> None:
        pass

    def __call__(self, request: Mapping[str, Any], say: Callable[..., None]) -> dict[str, Any]:
        slices = sorted((pydicom.dcmread(f) for f in request["files"]), key=lambda d: d.InstanceNumber)
        first = slices[0]
        digest = hashlib.sha256(b"".join(d.PixelData for d in slices)).hexdigest()
        say("input", input={"files": len(slices), "sha256": digest})
        time.sleep(self.setup.get("seconds", 0.0))
        if first.SeriesDescription == "refuse":
            raise Refused("uneven-spacing", "the planes are not evenly spaced", do="send all of them")
        work = Path(request["work"])
        for name in ("segmentation", "report"):
            out = pydicom.Dataset()
            out.update(first)
            out.file_meta = first.file_meta
            out.SeriesInstanceUID = generate_uid(entropy_srcs=[first.SeriesInstanceUID, name])
            out.SOPInstanceUID = generate_uid(entropy_srcs=[first.SeriesInstanceUID, name, "instance"])
            out.Modality, out.SeriesDescription = "OT", f"{name} of {len(slices)}"
            out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
            out.PixelData = np.frombuffer(first.PixelData, "<i2").astype("<i2").tobytes()
            out.save_as(work / f"{name}.dcm", enforce_file_format=True)
        (work / "measurements.json").write_text("{}")
        (work / "report.html").write_text("<!doctype html>")
        record = {"input": {"files": len(slices), "sha256": digest}, "doubt": None, "looks": None}
        notes = [("odd", "look here."), *request["notes"]]
        record |= {"warnings": [{"code": code, "text": text} for code, text in notes], "structures": []}
        return {"record": record | {"files": checksums(work)}}
