"""The PACS by DICOMweb: QIDO-RS to ask, WADO-RS to fetch, STOW-RS to store."""

from __future__ import annotations

import email.policy
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session

from ..errors import Refused
from ..files import check_private
from ..io.dicom.passing import Passing, from_json, open_object
from .peer import FoundSeries
from .secrets import client_context, read_password
from .settings import Web

__all__ = ["WebPeer"]

_PAGE = 200
_PIECE = 2**16
_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_UID = re.compile(r"[0-9.]{1,64}")


class WebPeer:
    """A PACS that is asked by DICOMweb.

    The password is read anew for each peer, so that a changed one needs no new start. Neither proxies nor
    certificates nor passwords come from the environment, and no redirect is followed.
    """

    def __init__(self, settings: Web) -> None:
        session = create_session()
        session.trust_env = False  # requests would take proxies, .netrc and its own certificates from there
        session.max_redirects = 0
        if settings.user:
            session.auth = (settings.user, read_password(settings.password_file))
        if settings.authority:
            client_context(settings.authority)  # refuses what holds no certificate
            session.verify = settings.authority
        if settings.certificate:
            session.cert = (settings.certificate, str(check_private(settings.key)))
        self._session, self._settings = session, settings
        self._most_bytes = settings.max_object_mb * 2**20
        self._client = DICOMwebClient(settings.url, session=session, timeout=settings.timeout_s)
        self._client.set_http_retry_params(retry=False)  # pauses are the queue's business

    def count(self, study: str, series: str) -> int:
        """Number of instances that the PACS reports, or that it lists where it reports none."""
        with _told():
            answers = self._client.search_for_series(
                study,
                fields=["NumberOfSeriesRelatedInstances"],
                search_filters={"SeriesInstanceUID": series},
            )
        rows = from_json(answers, ("SeriesInstanceUID", "NumberOfSeriesRelatedInstances"))
        rows = [row for row in rows if row["SeriesInstanceUID"] == series]
        if not rows:
            return 0
        told = rows[0]["NumberOfSeriesRelatedInstances"]
        return int(told) if told.isdigit() else len(self.list_instances(study, series))

    def holds(self, found: Passing) -> bool:
        """Whether the PACS lists an object."""
        with _told():
            answers = self._client.search_for_instances(
                found.study_uid,
                found.series_uid,
                search_filters={"SOPInstanceUID": found.sop_instance_uid},
            )
        rows = from_json(answers, ("SOPInstanceUID",))
        return any(row["SOPInstanceUID"] == found.sop_instance_uid for row in rows)

    def store(self, file: Path, found: Passing) -> None:
        """Send one object by STOW-RS."""
        with _told(storing=True):
            answer = self._client.store_instances([open_object(file)])
        if failed := list(answer.get("FailedSOPSequence") or ()):
            raise _not_stored(int(failed[0].get("FailureReason", 0)))

    def search(self, modality: str, since: str) -> Iterator[FoundSeries]:
        """Series of a modality in studies not older than a date, page by page."""
        names = ("StudyInstanceUID", "SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")
        filters = {"Modality": modality} | ({"StudyDate": f"{since}-"} if since else {})
        seen: set[str] = set()
        while True:
            with _told():
                answers = self._client.search_for_series(
                    fields=list(names), search_filters=filters, limit=_PAGE, offset=len(seen)
                )
            new = [row for row in from_json(answers, names) if row["SeriesInstanceUID"] not in seen]
            for row in new:
                uid, study = row["SeriesInstanceUID"], row["StudyInstanceUID"]
                seen.add(uid)
                if _UID.fullmatch(uid) and _UID.fullmatch(study) and row["Modality"] in ("", modality):
                    told = row["NumberOfSeriesRelatedInstances"]
                    yield FoundSeries(study, uid, modality, int(told) if told.isdigit() else None)
            if not new:  # nothing left, or a PACS that knows no offset
                return

    def list_instances(self, study: str, series: str) -> Sequence[tuple[str, str]]:
        """SOP class and instance UIDs of a series, page by page."""
        found: dict[str, str] = {}
        while True:
            with _told():
                answers = self._client.search_for_instances(study, series, limit=_PAGE, offset=len(found))
            rows = from_json(answers, ("SOPClassUID", "SOPInstanceUID"))
            new = {r["SOPInstanceUID"]: r["SOPClassUID"] for r in rows if _UID.fullmatch(r["SOPInstanceUID"])}
            if not new.keys() - found.keys():
                return [(sop_class, uid) for uid, sop_class in found.items()]
            found |= new

    def fetch(self, found: Passing, into: Path) -> bool:
        """Write an object to a file as the PACS holds it.

        By the session and not by the client, whose answer is a data set that was inflated, parsed and would
        have to be encoded again: here the bytes are kept as they come, and no more than an object may have.
        """
        study, series, uid = found.study_uid, found.series_uid, found.sop_instance_uid
        url = f"{self._settings.url.rstrip('/')}/studies/{study}/series/{series}/instances/{uid}"
        with (
            _told(),
            self._session.get(
                url, headers={"Accept": _ANY_SYNTAX}, stream=True, timeout=self._settings.timeout_s
            ) as answer,
        ):
            if answer.status_code in (404, 410):
                return False
            answer.raise_for_status()
            body = bytearray()
            for piece in answer.iter_content(_PIECE):
                body += piece
                if len(body) > self._most_bytes:
                    raise Refused("too-large", "an object of the PACS is larger than max_object_mb")
            kind = answer.headers.get("Content-Type", "")
        into.write_bytes(_first_part(bytes(body), kind))
        return True


