"""Polling, waiting and sending by DICOMweb, against a server in memory that can misbehave."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom")
from pacs_fakes import FakeWeb, certificate, ct_slices, encoded, serving

from medseg.errors import Refused
from medseg.io.dicom.passing import differences, identify, identify_result
from medseg.pacs.completing import QUIET_NOTE, look_for_complete
from medseg.pacs.polling import fetch_new
from medseg.pacs.receiving import Intake
from medseg.pacs.sending import deliver, send_due
from medseg.pacs.settings import Send, Wait, Web
from medseg.pacs.spool import Spool, key_of
from medseg.pacs.web import WebPeer


class Clock:
    """A clock that the test winds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path: Path):
    with Spool(tmp_path / "spool") as held:
        yield held


@pytest.fixture
def pacs():
    with serving(FakeWeb()) as fake:
        yield fake


def never() -> bool:
    return False


def password(folder: Path, word: str) -> str:
    file = folder / f"password-{word}"
    file.write_text(word + "\n")
    file.chmod(0o600)
    return str(file)


def result_file(folder: Path, name: str = "result", value: int = 7) -> Path:
    """An object to send; what class it has does not matter here."""
    file = folder / f"{name}.dcm"
    [ds] = ct_slices(1, series=name, value=value)
    file.write_bytes(encoded(ds))
    return file


# fetching


def test_new_series_are_fetched_once_and_an_instance_more_is_fetched_alone(
    spool: Spool, pacs: FakeWeb, clock: Clock
) -> None:
    slices = ct_slices(5)
    pacs.put(*slices[:4], *ct_slices(2, series="b"))
    intake, peer = Intake(spool, clock), WebPeer(Web(url=pacs.url))
    assert fetch_new(intake, peer, ("CT", "MR"), oldest="", stopped=never) == 6
    asked = pacs.gets
    assert fetch_new(intake, peer, ("CT", "MR"), oldest="", stopped=never) == 0
    assert pacs.gets - asked <= 4  # two modalities, a page and an empty page each: no instance is asked for
    pacs.put(slices[4])
    assert fetch_new(intake, peer, ("CT",), oldest="", stopped=never) == 1
    files = spool.instances(str(slices[0].SeriesInstanceUID))
    assert {uid: file.read_bytes() for uid, file in files.items()} == {
        str(ds.SOPInstanceUID): encoded(ds) for ds in slices
    }


def test_dates_and_modalities_are_asked_for(spool: Spool, pacs: FakeWeb, clock: Clock) -> None:
    pacs.put(*ct_slices(2))
    intake, peer = Intake(spool, clock), WebPeer(Web(url=pacs.url))
    assert fetch_new(intake, peer, ("MR",), oldest="", stopped=never) == 0
    assert fetch_new(intake, peer, ("CT",), oldest="20260103", stopped=never) == 0
    assert fetch_new(intake, peer, ("CT",), oldest="20260102", stopped=never) == 2


@pytest.mark.parametrize("knows_offset", [True, False])
def test_pages_are_turned_until_nothing_new_comes(pacs: FakeWeb, knows_offset: bool) -> None:
    pacs.put(*(ds for i in range(7) for ds in ct_slices(1, series=str(i))))
    pacs.page, pacs.knows_offset = 3, knows_offset
    found = list(WebPeer(Web(url=pacs.url)).search("CT", ""))
    assert len({s.uid for s in found}) == len(found) == (7 if knows_offset else 3)


def test_a_series_that_breaks_off_goes_on_where_it_was(spool: Spool, pacs: FakeWeb, clock: Clock) -> None:
    slices = ct_slices(6)
    pacs.put(*slices)
    intake, peer = Intake(spool, clock), WebPeer(Web(url=pacs.url))
    left = iter([False, False, False])
    assert fetch_new(intake, peer, ("CT",), oldest="", stopped=lambda: next(left, True)) == 3
    pacs.breaks_off = True
    with pytest.raises(Refused) as refused:
        fetch_new(intake, peer, ("CT",), oldest="", stopped=never)
    assert refused.value.reason == "pacs-away"
    assert list((spool.folder / "incoming").iterdir()) == []
    pacs.breaks_off = False
    assert fetch_new(intake, peer, ("CT",), oldest="", stopped=never) == 3


def test_an_object_may_not_be_larger_than_it_may(spool: Spool, pacs: FakeWeb, clock: Clock) -> None:
    pacs.put(*ct_slices(1, shape=(1000, 800)))
    peer = WebPeer(Web(url=pacs.url, max_object_mb=1))
    intake = Intake(spool, clock)
    assert fetch_new(intake, peer, ("CT",), oldest="", stopped=never) == 0
    assert spool.series() == []
    asked = pacs.gets
    assert fetch_new(intake, peer, ("CT",), oldest="", stopped=never) == 0
    assert pacs.gets - asked == 4  # two questions of two pages each: it is not fetched again


