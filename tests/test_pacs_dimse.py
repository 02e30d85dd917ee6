"""Receiving and sending by DIMSE, with pynetdicom on both sides and on the loopback interface only."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest

pytest.importorskip("pynetdicom")
from pacs_fakes import CT, certificate, ct_slices, encoded
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from medseg.errors import Refused
from medseg.io.dicom.passing import differences
from medseg.pacs.dimse import DimsePeer
from medseg.pacs.receiving import Intake, Listener, start_listening
from medseg.pacs.secrets import client_context
from medseg.pacs.sending import deliver
from medseg.pacs.settings import Dimse, Listen
from medseg.pacs.spool import Spool, key_of

SR = "1.2.840.10008.5.1.4.1.1.88.33"
DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool") as held:
        yield held


@contextmanager
def listening(spool: Spool, **given: Any) -> Iterator[Listener]:
    """Our side, on a free port."""
    settings = Listen(**({"port": 0, "callers": ("PACS",), "timeout_s": 5.0} | given))
    listener = start_listening(settings, Intake(spool, time.time))
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def calling(
    port: int,
    *,
    title: str = "PACS",
    called: str = "MEDSEG",
    contexts: tuple[tuple[str, str], ...] = ((CT, "1.2.840.10008.1.2.1"),),
    tls: Any = None,
) -> Iterator[Any]:
    """An association with us, whether it stands or not."""
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    for sop_class, syntax in contexts:
        ae.add_requested_context(sop_class, syntax)
    association = ae.associate("127.0.0.1", port, ae_title=called, tls_args=tls)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def statuses(association: Any, slices: list[pydicom.Dataset]) -> list[int]:
    return [association.send_c_store(ds).Status for ds in slices]


def _data_set(ds: pydicom.Dataset) -> bytes:
    """The bytes behind the file meta information."""
    data = encoded(ds)
    return data[144 + struct.unpack("<I", data[140:144])[0] :]


# receiving


def test_a_series_is_received_byte_for_byte(spool: Spool) -> None:
    slices = ct_slices(5)
    with listening(spool) as listener, calling(listener.port) as association:
        assert statuses(association, slices) == [0] * 5
        assert statuses(association, slices[:2]) == [0, 0]  # again: no news
    [row] = spool.series()
    assert (row.arrived, row.modality, row.state, row.source) == (5, "CT", "receiving", "C-STORE from PACS")
    for ds in slices:
        file = spool.instances(row.uid)[str(ds.SOPInstanceUID)]
        assert file.read_bytes().endswith(_data_set(ds))
        assert pydicom.dcmread(file).SOPInstanceUID == ds.SOPInstanceUID
        assert file.relative_to(spool.folder).parts == ("series", row.key, f"{key_of(ds.SOPInstanceUID)}.dcm")
        assert file.stat().st_mode & 0o077 == 0 or spool.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("title", "called"), [("WRONG", "MEDSEG"), ("PACS", "OTHER"), ("pacs", "MEDSEG")])
def test_wrong_titles_are_not_let_in(spool: Spool, title: str, called: str) -> None:
    with listening(spool) as listener, calling(listener.port, title=title, called=called) as association:
        assert association.is_rejected


def test_only_images_that_can_be_decoded_are_agreed_on(spool: Spool) -> None:
    wanted = (
        (SR, "1.2.840.10008.1.2.1"),
        (CT, DEFLATED),
        (CT, "1.2.840.10008.1.2.4.70"),
        (Verification, "1.2.840.10008.1.2"),
    )
    with listening(spool) as listener, calling(listener.port, contexts=wanted) as association:
        taken = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
        assert taken == {(CT, "1.2.840.10008.1.2.4.70"), (str(Verification), "1.2.840.10008.1.2")}
        assert association.send_c_echo().Status == 0


def test_it_listens_on_the_loopback_interface_unless_told_otherwise(spool: Spool) -> None:
    with listening(spool) as listener:
        assert listener._server.server_address[0] == "127.0.0.1"
    assert Listen().host == "127.0.0.1"


def test_no_more_callers_than_may(spool: Spool) -> None:
    with listening(spool, max_associations=1) as listener, calling(listener.port) as first:
        assert first.is_established
        with calling(listener.port) as second:
            assert second.is_rejected


def test_an_object_that_is_too_large_ends_its_association_and_nothing_else(spool: Spool) -> None:
    [large], [small] = ct_slices(1, shape=(1500, 1000)), ct_slices(1, series="b")
    with listening(spool, max_object_mb=1) as listener:
        with calling(listener.port) as association:
            assert "Status" not in association.send_c_store(large)
        with calling(listener.port) as association:
            assert statuses(association, [small] * 3) == [0] * 3
    [row] = spool.series()
    assert row.uid == small.SeriesInstanceUID


def test_a_pdu_that_claims_gigabytes_is_not_waited_for(spool: Spool) -> None:
    with listening(spool) as listener, socket.create_connection(("127.0.0.1", listener.port)) as plain:
        plain.sendall(struct.pack(">BBL", 1, 0, 2**32 - 1) + b"x" * 1000)
        plain.settimeout(4)
        assert plain.recv(10) in (b"", b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")  # closed, or aborted


def test_a_full_spool_says_so_and_keeps_what_it_has(spool: Spool) -> None:
    slices = ct_slices(3)
    spool.max_bytes = 2 * len(encoded(slices[0])) + 100
    with listening(spool) as listener, calling(listener.port) as association:
        assert statuses(association, slices) == [0, 0, 0xA700]
        spool.max_bytes *= 2
        assert statuses(association, slices[2:]) == [0]


def test_the_same_uid_with_other_content_is_refused_and_stops_its_series(spool: Spool) -> None:
    slices, [other] = ct_slices(3), ct_slices(1, value=9)
    with listening(spool) as listener, calling(listener.port) as association:
        assert statuses(association, slices) == [0, 0, 0]
        assert statuses(association, [other]) == [0xC111]
        [row] = spool.series()
        assert (row.state, row.reason, row.arrived) == ("refused", "same-uid-other-content", 3)
        kept = spool.instances(row.uid)[str(other.SOPInstanceUID)].read_bytes()
        assert kept.endswith(_data_set(slices[0]))
        # and stays so, whatever comes after it
        assert statuses(association, ct_slices(4)[3:]) == [0]
    assert spool.series()[0].state == "refused"


def test_the_same_object_with_another_patient_name_is_no_news(spool: Spool) -> None:
    slices = ct_slices(2)
    with listening(spool) as listener, calling(listener.port) as association:
        statuses(association, slices)
        slices[0].PatientName = "Corrected^Name"
        assert statuses(association, slices) == [0, 0]
    assert spool.series()[0].state == "receiving"


def test_an_association_that_breaks_off_keeps_what_was_confirmed(spool: Spool) -> None:
    slices = ct_slices(4, shape=(300, 400))
    with listening(spool) as listener:
        with calling(listener.port) as association:
            assert statuses(association, slices[:2]) == [0, 0]
            association.abort()
        with calling(listener.port) as association:  # cut in the middle of an object
            peer, sent = association.dul.socket.socket, threading.Event()

            def cut(event: Any) -> None:
                if not sent.is_set() and len(event.data) > 10_000:
                    sent.set()
                    peer.shutdown(socket.SHUT_RDWR)

            association.bind(evt.EVT_DATA_SENT, cut)
            assert "Status" not in association.send_c_store(slices[2])
            assert sent.is_set()
        _until(lambda: not listener._server.active_associations)
        assert spool.series()[0].arrived == 2
        assert list((spool.folder / "incoming").iterdir()) == []
        with calling(listener.port) as association:
            assert statuses(association, slices) == [0] * 4
    assert spool.series()[0].arrived == 4


def _until(true: Any) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_no_name_or_number_of_a_patient_is_logged_or_in_a_path(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="medseg")
    slices, [other] = ct_slices(2), ct_slices(1, value=9)
    with listening(spool) as listener, calling(listener.port) as association:
        statuses(association, [*slices, other])
    said = caplog.text + "\n".join(str(f) for f in spool.folder.rglob("*"))
    assert key_of(slices[0].SOPInstanceUID) in said
    for secret in ("Secret", "4711", "1950", "20260102", *(str(ds.SOPInstanceUID) for ds in slices)):
        assert secret not in said


# TLS


def test_tls_with_certificates_on_both_sides(spool: Spool, tmp_path: Path) -> None:
    ours, theirs, strangers = (certificate(tmp_path / n) for n in ("ours", "theirs", "strangers"))
    given = {"certificate": str(ours[0]), "key": str(ours[1]), "authority": str(theirs[0])}
    slices = ct_slices(3, shape=(200, 300))
    with listening(spool, **given) as listener:
        context = client_context(str(ours[0]), str(theirs[0]), str(theirs[1]))
        with calling(listener.port, tls=(context, "127.0.0.1")) as association:
            assert statuses(association, slices) == [0, 0, 0]
        wrong = client_context(str(ours[0]), str(strangers[0]), str(strangers[1]))
        with calling(listener.port, tls=(wrong, "127.0.0.1")) as association:
            assert not association.is_established
        with calling(listener.port) as association:  # in clear text
            assert not association.is_established
        untrusted = client_context(str(strangers[0]), str(theirs[0]), str(theirs[1]))
        with calling(listener.port, tls=(untrusted, "127.0.0.1")) as association:
            assert not association.is_established


def test_who_says_nothing_over_tls_keeps_nobody_waiting(spool: Spool, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with (
        listening(spool, certificate=str(cert), key=str(key)) as listener,
        socket.create_connection(("127.0.0.1", listener.port)),
        calling(listener.port, tls=(client_context(str(cert)), "127.0.0.1")) as association,
    ):
        assert statuses(association, ct_slices(1)) == [0]


def test_a_key_that_others_can_read_is_refused(spool: Spool, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    key.chmod(0o644)
    with pytest.raises(Refused) as refused, listening(spool, certificate=str(cert), key=str(key)):
        pass
    assert refused.value.reason == "open-secret"
    key.write_text("no key")
    key.chmod(0o600)
    with pytest.raises(Refused) as refused, listening(spool, certificate=str(cert), key=str(key)):
        pass
    assert refused.value.reason == "bad-certificate"


# sending, against a PACS of pynetdicom


class Node:
    """A small PACS: C-STORE, C-FIND at two levels, C-GET; it keeps the old of two objects of one UID."""

    def __init__(self, *, title: str = "PACS", gives: bool = True, tls: Any = None) -> None:
        self.held: dict[str, pydicom.Dataset] = {}
        self.stores = 0
        self.loses = False
        self.code = 0
        ae = AE(title)
        ae.require_called_aet, ae.require_calling_aet = True, ["MEDSEG"]
        ae.add_supported_context(CT, scu_role=True, scp_role=True)
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if gives:
            ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        handlers = [
            (evt.EVT_C_STORE, self.store),
            (evt.EVT_C_FIND, self.find),
            (evt.EVT_C_GET, self.get),
        ]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
        self.port = self.server.server_address[1]

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()

    def store(self, event: Any) -> int:
        self.stores += 1
        ds = event.dataset
        ds.file_meta = event.file_meta
        if not self.loses and not self.code:
            self.held.setdefault(str(ds.SOPInstanceUID), ds)
        return self.code

    def matching(self, asked: pydicom.Dataset) -> list[pydicom.Dataset]:
        keys = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        return [d for d in self.held.values() if all(asked.get(k) in (None, "", d.get(k)) for k in keys)]

    def find(self, event: Any) -> Iterator[Any]:
        found = self.matching(event.identifier)
        if event.identifier.QueryRetrieveLevel == "SERIES":
            for uid in {d.SeriesInstanceUID for d in found}:
                answer = pydicom.Dataset()
                answer.QueryRetrieveLevel, answer.SeriesInstanceUID = "SERIES", uid
                answer.NumberOfSeriesRelatedInstances = len(found)
                yield 0xFF00, answer
            return
        for d in found:
            answer = pydicom.Dataset()
            answer.QueryRetrieveLevel, answer.SOPInstanceUID = "IMAGE", d.SOPInstanceUID
            answer.SOPClassUID = d.SOPClassUID
            yield 0xFF00, answer

    def get(self, event: Any) -> Iterator[Any]:
        found = self.matching(event.identifier)
        yield len(found)
        for d in found:
            yield 0xFF00, d


def peer_of(port: int, **given: Any) -> DimsePeer:
    return DimsePeer(
        Dimse(**({"host": "127.0.0.1", "port": port, "ae_title": "PACS", "timeout_s": 5.0} | given))
    )


def a_result(folder: Path, value: int = 7) -> Path:
    [ds] = ct_slices(1, series="result", value=value)
    file = folder / f"result{value}.dcm"
    file.write_bytes(encoded(ds))
    return file


@pytest.mark.parametrize("read_back", ["content", "presence"])
def test_results_are_sent_and_read_back(tmp_path: Path, read_back: str) -> None:
    file = a_result(tmp_path)
    with Node() as pacs:
        for _ in range(2):  # the second time it is found there
            deliver(peer_of(pacs.port), file, tmp_path, read_back=read_back)
        assert (pacs.stores, len(pacs.held)) == (1, 1)
        [ds] = pacs.held.values()
        (tmp_path / "theirs.dcm").write_bytes(encoded(ds))
        assert differences(file, tmp_path / "theirs.dcm") == ()


def test_an_old_object_under_the_same_uid_is_noticed(tmp_path: Path) -> None:
    with Node() as pacs:
        deliver(peer_of(pacs.port), a_result(tmp_path, 7), tmp_path)
        with pytest.raises(Refused) as refused:
            deliver(peer_of(pacs.port), a_result(tmp_path, 8), tmp_path)
    assert (refused.value.reason, "7FE00010" in str(refused.value)) == ("kept-another", True)


def test_what_goes_wrong_with_a_node_has_its_reason(tmp_path: Path) -> None:
    file, reasons = a_result(tmp_path), []

    def attempt(peer: DimsePeer) -> None:
        with pytest.raises(Refused) as refused:
            deliver(peer, file, tmp_path)
        reasons.append(refused.value.reason)

    with Node() as pacs:
        attempt(peer_of(pacs.port, ae_title="OTHER"))
        attempt(peer_of(pacs.port, our_ae_title="SOMEBODY"))
        pacs.loses = True
        attempt(peer_of(pacs.port))
        pacs.code = 0xA701
        attempt(peer_of(pacs.port))
        pacs.code = 0xC001
        attempt(peer_of(pacs.port))
    attempt(peer_of(pacs.port))  # gone, which pynetdicom does not raise
    with Node(gives=False) as pacs:
        attempt(peer_of(pacs.port))
    assert reasons == [
        "not-let-in",
        "not-let-in",
        "not-kept",
        "pacs-full",
        "not-taken",
        "pacs-away",
        "no-context",
    ]


def test_a_class_that_an_old_node_does_not_know_has_its_own_reason(tmp_path: Path) -> None:
    file = a_result(tmp_path)
    ds = pydicom.dcmread(file)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    ds.save_as(file)
    with Node() as pacs, pytest.raises(Refused) as refused:
        deliver(peer_of(pacs.port), file, tmp_path, read_back="presence")
    assert refused.value.reason == "no-context"


def test_a_node_is_asked_how_many_instances_it_has(tmp_path: Path) -> None:
    slices = ct_slices(5)
    study, series = str(slices[0].StudyInstanceUID), str(slices[0].SeriesInstanceUID)
    with Node() as pacs:
        assert peer_of(pacs.port).count(study, series) == 0
        pacs.held = {str(ds.SOPInstanceUID): ds for ds in slices}
        assert peer_of(pacs.port).count(study, series) == 5
        assert len(peer_of(pacs.port).list_instances(study, series)) == 5


def test_a_node_with_another_certificate_is_not_trusted(tmp_path: Path) -> None:
    import ssl

    ours, other = certificate(tmp_path / "a"), certificate(tmp_path / "b")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours)
    file = a_result(tmp_path)
    with Node(tls=context) as pacs:
        deliver(peer_of(pacs.port, authority=str(ours[0])), file, tmp_path)
        assert len(pacs.held) == 1
        with pytest.raises(Refused) as refused:
            deliver(peer_of(pacs.port, authority=str(other[0])), file, tmp_path)
    assert refused.value.reason == "not-trusted"
