"""The one file that says how `medseg serve` talks to a PACS: strict TOML, refused where it is unclear."""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from ..errors import Refused, refuse_unknown
from ..io.dicom import SeriesRules
from ..strict import build_strict

__all__ = ["Dimse", "Listen", "Poll", "Run", "Send", "Settings", "Spooling", "Wait", "Web", "load_settings"]

KIND = "setting"


@dataclass(frozen=True)
class Spooling:
    """Where everything lies that must outlive a crash, and how much of it there may be.

    ``folder`` holds received objects, results, the queue and the status; ``max_gb`` is the most that
    received objects may take, ``min_free_gb`` what must stay free on the disk, ``keep_days`` how long
    objects and results stay after the results have been verified.
    """

    folder: str = ""
    max_gb: float = 100.0
    min_free_gb: float = 2.0
    keep_days: float = 7.0


@dataclass(frozen=True)
class Listen:
    """Receiving by C-STORE.

    ``callers`` are the AE titles that may call; ``certificate`` and ``key`` turn TLS on,
    ``authority`` demands a certificate that it signed from each caller. ``max_object_mb`` bounds one
    object, and with ``max_associations`` the memory that receiving takes. ``timeout_s`` is the longest
    silence.
    """

    ae_title: str = "MEDSEG"
    host: str = "127.0.0.1"
    port: int = 11112
    callers: tuple[str, ...] = ()
    certificate: str = ""
    key: str = ""
    authority: str = ""
    max_object_mb: int = 1024
    max_associations: int = 4
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Dimse:
    """The PACS as a DICOM node: where C-FIND, C-STORE and C-GET go, and under which title we call."""

    host: str = ""
    port: int = 104
    ae_title: str = ""
    our_ae_title: str = "MEDSEG"
    authority: str = ""
    certificate: str = ""
    key: str = ""
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Web:
    """The PACS by DICOMweb: QIDO-RS, WADO-RS, STOW-RS below one address.

    ``password_file`` holds the password of ``user``; ``authority`` is the file of the certificate authority
    where the system's are not meant; ``certificate`` and ``key`` are ours where the PACS asks for one.
    ``clear_text`` allows a password over http to another machine.
    """

    url: str = ""
    user: str = ""
    password_file: str = ""
    authority: str = ""
    certificate: str = ""
    key: str = ""
    timeout_s: float = 60.0
    clear_text: bool = False
    max_object_mb: int = 1024


@dataclass(frozen=True)
class Poll:
    """Asking the PACS for new series by QIDO-RS, and fetching them by WADO-RS.

    ``days`` is how far back study dates may lie, today counted as one.
    """

    every_s: float = 60.0
    days: int = 2


@dataclass(frozen=True)
class Wait:
    """When a series counts as complete.

    The PACS must report as many instances as have arrived, twice, ``settle_s`` apart with nothing arriving
    in between. Where no PACS can be asked (``ask`` is "nobody"), a series counts as complete after
    ``quiet_s`` without arrivals, and its result notes it. After ``give_up_hours`` without arrivals it is
    given up.
    """

    ask: Literal["web", "dimse", "nobody"] = "nobody"
    settle_s: float = 15.0
    quiet_s: float = 300.0
    give_up_hours: float = 24.0


@dataclass(frozen=True)
class Send:
    """How results go back, and which.

    ``read_back`` fetches each object and compares it; "presence" only asks whether it is there.
    ``refusals`` is how often a PACS may refuse an object before it is given up; a PACS that is away is
    tried for ever, with pauses that grow from ``first_pause_s`` to ``max_pause_s``.
    """

    by: Literal["web", "dimse"] = "web"
    objects: tuple[str, ...] = ("segmentation", "report")
    read_back: Literal["content", "presence"] = "content"
    first_pause_s: float = 10.0
    max_pause_s: float = 900.0
    refusals: int = 5


@dataclass(frozen=True)
class Run:
    """Limits of the process that works on one series, how many there are, and the kind of DICOM SEG.

    Series of other modalities than ``modalities`` are kept and left alone.
    """

    modalities: tuple[str, ...] = ("CT", "MR")
    memory_gb: float = 8.0
    minutes: float = 60.0
    jobs: int = 1
    kind: Literal["binary", "labelmap"] = "binary"


@dataclass(frozen=True)
class Settings:
    """All settings; a table that is not in the file is None where there is no default for it."""

    spool: Spooling
    listen: Listen | None = None
    dimse: Dimse | None = None
    web: Web | None = None
    poll: Poll | None = None
    wait: Wait = field(default_factory=Wait)
    send: Send = field(default_factory=Send)
    run: Run = field(default_factory=Run)
    series: SeriesRules = field(default_factory=SeriesRules)


TABLES = {
    "spool": Spooling,
    "listen": Listen,
    "dimse": Dimse,
    "web": Web,
    "poll": Poll,
    "wait": Wait,
    "send": Send,
    "run": Run,
    "series": SeriesRules,
}
OBJECTS = ("segmentation", "report", "rtstruct")
FILES = ("certificate", "key", "authority", "password_file", "folder")


