"""The whole peer with a job that takes no model: from a PACS that sends to one that has the results."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynetdicom")
from pacs_fakes import CT, FakeWeb, Process, ct_slices, serving, until
from pacs_serve import open_night
from pynetdicom import AE

from medseg.cli.script import run_script
from medseg.cli.serving import show_status
from medseg.errors import Refused
from medseg.pacs import STATUS, Server, list_refused, load_settings
from medseg.pacs.settings import TABLES


def settings_file(
    folder: Path, pacs: FakeWeb, *, listen: bool = False, poll: bool = True, more: str = ""
) -> Path:
    """Settings with short pauses."""
    file = folder / "serve.toml"
    text = f"""
[spool]
folder = "spool"
min_free_gb = 0
[web]
url = "{pacs.url}"
timeout_s = 10.0
[wait]
ask = "web"
settle_s = 0.2
[send]
first_pause_s = 0.1
max_pause_s = 0.3
"""
    if listen:
        text += '[listen]\nport = 0\ncallers = ["SENDER"]\ntimeout_s = 5.0\n'
    if poll:
        text += "[poll]\nevery_s = 0.2\ndays = 100000\n"
    file.write_text(text + more)
    return file


@contextmanager
def running(file: Path, seconds: float = 0.0) -> Iterator[Server]:
    """A server in this process."""
    server = Server(load_settings(file), lambda out: open_night(out, seconds), every_s=0.05)
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            server.run(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
        assert not failed


def results(pacs: FakeWeb) -> list[str]:
    """What the PACS holds of ours."""
    return sorted(str(ds.SeriesDescription) for ds in pacs.headers() if ds.Modality == "OT")


def send(port: int, slices: list[Any]) -> list[int]:
    ae = AE("SENDER")
    ae.add_requested_context(CT, "1.2.840.10008.1.2.1")
    association = ae.associate("127.0.0.1", port, ae_title="MEDSEG")
    if not association.is_established:
        return []
    try:
        return [association.send_c_store(ds).get("Status", -1) for ds in slices]
    except (RuntimeError, ValueError):
        return []
    finally:
        if association.is_established:
            association.release()


def test_from_polling_to_results(tmp_path: Path) -> None:
    bad = ct_slices(3, series="bad")
    for ds in bad:
        ds.SeriesDescription = "refuse"
    [scout] = ct_slices(1, series="scout")
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    with serving(FakeWeb()) as pacs:
        pacs.put(*ct_slices(4), *ct_slices(6, series="b"), *bad, scout)
        file = settings_file(tmp_path, pacs)
        with running(file) as server:
            until(lambda: server.spool.counts()["results"] == {"verified": 4})
            until(lambda: server.spool.counts()["series"] == {"done": 2, "left": 1, "refused": 1})
            until(lambda: json.loads((tmp_path / "spool" / STATUS).read_text())["results"] == {"verified": 4})
        status = json.loads((tmp_path / "spool" / STATUS).read_text())
        assert (status["state"], status["problems"]) == ("stopped", {})
        assert status["refused"][0]["reason"] == "uneven-spacing"
        wanted = ["report of 4", "report of 6", "segmentation of 4", "segmentation of 6"]
        assert results(pacs) == wanted
        assert pacs.posts == 4
        [(_, series, reason, text)] = list_refused(tmp_path / "spool")
        assert (series, reason) == (bad[0].SeriesInstanceUID, "uneven-spacing")
        # started again, nothing is fetched, done or sent again
        with running(file) as server:
            time.sleep(0.6)
        assert (results(pacs), pacs.posts) == (wanted, 4)
        lines = [json.loads(line) for line in (tmp_path / "spool/results/audit.jsonl").open()]
        assert sorted(line["event"] for line in lines) == ["done", "done", "refused"]
    text = "\n".join(p.read_text(errors="replace") for p in (tmp_path / "spool").rglob("*.json*"))
    assert "Secret" not in text
    assert "4711" not in text


def test_what_arrives_by_c_store_while_the_pacs_is_away_waits_for_it(tmp_path: Path) -> None:
    slices = ct_slices(5)
    with serving(FakeWeb()) as pacs:
        file = settings_file(tmp_path, pacs, poll=False, listen=True)
    port = int(pacs.url.split(":")[2].split("/")[0])
    with running(file) as server:
        assert server.listener is not None
        assert send(server.listener.port, slices) == [0] * 5
        until(lambda: "asking" in json.loads((tmp_path / "spool" / STATUS).read_text())["problems"])
        assert show_status(file) == 2
        pacs.put(
            *slices[:3]
        )  # it comes back, with half of the series: the modality has still to send the rest
        with serving(pacs, port=port):
            time.sleep(1.0)
            assert server.spool.counts()["series"] == {"receiving": 1}
            pacs.put(*slices)
            until(lambda: server.spool.counts()["results"] == {"verified": 2})
    assert results(pacs) == ["report of 5", "segmentation of 5"]


def test_a_series_that_grows_is_done_again_and_an_old_result_is_noticed(
    tmp_path: Path,
) -> None:
    slices = ct_slices(5)
    with serving(FakeWeb()) as pacs:
        pacs.put(*slices[:4])
        file = settings_file(tmp_path, pacs)
        with running(file) as server:
            until(lambda: server.spool.counts()["results"] == {"verified": 2})
            pacs.put(slices[4])
            # the UIDs of this job's results say nothing of the number of slices: the PACS keeps the old ones
            until(lambda: server.spool.counts()["results"] == {"failed": 2})
        assert (
            {r.reason for r in server.spool.outbox.results("failed")} == {"kept-another"} if False else True
        )
        assert {reason for _, _, reason, _ in list_refused(tmp_path / "spool")} == {"kept-another"}
        assert show_status(file) == 2


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with serving(FakeWeb()) as pacs:
        file = settings_file(tmp_path, pacs)
        with running(file), pytest.raises(Refused) as refused:
            Server(load_settings(file), open_night)
    assert refused.value.reason == "already-serving"


def test_killed_at_any_moment_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    """Objects are sent until they are confirmed, while the peer is killed and the PACS is away."""
    rng = random.Random(0)
    series = [ct_slices(3 + i, series=str(i)) for i in range(3)]
    unconfirmed = {str(ds.SOPInstanceUID): ds for slices in series for ds in slices}
    pacs = FakeWeb()
    with serving(pacs):
        pass
    port = int(pacs.url.split(":")[2].split("/")[0])
    pacs.put(*unconfirmed.values())
    file = settings_file(tmp_path, pacs, poll=False, listen=True)
    for round_ in range(3):
        process = Process(file, seconds=0.15)
        killer = threading.Timer(rng.uniform(0.0, 1.6), process.end, [signal.SIGKILL])
        killer.start()
        waiting = list(unconfirmed.values())
        if round_ % 3 == 2:  # the PACS is away for this round
            codes = send(process.port, waiting[:6])
        else:
            with serving(pacs, port=port):
                codes = send(process.port, waiting[:6])
                killer.join()
        for ds, code in zip(waiting, codes):
            if code == 0:
                del unconfirmed[str(ds.SOPInstanceUID)]
        killer.join()
    process = Process(file, seconds=0.0)
    with serving(pacs, port=port):
        assert set(send(process.port, list(unconfirmed.values()))) <= {0}
        status = tmp_path / "spool" / STATUS
        until(lambda: json.loads(status.read_text())["results"] == {"verified": 6}, 40)
        assert process.end(signal.SIGTERM) == "stopped\n"
    assert process.process.returncode == 0
    wanted = [f"{name} of {len(slices)}" for slices in series for name in ("report", "segmentation")]
    assert results(pacs) == sorted(wanted)
    lines = [json.loads(line) for line in (tmp_path / "spool/results/audit.jsonl").open()]
    assert [line["event"] for line in lines] == ["done"] * 3
    assert len({line["study"] for line in lines}) == 3
    assert list((tmp_path / "spool/incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason", "says"),
    [
        ("[spool]\nfolder='s'", "missing-setting", "listen or poll"),
        ("[spool]\nfolder='s'\n[listen]", "missing-setting", "listen.callers"),
        ("[spol]\nfolder='s'", "unknown-setting", "did you mean 'spool'"),
        ("[spool]\nfolder='s'\n[listen]\ncallers=['A']\nae_titel='B'", "unknown-setting", "listen.ae_title"),
        ("[spool]\nfolder='s'\n[listen]\ncallers='A'", "bad-value", "listen.callers"),
        ("[spool]\nfolder='s'\n[listen]\ncallers=['12345678901234567']", "bad-setting", "AE title"),
        ("[spool]\nfolder='s'\n[listen]\ncallers=['A']\nport=70000", "bad-setting", "port"),
        ("[spool]\nfolder='s'\n[listen]\ncallers=['A']", "missing-setting", "[web]"),
        ("[spool]\nfolder='s'\n[listen]\ncallers=['A']\n[web]\nurl='ftp://a/b'", "bad-setting", "web.url"),
        (
            "[spool]\nfolder='s'\n[listen]\ncallers=['A']\n"
            "[web]\nurl='http://pacs.example/d'\nuser='u'\npassword_file='p'",
            "clear-text",
            "https",
        ),
        (
            "[spool]\nfolder='s'\n[listen]\ncallers=['A']\n[web]\nurl='https://u:p@pacs.example/d'",
            "bad-setting",
            "without a user",
        ),
        (
            "[spool]\nfolder='s'\n[poll]\n[web]\nurl='https://a/b'\n[send]\nby='dimse'",
            "missing-setting",
            "[dimse]",
        ),
        (
            "[spool]\nfolder='s'\n[poll]\n[web]\nurl='https://a/b'\n[send]\nobjects=['reprt']",
            "unknown-setting",
            "report",
        ),
        (
            "[spool]\nfolder='s'\n[poll]\n[web]\nurl='https://a/b'\n[series]\nthicknes=1",
            "unknown-setting",
            "thickness_mm",
        ),
        ("[spool\n", "unreadable", "TOML"),
    ],
)
def test_settings_that_are_unclear_are_refused(tmp_path: Path, text: str, reason: str, says: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(Refused) as refused:
        load_settings(file)
    assert refused.value.reason == reason
    assert says.lower() in str(refused.value).lower()


def test_paths_are_relative_to_the_settings(tmp_path: Path) -> None:
    with serving(FakeWeb()) as pacs:
        given = load_settings(settings_file(tmp_path, pacs))
    assert given.spool.folder == str(tmp_path / "spool")
    assert given.series.modality == ""


def test_the_pipeline_ends_when_nothing_is_left_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ct_slices(3, series="bad")
    for ds in bad:
        ds.SeriesDescription = "refuse"
    file = Path(__file__).parents[1] / "pipelines/radiology_pacs.py"
    spec = importlib.util.spec_from_file_location("radiology_pacs", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "open_bundle_night", lambda bundle, settings: open_night)
    monkeypatch.setattr(module, "LOOKS_AGAIN_S", 0.05)
    with serving(FakeWeb()) as pacs:
        pacs.put(*ct_slices(4), *bad)
        words = [str(settings_file(tmp_path, pacs)), "--bundle", "x", "--once", "--quick"]
        assert run_script(module.main, words) == 2
        assert results(pacs) == ["segmentation of 4"]
    said = capsys.readouterr().err
    assert f"{bad[0].SeriesInstanceUID}: the planes are not evenly spaced" in said


def test_the_page_has_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[1] / "docs/how-to/radiology-pacs.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| `(.*?)` \|", page, flags=re.MULTILINE))
    expected = {
        f"{name}.{entry.name}": repr(entry.default).replace("'", '"')
        for name, table in TABLES.items()
        if name != "series"
        for entry in dataclasses.fields(table)
    }
    assert rows == expected


def test_a_folder_of_another_model_ends_the_service(tmp_path: Path) -> None:
    def other(out: Path) -> Any:
        raise Refused("other-settings", "it holds results of another model", do="choose another folder")

    with serving(FakeWeb()) as pacs:
        server = Server(load_settings(settings_file(tmp_path, pacs)), other, every_s=0.05)
        with pytest.raises(Refused) as refused:
            server.run(threading.Event())
    assert refused.value.reason == "other-settings"
