"""The PACS as a DICOM node: C-FIND to ask, C-STORE to send, C-GET to read back."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from ..errors import Refused
from ..io.dicom.passing import Passing, open_object, question
from .peer import FoundSeries
from .secrets import client_context
from .settings import Dimse

__all__ = ["DimsePeer"]

_PENDING = (0xFF00, 0xFF01)
_EXPLICIT = "1.2.840.10008.1.2.1"


class DimsePeer:
    """A PACS that is asked by DIMSE, one association for each question.

    An association that cannot be made is no exception in pynetdicom: it is asked whether it stands, always.
    """

    def __init__(self, settings: Dimse) -> None:
        self._settings = settings
        self._tls: tuple[ssl.SSLContext, str] | None = None
        if settings.authority:
            context = client_context(settings.authority, settings.certificate, settings.key)
            self._tls = (context, settings.host)

    def count(self, study: str, series: str) -> int:
        """Number of instances that the PACS reports, or that it lists where it reports none."""
        keys = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "NumberOfSeriesRelatedInstances": "",
        }
        answers = self._find("SERIES", keys)
        rows = [a for a in answers if str(a.get("SeriesInstanceUID", "")) == series]
        if not rows:
            return 0
        told = rows[0].get("NumberOfSeriesRelatedInstances")
        return int(told) if told not in (None, "") else len(self.list_instances(study, series))

    def holds(self, found: Passing) -> bool:
        """Whether the PACS lists an object."""
        keys = {
            "StudyInstanceUID": found.study_uid,
            "SeriesInstanceUID": found.series_uid,
            "SOPInstanceUID": found.sop_instance_uid,
        }
        answers = self._find("IMAGE", keys)
        return any(str(a.get("SOPInstanceUID", "")) == found.sop_instance_uid for a in answers)

    def search(self, modality: str, since: str) -> Iterator[FoundSeries]:
        """Series of a modality: new studies are looked for by QIDO-RS only."""
        raise Refused("bad-setting", "studies are polled by DICOMweb only", do="add [web]")

    def list_instances(self, study: str, series: str) -> Sequence[tuple[str, str]]:
        """SOP class and instance UIDs of a series."""
        keys = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "SOPInstanceUID": "",
            "SOPClassUID": "",
        }
        answers = self._find("IMAGE", keys)
        return [(str(a.get("SOPClassUID", "")), str(a.get("SOPInstanceUID", ""))) for a in answers]

    def store(self, file: Path, found: Passing) -> None:
        """Send one object by C-STORE."""
        ae = self._ae()
        ae.add_requested_context(found.sop_class_uid, found.transfer_syntax_uid)
        with self._association(ae) as association:
            if not association.accepted_contexts:
                raise Refused(
                    "no-context",
                    "the PACS takes no objects of this class or transfer syntax by C-STORE",
                    do='send by = "web", or kind = "binary" where it was "labelmap"',
                )
            status = association.send_c_store(open_object(file))
        code = status.get("Status") if status else None
        if code is None:
            raise _away("no answer")
        if 0xA700 <= code <= 0xA7FF:
            raise Refused("pacs-full", "the PACS has no room", got=f"{code:04X}", do="make room there")
        if code != 0 and not 0xB000 <= code <= 0xBFFF:  # a warning is looked into by reading back
            raise Refused(
                "not-taken", "the PACS refused the object", got=f"{code:04X}", do="read the log of the PACS"
            )

    def fetch(self, found: Passing, into: Path) -> bool:
        """Write an object to a file by C-GET; False where the PACS has none of this UID."""
        ae = self._ae()
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
        ae.add_requested_context(found.sop_class_uid, [found.transfer_syntax_uid, _EXPLICIT])
        received: list[int] = []

        def stored(event: Any) -> int:
            if str(event.request.AffectedSOPInstanceUID) != found.sop_instance_uid:
                return 0xC000
            into.write_bytes(event.encoded_dataset())
            received.append(1)
            return 0x0000

        keys = {
            "StudyInstanceUID": found.study_uid,
            "SeriesInstanceUID": found.series_uid,
            "SOPInstanceUID": found.sop_instance_uid,
        }
        role = build_role(found.sop_class_uid, scp_role=True)
        with self._association(ae, roles=[role], handlers=[(evt.EVT_C_STORE, stored)]) as association:
            taken = {str(c.abstract_syntax) for c in association.accepted_contexts}
            if taken != {found.sop_class_uid, str(StudyRootQueryRetrieveInformationModelGet)}:
                raise Refused(
                    "no-context",
                    "the PACS gives no objects of this class by C-GET",
                    do='read back by "presence" in [send], or send by = "web"',
                )
            answers = association.send_c_get(
                question("IMAGE", keys), StudyRootQueryRetrieveInformationModelGet
            )
            codes = [status.get("Status") if status else None for status, _ in answers]
        if not codes or codes[-1] is None:
            raise _away("no answer")
        return bool(received)

    def _find(self, level: str, keys: dict[str, str]) -> list[Any]:
        ae = self._ae()
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        with self._association(ae) as association:
            if not association.accepted_contexts:
                raise Refused("not-let-in", "the PACS answers no C-FIND to us", do="allow it in the PACS")
            found, last = [], None
            for status, answer in association.send_c_find(
                question(level, keys), StudyRootQueryRetrieveInformationModelFind
            ):
                last = status.get("Status") if status else None
                if last in _PENDING:
                    found.append(answer)
        if last is None:
            raise _away("no answer")
        if last != 0:
            raise Refused(
                "pacs-away",
                "the PACS could not answer a C-FIND",
                got=f"{last:04X}",
                do="nothing: it is asked again",
            )
        return found

    def _ae(self) -> AE:
        ae = AE(self._settings.our_ae_title)
        ae.connection_timeout = ae.acse_timeout = min(30.0, self._settings.timeout_s)
        ae.dimse_timeout = ae.network_timeout = self._settings.timeout_s
        return ae

    @contextmanager
    def _association(
        self, ae: AE, *, roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
    ) -> Iterator[Any]:
        """Give an association that stands, and release it."""
        try:
            association = ae.associate(
                self._settings.host,
                self._settings.port,
                ae_title=self._settings.ae_title,
                ext_neg=list(roles),
                evt_handlers=list(handlers),
                tls_args=self._tls,
            )
        except OSError as error:
            raise _away(type(error).__name__) from None
        if not association.is_established:
            if association.is_rejected:
                raise Refused(
                    "not-let-in",
                    "the PACS rejected the association",
                    do="check the AE titles on both sides",
                )
            # all contexts rejected ends as an abort by ourselves
            if association.rejected_contexts and not association.accepted_contexts:
                raise Refused(
                    "no-context",
                    "the PACS takes no objects of this class or transfer syntax by C-STORE",
                    do='send by = "web", or kind = "binary" where it was "labelmap"',
                )
            raise self._why_not()
        try:
            yield association
        except (RuntimeError, AttributeError) as error:
            raise _away(type(error).__name__) from None
        finally:
            if association.is_established:
                association.release()

    def _why_not(self) -> Refused:
        """Why no association came about, which pynetdicom does not tell: no listener, or no trust."""
        address = (self._settings.host, self._settings.port)
        try:
            with socket.create_connection(address, timeout=min(30.0, self._settings.timeout_s)) as plain:
                if self._tls:
                    context, name = self._tls
                    context.wrap_socket(plain, server_hostname=name).close()
        except ssl.SSLCertVerificationError as error:
            return Refused(
                "not-trusted",
                "the certificate of the PACS is not one that we trust",
                got=error.verify_message,
                do="check authority in [dimse], and the name in dimse.host",
            )
        except OSError as error:
            return _away(error.strerror or type(error).__name__)
        return _away("no association")


def _away(got: str) -> Refused:
    return Refused("pacs-away", "the PACS does not answer", got=got, do="nothing: it is asked again later")
