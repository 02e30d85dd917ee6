"""What the tests of the PACS peer share: small CT slices, a DICOMweb server in memory, certificates."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

HERE = Path(__file__).parent
CT = "1.2.840.10008.5.1.4.1.1.2"


def ct_slices(
    n: int = 4, *, series: str = "a", study: str = "s", value: int = 0, shape: tuple[int, int] = (6, 8)
) -> list[pydicom.Dataset]:
    """Axial CT slices, rows != columns, 0.7 x 0.9 x 2.5 mm, of UIDs that follow from names."""
    out = []
    for k in range(n):
        ds = pydicom.Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CT
        ds.SOPInstanceUID = generate_uid(entropy_srcs=["instance", study, series, str(k)])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.StudyInstanceUID = generate_uid(entropy_srcs=["study", study])
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series", study, series])
        ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", study])
        ds.Modality, ds.PatientName, ds.PatientID = "CT", "Secret^Name", "S-4711"
        ds.PatientBirthDate, ds.PatientSex, ds.StudyDate, ds.StudyTime = "19500101", "O", "20260102", "030405"
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName, ds.Manufacturer = "", "", "", "Phantom"
        ds.SeriesNumber, ds.InstanceNumber = 3, k + 1
        ds.SeriesDescription, ds.ImageType = "axial", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImagePositionPatient = [-3.0, 5.0, 2.5 * k]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.9, 0.7], 2.5
        ds.Rows, ds.Columns = shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.KVP, ds.PositionReferenceIndicator, ds.AcquisitionNumber = "", "", 1
        pixels = np.arange(shape[0] * shape[1], dtype="<i2").reshape(shape) + value + 100 * k
        ds.PixelData = pixels.tobytes()
        out.append(ds)
    return out


def encoded(ds: pydicom.Dataset) -> bytes:
    """A data set as the bytes of a file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def certificate(folder: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate for an address, and its key, which nobody else can read."""
    folder.mkdir(parents=True, exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    kind = "IP" if re.fullmatch(r"[0-9.]+", name) else "DNS"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={kind}:{name}"]
    subprocess.run([*words, "-keyout", key, "-out", cert], check=True, capture_output=True)
    key.chmod(0o600)
    return cert, key


def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


class Process:
    """The peer as a process of its own."""

    def __init__(self, file: Path, seconds: float) -> None:
        words = [sys.executable, str(HERE / "pacs_serve.py"), str(file), str(seconds)]
        with open(file.with_suffix(".log"), "a") as log:  # to look at where a test failed
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("port "), line
        self.port = int(line.split()[1])

    def end(self, number: int) -> str:
        """Send a signal, wait, and give what it still said."""
        os.kill(self.process.pid, number)
        said, _ = self.process.communicate(timeout=60)
        return said


@dataclass
class FakeWeb:
    """A DICOMweb server in memory that can misbehave; of two objects with one UID it keeps the old."""

    user: str = ""
    password: str = ""
    page: int = 100
    loses: bool = False  # reports as stored and keeps nothing
    refuses: int = 0  # a failure reason for each object that is stored
    status: int = 0  # answers everything with this code
    silent_count: bool = False  # reports no number of instances
    knows_offset: bool = True
    breaks_off: bool = False  # in the middle of an object
    url: str = ""
    held: dict[str, bytes] = field(default_factory=dict)
    posts: int = 0
    gets: int = 0

    def put(self, *datasets: pydicom.Dataset) -> None:
        """Give it objects."""
        for ds in datasets:
            self.held[str(ds.SOPInstanceUID)] = encoded(ds)

    def headers(self) -> list[pydicom.Dataset]:
        held = list(self.held.values())  # at once: other threads put objects into it
        return [pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True) for data in held]


@contextmanager
def serving(fake: FakeWeb, *, port: int = 0, tls: tuple[Path, Path] | None = None) -> Iterator[FakeWeb]:
    """Run the server on the loopback interface; ``fake.url`` tells where."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(fake))
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    fake.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/dicom-web"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(fake: FakeWeb) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, code: int, body: bytes = b"", kind: str = "application/dicom+json") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def turned_away(self) -> bool:
            if fake.status:
                self.answer(fake.status)
                return True
            wanted = "Basic " + base64.b64encode(f"{fake.user}:{fake.password}".encode()).decode()
            if fake.user and self.headers.get("Authorization") != wanted:
                self.answer(401)
                return True
            return False

        def do_GET(self) -> None:
            fake.gets += 1
            if self.turned_away():
                return
            parts = urlsplit(self.path)
            asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
            words = parts.path.removeprefix("/dicom-web").strip("/").split("/")
            place = dict(zip(words[::2], words[1::2]))
            if words[-1] in ("series", "instances"):
                self.search(words[-1], place, asked)
                return
            data = fake.held.get(place["instances"])
            if data is None:
                self.answer(404)
                return
            head = b"--here\r\nContent-Type: application/dicom\r\n\r\n"
            body = head + data + b"\r\n--here--\r\n"
            if fake.breaks_off:
                body = body[: len(body) // 2]
            self.answer(200, body, 'multipart/related; type="application/dicom"; boundary=here')

        def search(self, what: str, place: dict[str, str], asked: dict[str, str]) -> None:
            rows: dict[str, dict[str, Any]] = {}
            for ds in fake.headers():
                if place.get("studies", ds.StudyInstanceUID) != ds.StudyInstanceUID:
                    continue
                if what == "instances" and place["series"] != ds.SeriesInstanceUID:
                    continue
                if any(str(ds.get(k, "")) != v for k, v in asked.items() if k in ("Modality", *_UIDS)):
                    continue
                if ds.StudyDate < asked.get("StudyDate", "0").rstrip("-"):
                    continue
                uid = str(ds.SOPInstanceUID if what == "instances" else ds.SeriesInstanceUID)
                row = rows.setdefault(
                    uid,
                    {
                        "0020000D": {"vr": "UI", "Value": [ds.StudyInstanceUID]},
                        "0020000E": {"vr": "UI", "Value": [ds.SeriesInstanceUID]},
                        "00080060": {"vr": "CS", "Value": [ds.Modality]},
                    },
                )
                if what == "instances":
                    row["00080018"] = {"vr": "UI", "Value": [ds.SOPInstanceUID]}
                    row["00080016"] = {"vr": "UI", "Value": [ds.SOPClassUID]}
                elif not fake.silent_count:
                    row.setdefault("00201209", {"vr": "IS", "Value": [0]})["Value"][0] += 1
            start = int(asked.get("offset", 0)) if fake.knows_offset else 0
            most = min(fake.page, int(asked.get("limit", fake.page)))
            self.answer(200, json.dumps(list(rows.values())[start : start + most]).encode())

        def do_POST(self) -> None:
            fake.posts += 1
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.turned_away():
                return
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary
            data = body.split(b"--" + boundary[1].encode())[1].split(b"\r\n\r\n", 1)[1][:-2]
            uid = str(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID)
            if fake.refuses:
                item = {
                    "00081150": {"vr": "UI", "Value": ["1.2"]},
                    "00081155": {"vr": "UI", "Value": [uid]},
                    "00081197": {"vr": "US", "Value": [fake.refuses]},
                }
                self.answer(409, json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode())
                return
            if not fake.loses:
                fake.held.setdefault(uid, data)
            self.answer(200, json.dumps({"00081199": {"vr": "SQ", "Value": []}}).encode())

    return Handler


_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
