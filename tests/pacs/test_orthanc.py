"""The peer against a real PACS, Orthanc, and dcmtk's senders."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

pytest.importorskip("pynetdicom")
from pacs_fakes import Process, certificate, ct_slices, encoded, until
from pacs_orthanc import PASSWORD, USER, Orthanc

from medseg.errors import Refused
from medseg.io.dicom.passing import identify_result
from medseg.pacs import STATUS, list_refused
from medseg.pacs.dimse import DimsePeer
from medseg.pacs.sending import deliver
from medseg.pacs.settings import Dimse, Web
from medseg.pacs.web import WebPeer

pytestmark = pytest.mark.pacs

STORESCU = "/usr/bin/storescu"  # by its path: pynetdicom installs another program of this name


def settings_file(folder: Path, pacs: Orthanc, *, by: str, listen: bool, more: str = "") -> Path:
    word = folder / "password"
    word.write_text(PASSWORD + "\n")
    word.chmod(0o600)
    text = f"""
[spool]
folder = "spool"
min_free_gb = 0
[web]
url = "http://127.0.0.1:{pacs.http}/dicom-web"
user = "{USER}"
password_file = "password"
timeout_s = 10.0
[dimse]
host = "127.0.0.1"
port = {pacs.dicom}
ae_title = "ORTHANC"
timeout_s = 10.0
[wait]
ask = "{by}"
settle_s = 0.3
[send]
by = "{by}"
first_pause_s = 0.1
max_pause_s = 0.5
"""
    if listen:
        text += f'[listen]\nport = {pacs.ours}\ncallers = ["ORTHANC", "STORESCU"]\n'
    else:
        text += "[poll]\nevery_s = 0.3\ndays = 100000\n"
    (folder / "serve.toml").write_text(text + more)
    return folder / "serve.toml"


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "spool" / STATUS).read_text())
    return found


def files(folder: Path, slices: list[pydicom.Dataset]) -> Path:
    folder.mkdir()
    for i, ds in enumerate(slices):
        (folder / f"{i}.dcm").write_bytes(encoded(ds))
    return folder


def results(pacs: Orthanc) -> list[str]:
    """Description of each result that the PACS holds, one an instance."""
    return sorted(
        s["MainDicomTags"]["SeriesDescription"]
        for s in pacs.of_series()
        if s["MainDicomTags"]["Modality"] == "OT"
        for _ in s["Instances"]
    )


def web(pacs: Orthanc, folder: Path, word: str = PASSWORD) -> WebPeer:
    file = folder / f"word-{word}"
    file.write_text(word)
    file.chmod(0o600)
    url = f"http://127.0.0.1:{pacs.http}/dicom-web"
    return WebPeer(Web(url=url, user=USER, password_file=str(file)))


def node(pacs: Orthanc, **more: Any) -> DimsePeer:
    given = {"host": "127.0.0.1", "port": pacs.dicom, "ae_title": "ORTHANC", "timeout_s": 10.0}
    return DimsePeer(Dimse(**(given | more)))


@pytest.mark.parametrize("by", ["web", "dimse"])
def test_a_night_with_the_pacs_stopped_in_the_middle(tmp_path: Path, orthanc: Orthanc, by: str) -> None:
    """Series come in, the PACS is killed and started again three times: nothing lost, nothing doubled."""
    rng = random.Random(1)
    series = [ct_slices(4 + i, series=str(i), study=str(i // 2)) for i in range(8)]
    for slices in series[:5]:
        for ds in slices:
            orthanc.put(encoded(ds))
    process = Process(settings_file(tmp_path, orthanc, by=by, listen=False), seconds=0.3)
    for _ in range(3):
        time.sleep(rng.uniform(0.3, 1.5))
        orthanc.stop(kill=True)
        time.sleep(rng.uniform(0.3, 1.0))
        orthanc.start()
    for slices in series[5:]:
        for ds in slices:
            orthanc.put(encoded(ds))
    until(lambda: status(tmp_path)["results"] == {"verified": 16}, 60)
    assert process.end(signal.SIGTERM) == "stopped\n"
    wanted = sorted(f"{name} of {len(s)}" for s in series for name in ("report", "segmentation"))
    assert results(orthanc) == wanted
    lines = [json.loads(line) for line in (tmp_path / "spool/results/audit.jsonl").open()]
    assert [(line["event"], line["asked_by"]) for line in lines] == [("done", "polling")] * 8
    # studies are still those of one patient each, with their results in them
    assert len(orthanc.ask("/studies")) == 4
    assert len(orthanc.ask("/patients")) == 1


def test_the_peer_killed_while_orthanc_sends(tmp_path: Path, orthanc: Orthanc) -> None:
    series = [ct_slices(6, series=str(i)) for i in range(4)]
    for ds in (ds for slices in series for ds in slices):
        orthanc.put(encoded(ds))
    [study] = orthanc.ask("/studies")
    file = settings_file(tmp_path, orthanc, by="dimse", listen=True)
    rng = random.Random(2)
    for _ in range(3):
        process = Process(file, seconds=0.3)
        killer = threading.Timer(rng.uniform(0.3, 1.5), process.end, [signal.SIGKILL])
        killer.start()
        with contextlib.suppress(requests.HTTPError):  # we are gone in the middle, or before
            orthanc.ask("/modalities/medseg/store", study)
        killer.join()
    process = Process(file, seconds=0.0)
    orthanc.ask("/modalities/medseg/store", study)
    until(lambda: status(tmp_path)["results"] == {"verified": 8}, 60)
    process.end(signal.SIGTERM)
    assert results(orthanc) == ["report of 6"] * 4 + ["segmentation of 6"] * 4


def test_dcmtk_sends_a_series_that_the_pacs_has_not_whole_yet(tmp_path: Path, orthanc: Orthanc) -> None:
    slices = ct_slices(7)
    for ds in slices[:4]:
        orthanc.put(encoded(ds))
    process = Process(settings_file(tmp_path, orthanc, by="dimse", listen=True), seconds=0.0)
    where = [STORESCU, "-R", "-aet", "STORESCU", "+sd", "127.0.0.1", str(orthanc.ours)]
    first, rest = files(tmp_path / "a", slices[:5]), files(tmp_path / "b", slices[5:])
    subprocess.run([*where[:4], "-aec", "MEDSEG", *where[4:], str(first)], check=True)
    wrong = subprocess.run([*where[:4], "-aec", "OTHER", *where[4:], str(rest)], capture_output=True)
    assert wrong.returncode != 0
    stranger = [STORESCU, "-R", "-aet", "STRANGER", "-aec", "MEDSEG", *where[4:], str(rest)]
    assert subprocess.run(stranger, capture_output=True).returncode != 0
    time.sleep(1.5)
    assert status(tmp_path)["series"] == {"receiving": 1}  # 5 here, 4 there
    for ds in slices[4:]:
        orthanc.put(encoded(ds))
    time.sleep(1.5)
    assert status(tmp_path)["series"] == {"receiving": 1}  # 5 here, 7 there
    subprocess.run([*where[:4], "-aec", "MEDSEG", *where[4:], str(rest)], check=True)
    until(lambda: status(tmp_path)["results"] == {"verified": 2})
    process.end(signal.SIGTERM)
    assert results(orthanc) == ["report of 7", "segmentation of 7"]


@pytest.mark.parametrize("by", ["web", "dimse"])
def test_orthanc_keeps_the_old_of_two_objects_and_that_is_noticed(
    tmp_path: Path, orthanc: Orthanc, by: str
) -> None:
    peer = web(orthanc, tmp_path) if by == "web" else node(orthanc)
    old, new = tmp_path / "old.dcm", tmp_path / "new.dcm"
    for file, value in ((old, 0), (new, 1)):
        [ds] = ct_slices(1, series="result", value=value)
        file.write_bytes(encoded(ds))
    deliver(peer, old, tmp_path)
    deliver(peer, old, tmp_path)
    peer.store(new, identify_result(new))  # reported as stored, without a word
    with pytest.raises(Refused) as refused:
        deliver(peer, new, tmp_path)
    assert refused.value.reason == "kept-another"
    assert len(orthanc.ask("/instances")) == 1


def test_what_goes_wrong_with_orthanc_has_its_reason(tmp_path: Path, orthanc: Orthanc) -> None:
    [ds] = ct_slices(1)
    file = tmp_path / "a.dcm"
    file.write_bytes(encoded(ds))

    def reason(peer: Any) -> str:
        with pytest.raises(Refused) as refused:
            deliver(peer, file, tmp_path)
        return refused.value.reason

    assert reason(web(orthanc, tmp_path, "wrong")) == "not-let-in"
    assert reason(node(orthanc, ae_title="OTHER")) == "not-let-in"
    assert reason(node(orthanc, our_ae_title="STRANGER")) in ("not-let-in", "pacs-away")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    file.write_bytes(encoded(ds))
    assert reason(node(orthanc)) == "no-context"  # a LABELMAP, which an old PACS takes by STOW-RS only
    deliver(web(orthanc, tmp_path), file, tmp_path)
    orthanc.stop()
    assert reason(web(orthanc, tmp_path)) == "pacs-away"
    assert reason(node(orthanc)) == "pacs-away"


def test_tls_with_orthanc(tmp_path: Path, new_orthanc: Callable[..., Orthanc]) -> None:
    theirs, ours, strangers = (certificate(tmp_path / n) for n in ("theirs", "ours", "strangers"))
    both = tmp_path / "both.pem"
    both.write_text(theirs[1].read_text() + theirs[0].read_text())
    pacs = new_orthanc(
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(theirs[0]),
        DicomTlsPrivateKey=str(theirs[1]),
        DicomTlsTrustedCertificates=str(ours[0]),
    )
    [ds] = ct_slices(1)
    file = tmp_path / "a.dcm"
    file.write_bytes(encoded(ds))
    mine = {"certificate": str(ours[0]), "key": str(ours[1])}
    deliver(node(pacs, authority=str(theirs[0]), **mine), file, tmp_path)
    assert len(pacs.ask("/instances")) == 1
    with pytest.raises(Refused) as refused:
        deliver(node(pacs, authority=str(strangers[0]), **mine), file, tmp_path)
    assert refused.value.reason == "not-trusted"
    other = {"certificate": str(strangers[0]), "key": str(strangers[1])}
    with pytest.raises(Refused) as refused:
        deliver(node(pacs, authority=str(theirs[0]), **other), file, tmp_path)
    assert refused.value.reason in ("pacs-away", "not-let-in")


def test_medseg_serve_with_a_model(tmp_path: Path, orthanc: Orthanc) -> None:
    """The command, with the model that is shipped, on a series of MR: SEG and report are in the PACS."""
    slices = ct_slices(20, shape=(24, 20))
    for ds in slices:
        ds.Modality, ds.SOPClassUID = "MR", "1.2.840.10008.5.1.4.1.1.4"
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.PixelSpacing, ds.SliceThickness = [1.1, 1.3], 2.5
        del ds.RescaleType
        orthanc.put(encoded(ds))
    file = settings_file(tmp_path, orthanc, by="web", listen=False)
    words = [sys.executable, "-m", "medseg", "serve", "hippocampus", str(file)]
    assert subprocess.run([*words, "--check"], capture_output=True).returncode == 0
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        until((tmp_path / "spool" / STATUS).exists, 60)
        until(lambda: status(tmp_path)["results"] == {"verified": 2} or list_refused(tmp_path / "spool"), 120)
        assert list_refused(tmp_path / "spool") == []
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Secret" not in said
    assert str(slices[0].SeriesInstanceUID) not in said
    modalities = [s["MainDicomTags"]["Modality"] for s in orthanc.of_series()]
    assert sorted(modalities) == ["MR", "SEG", "SR"]
    [study] = orthanc.ask("/studies")
    assert orthanc.ask(f"/studies/{study}")["PatientMainDicomTags"]["PatientID"] == "S-4711"
    status_of = subprocess.run([*words, "--status"], capture_output=True, text=True)
    assert (status_of.returncode, "verified 2" in status_of.stdout) == (0, True)