def load_settings(path: str | Path) -> Settings:
    """Read the settings of `medseg serve`; paths in them are relative to the file's folder.

    Raises
    ------
    Refused
        ``not-found``, ``unreadable``, ``unknown-setting``, ``bad-value``, ``missing-setting``,
        ``bad-setting``, ``clear-text``.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "serve.toml"
    >>> _ = file.write_text('[spool]\\nfolder = "spool"\\n[listen]\\ncalers = ["PACS"]')
    >>> load_settings(file)
    Traceback (most recent call last):
    medseg.errors.Refused: unknown setting 'listen.calers'. Did you mean 'listen.callers'?
    """
    path = Path(path)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused("not-found", f"no such file '{path}'", do="give the settings as a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused("unreadable", f"'{path}' is no TOML", got=str(error), do="correct it") from error
    except OSError as error:
        raise Refused("unreadable", f"cannot read '{path}'", got=error.strerror, do="check it") from error
    return parse_settings(given, path.parent)


def parse_settings(given: Mapping[str, Any], folder: Path) -> Settings:
    """Make `Settings` of what TOML holds, checked."""
    made: dict[str, Any] = {}
    for name, table in given.items():
        if name not in TABLES:
            raise refuse_unknown(KIND, name, TABLES)
        if not isinstance(table, dict):
            raise Refused("bad-value", f"'{name}' is a table", got=repr(table), expected=f"[{name}]")
        made[name] = build_strict(TABLES[name], _absolute(table, folder), name, kind=KIND)
    if "spool" not in made:
        raise _missing("spool.folder", "a folder on a disk with room")
    settings = Settings(**made)
    _check(settings)
    return settings


def _absolute(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {
        key: str(folder / value) if key in FILES and isinstance(value, str) and value else value
        for key, value in table.items()
    }


def _check(settings: Settings) -> None:
    listen, dimse, web = settings.listen, settings.dimse, settings.web
    for entry in fields(settings):
        if entry.name != "series":
            _check_numbers(getattr(settings, entry.name))
    if not settings.spool.folder:
        raise _missing("spool.folder", "a folder on a disk with room")
    if listen is None and settings.poll is None:
        raise _missing("listen or poll", "at least one way for studies to come in")
    if listen is not None:
        if not listen.callers:
            raise _missing("listen.callers", "the AE titles that may send")
        for title in (listen.ae_title, *listen.callers):
            _check_title(title)
    if dimse is not None:
        if not (dimse.host and dimse.ae_title):
            raise _missing("dimse.host and dimse.ae_title", "where the PACS is")
        for title in (dimse.ae_title, dimse.our_ae_title):
            _check_title(title)
    if web is not None:
        _check_web(web)
    for user, needed in (
        ("poll", "web" if settings.poll else ""),
        ("wait.ask", "" if settings.wait.ask == "nobody" else settings.wait.ask),
        ("send.by", settings.send.by),
    ):
        if needed and getattr(settings, needed) is None:
            raise _missing(f"[{needed}]", f"the table that {user} needs")
    for name in settings.send.objects:
        if name not in OBJECTS:
            raise refuse_unknown(KIND, name, OBJECTS)
    for tls in (listen, dimse, web):
        if tls is not None and bool(tls.certificate) != bool(tls.key):
            raise _missing("certificate and key", "both, or neither")
    if listen is not None and listen.authority and not listen.certificate:
        raise _missing("listen.certificate", "our certificate, where callers must show theirs")


def _check_web(web: Web) -> None:
    try:
        parts = urlsplit(web.url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment:
        raise Refused(
            "bad-setting",
            "'web.url' is no address of a DICOMweb service",
            expected="https://host:port/path, without a user in it",
            do="give the address below which /studies lies",
        )
    if bool(web.user) != bool(web.password_file):
        raise _missing("web.user and web.password_file", "both, or neither")
    if web.user and parts.scheme == "http" and not _is_loopback(host) and not web.clear_text:
        raise Refused(
            "clear-text",
            "the password would go to another machine over http, for all to read",
            do="use https, or set clear_text = true in [web] if the line is safe by other means",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_title(title: str) -> None:
    """An AE title has 1 to 16 characters of ASCII without backslash and control characters (PS3.5, 6.2)."""
    if not (title.strip() == title and 1 <= len(title) <= 16 and title.isascii() and title.isprintable()):
        raise Refused("bad-setting", "an AE title is not one", got=repr(title), expected="1 to 16 characters")
    if "\\" in title:
        raise Refused("bad-setting", "an AE title holds no backslash", got=repr(title))


def _check_numbers(table: Any) -> None:
    """All numbers are above 0 but those for which 0 means none, or any port that is free."""
    if table is None:
        return
    for entry in fields(table):
        value = getattr(table, entry.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        least = 0 if entry.name in ("min_free_gb", "keep_days", "settle_s", "port") else 1e-3
        if not least <= value or (entry.name == "port" and value > 65535):
            raise Refused("bad-setting", f"'{entry.name}' is out of range", got=value, do="correct it")


def _missing(name: str, what: str) -> Refused:
    return Refused("missing-setting", f"{name} is missing: {what}", do="add it to the settings")