# waiting


def test_a_series_is_complete_when_the_pacs_reports_twice_what_is_here(
    spool: Spool, pacs: FakeWeb, clock: Clock
) -> None:
    slices, wait = ct_slices(4), Wait(ask="web", settle_s=10)
    pacs.put(*slices[:3])  # it is receiving the series itself, and has as much of it as we have
    intake, peer = Intake(spool, clock), WebPeer(Web(url=pacs.url))
    for ds in slices[:3]:
        intake.take(encoded(ds), source="test")

    def after(seconds: float) -> list[str]:
        clock.now += seconds
        return [row.key for row in look_for_complete(spool, peer, wait, now=clock.now)]

    assert after(5) == []  # it matches, for the first time
    pacs.put(slices[3])
    assert after(10) == []  # it does not any more
    intake.take(encoded(slices[3]), source="test")
    assert after(5) == []
    assert after(5) == []  # not long enough
    assert after(5) == [key_of(str(slices[0].SeriesInstanceUID))]
    [row] = spool.series("ready")
    assert (row.arrived, row.expected, row.note) == (4, 4, "")


def test_a_pacs_that_reports_no_number_is_asked_for_a_list(pacs: FakeWeb) -> None:
    pacs.put(*ct_slices(5))
    pacs.silent_count, pacs.page = True, 2
    [ds] = ct_slices(1)
    peer = WebPeer(Web(url=pacs.url))
    assert peer.count(str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)) == 5
    assert peer.count(str(ds.StudyInstanceUID), "1.2.3") == 0


def test_half_a_series_is_given_up_and_taken_up_again(spool: Spool, pacs: FakeWeb, clock: Clock) -> None:
    slices, wait = ct_slices(4), Wait(ask="web", settle_s=10, give_up_hours=1)
    pacs.put(*slices)
    intake, peer = Intake(spool, clock), WebPeer(Web(url=pacs.url))
    for ds in slices[:2]:
        intake.take(encoded(ds), source="test")
    clock.now += 3000
    look_for_complete(spool, peer, wait, now=clock.now)
    assert spool.series("refused") == []
    clock.now += 3000
    look_for_complete(spool, peer, wait, now=clock.now)
    [row] = spool.series("refused")
    assert (row.reason, "got 2 instances, expected 4" in row.text) == ("incomplete-series", True)
    for ds in slices[2:]:
        intake.take(encoded(ds), source="test")
    for _ in range(2):
        clock.now += 10
        look_for_complete(spool, peer, wait, now=clock.now)
    [row] = spool.series("ready")
    assert (row.arrived, row.reason) == (4, "")


def test_where_nobody_can_be_asked_quiet_counts_and_is_noted(spool: Spool, clock: Clock) -> None:
    intake, wait = Intake(spool, clock), Wait(quiet_s=60)
    for ds in ct_slices(2):
        intake.take(encoded(ds), source="test")
        clock.now += 50
    assert look_for_complete(spool, None, wait, now=clock.now) == []
    clock.now += 10
    assert len(look_for_complete(spool, None, wait, now=clock.now)) == 1
    assert spool.series("ready")[0].note == QUIET_NOTE


# sending


def queue(spool: Spool, clock: Clock, *files: Path) -> None:
    """A series that is done, with results."""
    for ds in ct_slices(2):
        Intake(spool, clock).take(encoded(ds), source="test")
    [row] = look_for_complete(spool, None, Wait(quiet_s=1), now=clock.now + 1)
    [row] = spool.series("ready")
    spool.move(row, "running")
    [row] = spool.series("running")
    assert spool.finish(row, [(identify_result(f), f) for f in files], now=clock.now)


def test_results_are_sent_once_and_read_back(
    spool: Spool, pacs: FakeWeb, clock: Clock, tmp_path: Path
) -> None:
    files = [result_file(tmp_path, name) for name in ("x", "y")]
    queue(spool, clock, *files)
    peer = WebPeer(Web(url=pacs.url))
    assert send_due(spool, peer, Send(), now=clock.now) == 2
    assert pacs.posts == len(pacs.held) == 2
    assert all(not differences(f, _written(pacs, f, tmp_path)) for f in files)
    assert send_due(spool, peer, Send(), now=clock.now) == 0
    assert spool.counts()["results"] == {"verified": 2}
    # killed between sending and noting it: it is found there and not sent again
    deliver(peer, files[0], tmp_path)
    assert pacs.posts == 2


def _written(pacs: FakeWeb, file: Path, folder: Path) -> Path:
    out = folder / "theirs.dcm"
    out.write_bytes(pacs.held[identify_result(file).sop_instance_uid])
    return out