def _first_part(body: bytes, kind: str) -> bytes:
    """The first part of a multipart answer; a server that sends an object bare is understood, too."""
    header = email.message_from_string(f"Content-Type: {kind}\n\n", policy=email.policy.HTTP)
    if header.get_content_maintype() != "multipart":
        return body
    boundary = b"--" + str(header.get_boundary("")).encode()
    start = body.find(b"\r\n\r\n", body.find(boundary))
    end = body.find(b"\r\n" + boundary, start)
    if start < 0 or end < 0:
        raise Refused(
            "pacs-away", "the PACS broke off in the middle of an object", do="nothing: it is tried again"
        )
    return body[start + 4 : end]


@contextmanager
def _told(*, storing: bool = False) -> Iterator[None]:
    """Retell what goes wrong on the line as refusals, without addresses, which hold UIDs."""
    try:
        yield
    except Refused:
        raise
    except requests.HTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise Refused(
                "not-let-in",
                "the PACS does not let us in",
                got=f"HTTP {code}",
                do="check user and password_file in [web]",
            ) from None
        if code == 507:
            raise Refused("pacs-full", "the PACS has no room", got="HTTP 507", do="make room there") from None
        if code in (400, 404, 406, 409, 413, 415, 422) and storing:
            raise _not_stored(_failure_reason(error.response) or code) from None
        raise _away(f"HTTP {code}") from None
    except requests.exceptions.SSLError as error:
        raise Refused(
            "not-trusted",
            "the certificate of the PACS is not one that we trust",
            got=_reason(error),
            do="check authority in [web], and the name in web.url",
        ) from None
    except requests.TooManyRedirects:
        raise Refused(
            "not-let-in", "the PACS sends us elsewhere", do="give its own address in web.url"
        ) from None
    except (requests.RequestException, OSError, ValueError, KeyError) as error:
        # ValueError and KeyError: an answer that is no DICOMweb, as of the page of a proxy
        raise _away(type(error).__name__) from None


def _failure_reason(answer: requests.Response) -> int:
    """The FailureReason (0008,1197) of a refused STOW-RS; 0 where there is none."""
    try:
        [item, *_] = answer.json()["00081198"]["Value"]
        return int(item["00081197"]["Value"][0])
    except (ValueError, KeyError, TypeError, IndexError):
        return 0


def _not_stored(code: int) -> Refused:
    """Why an object was not stored, by the codes of PS3.18, table I.2-2, or an HTTP status."""
    if 0xA700 <= code <= 0xA7FF:
        return Refused("pacs-full", "the PACS has no room", got=f"{code:04X}", do="make room there")
    got = f"HTTP {code}" if 400 <= code < 600 else f"{code:04X}"
    return Refused("not-taken", "the PACS refused the object", got=got, do="read the log of the PACS")


def _reason(error: BaseException) -> str:
    """The word of OpenSSL for what it does not like."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLError):
            return getattr(inner, "verify_message", "") or inner.reason or "a failed handshake"
        following = getattr(inner, "reason", None) or (inner.args[0] if inner.args else None)
        inner = following if isinstance(following, BaseException) else None
    return "a failed handshake"


def _away(got: str) -> Refused:
    return Refused("pacs-away", "the PACS does not answer", got=got, do="nothing: it is asked again later")