def test_a_pacs_that_is_away_is_tried_with_growing_pauses_until_it_is_back(
    spool: Spool, clock: Clock, tmp_path: Path
) -> None:
    queue(spool, clock, *(result_file(tmp_path, name) for name in ("x", "y", "z")))
    with serving(FakeWeb()) as pacs:
        url = pacs.url
    peer, send, pauses = WebPeer(Web(url=url, timeout_s=5)), Send(first_pause_s=10, max_pause_s=60), []
    for _ in range(5):
        assert send_due(spool, peer, send, now=clock.now) == 0
        assert spool.outbox.due(clock.now) == []  # no result is tried while the PACS is known to be away
        pauses.append(min(r.next for r in spool.outbox.results("waiting")) - clock.now)
        clock.now += pauses[-1]
    assert pauses == [10, 20, 40, 60, 60]
    with serving(FakeWeb(), port=int(url.split(":")[2].split("/")[0])) as pacs:
        assert send_due(spool, peer, send, now=clock.now) == 3
        assert len(pacs.held) == pacs.posts == 3


def test_an_old_object_under_the_same_uid_is_noticed(
    spool: Spool, pacs: FakeWeb, clock: Clock, tmp_path: Path
) -> None:
    file = result_file(tmp_path)
    queue(spool, clock, file)
    pacs.put(*ct_slices(1, series="result", value=8))
    assert send_due(spool, WebPeer(Web(url=pacs.url)), Send(), now=clock.now) == 0
    [result] = spool.outbox.results("failed")
    assert result.reason == "kept-another"
    pacs.held.clear()  # somebody deletes the old one
    assert spool.retry() == 1
    assert send_due(spool, WebPeer(Web(url=pacs.url)), Send(), now=clock.now) == 1


def test_what_a_pacs_reconciles_is_the_same_object(tmp_path: Path) -> None:
    [ds] = ct_slices(1)
    (tmp_path / "a.dcm").write_bytes(encoded(ds))
    ds.PatientName, ds.AccessionNumber, ds.RetrieveAETitle = "Other^Name", "77", "PACS"
    (tmp_path / "b.dcm").write_bytes(encoded(ds))
    assert differences(tmp_path / "a.dcm", tmp_path / "b.dcm") == ()
    ds.ImagePositionPatient[2] = 2.6
    (tmp_path / "b.dcm").write_bytes(encoded(ds))
    assert differences(tmp_path / "a.dcm", tmp_path / "b.dcm") == ("00200032",)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    ds.save_as(tmp_path / "c.dcm", implicit_vr=True, little_endian=True, enforce_file_format=True)
    assert differences(tmp_path / "b.dcm", tmp_path / "c.dcm") == ()


def test_an_object_that_is_lost_after_success_is_sent_again(
    spool: Spool, pacs: FakeWeb, clock: Clock, tmp_path: Path
) -> None:
    queue(spool, clock, result_file(tmp_path))
    pacs.loses = True
    peer = WebPeer(Web(url=pacs.url))
    send_due(spool, peer, Send(), now=clock.now)
    [result] = spool.outbox.results("waiting")
    assert result.reason == "not-kept"
    pacs.loses = False
    assert send_due(spool, peer, Send(), now=result.next) == 1


def test_an_object_that_is_refused_is_given_up_after_some_attempts(
    spool: Spool, pacs: FakeWeb, clock: Clock, tmp_path: Path
) -> None:
    queue(spool, clock, result_file(tmp_path, "x"), result_file(tmp_path, "y"))
    pacs.refuses = 0x0122
    for left in (2, 2, 0):
        send_due(spool, WebPeer(Web(url=pacs.url)), Send(refusals=3), now=clock.now)
        assert len(spool.outbox.results("waiting")) == left
        clock.now += 1000
    assert [r.reason for r in spool.outbox.results("failed")] == ["not-taken", "not-taken"]


def test_a_full_pacs_is_tried_for_ever(spool: Spool, pacs: FakeWeb, clock: Clock, tmp_path: Path) -> None:
    queue(spool, clock, result_file(tmp_path))
    pacs.refuses = 0xA700
    for _ in range(6):
        send_due(spool, WebPeer(Web(url=pacs.url)), Send(refusals=3), now=clock.now)
        clock.now += 1000
    assert [r.reason for r in spool.outbox.results("waiting")] == ["pacs-full"]


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_server_that_is_out_of_order_is_away(pacs: FakeWeb, tmp_path: Path, code: int) -> None:
    pacs.status = code
    with pytest.raises(Refused) as refused:
        deliver(WebPeer(Web(url=pacs.url)), result_file(tmp_path), tmp_path)
    assert refused.value.reason == "pacs-away"


# passwords and certificates


def test_a_wrong_password_is_told_and_a_right_one_lets_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="medseg")
    file = result_file(tmp_path)
    with serving(FakeWeb(user="medseg", password="right")) as pacs:
        for word in ("wrong", "right"):
            web = Web(url=pacs.url, user="medseg", password_file=password(tmp_path, word))
            if word == "wrong":
                with pytest.raises(Refused) as refused:
                    deliver(WebPeer(web), file, tmp_path)
                assert refused.value.reason == "not-let-in"
                assert "wrong" not in str(refused.value)
            else:
                deliver(WebPeer(web), file, tmp_path)
        assert len(pacs.held) == 1


def test_nothing_comes_from_the_environment(
    pacs: FakeWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none"))
    deliver(WebPeer(Web(url=pacs.url)), result_file(tmp_path), tmp_path)


def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    file, ours, other = result_file(tmp_path), certificate(tmp_path / "a"), certificate(tmp_path / "b")
    elsewhere = certificate(tmp_path / "c", "pacs.example")
    with serving(FakeWeb(), tls=ours) as pacs:
        deliver(WebPeer(Web(url=pacs.url, authority=str(ours[0]))), file, tmp_path)
        assert len(pacs.held) == 1
        for authority in (str(other[0]), ""):
            with pytest.raises(Refused) as refused:
                deliver(WebPeer(Web(url=pacs.url, authority=authority)), file, tmp_path)
            assert refused.value.reason == "not-trusted"
    with serving(FakeWeb(), tls=elsewhere) as pacs, pytest.raises(Refused) as refused:
        deliver(WebPeer(Web(url=pacs.url, authority=str(elsewhere[0]))), file, tmp_path)
    assert refused.value.reason == "not-trusted"


@pytest.mark.parametrize(("mode", "word"), [(0o640, "x"), (0o604, "x"), (0o600, "")])
def test_a_password_that_others_can_read_is_refused(tmp_path: Path, mode: int, word: str) -> None:
    file = tmp_path / "password"
    file.write_text(word)
    os.chmod(file, mode)
    with pytest.raises(Refused) as refused:
        WebPeer(Web(url="http://127.0.0.1:9/x", user="a", password_file=str(file)))
    assert refused.value.reason == ("open-secret" if word else "empty-file")


def test_who_an_object_is_is_read_and_nothing_else(tmp_path: Path) -> None:
    [ds] = ct_slices(1)
    file = tmp_path / "a.dcm"
    file.write_bytes(encoded(ds))
    found = identify(file)
    assert (found.modality, found.sop_instance_uid) == ("CT", ds.SOPInstanceUID)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    pydicom_save(ds, file)
    with pytest.raises(Refused) as refused:
        identify(file)
    assert refused.value.reason == "deflated"


def pydicom_save(ds, file: Path) -> None:
    ds.save_as(file, enforce_file_format=True)


@pytest.mark.parametrize("name", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR UI.*:UserWarning")
def test_uids_that_are_paths_are_refused_and_nothing_stays(spool: Spool, clock: Clock, name: str) -> None:
    [ds] = ct_slices(1)
    data = encoded(ds)
    uid = str(ds[name].value).encode()
    evil = data.replace(uid, b"../../../../tmp/evil".ljust(len(uid), b"x"))
    with pytest.raises(Refused) as refused:
        Intake(spool, clock).take(evil, source="test")
    assert refused.value.reason == "bad-uid"
    assert "evil" not in str(refused.value)
    assert list(spool.folder.rglob("*.dcm")) == []


@pytest.mark.parametrize("length", [0, 100, 131, 200, 400])
def test_what_is_cut_off_is_refused_and_nothing_stays(spool: Spool, clock: Clock, length: int) -> None:
    [ds] = ct_slices(1)
    with pytest.raises(Refused):
        Intake(spool, clock).take(encoded(ds)[:length], source="test")
    assert list(spool.folder.rglob("*.dcm")) == []


def test_what_is_long_done_is_deleted_here_and_comes_whole_or_not_at_all(
    spool: Spool, clock: Clock, tmp_path: Path
) -> None:
    """After its days a series is known by its UIDs alone; with an instance more, all have to come again."""
    slices = ct_slices(3)
    queue(spool, clock, result_file(tmp_path))
    assert spool.prune(before=clock.now + 1) == []  # its result has not arrived
    [result] = spool.outbox.results("waiting")
    spool.outbox.verified(result.uid, now=clock.now)
    assert len(spool.prune(before=clock.now + 1)) == 1
    assert spool.held_bytes() == 0
    assert list((spool.folder / "series").iterdir()) == []
    intake = Intake(spool, clock)
    for ds in slices[:2]:  # sent once more: no news
        assert not intake.take(encoded(ds), source="test")[1]
    assert [row.state for row in spool.series()] == ["done"]
    assert intake.take(encoded(slices[2]), source="test")[1]
    [row] = spool.series("receiving")
    assert row.arrived == 1
