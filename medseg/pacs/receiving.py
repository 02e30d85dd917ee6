"""Receiving by C-STORE: who may call, what is taken, how much of it, and where it lands."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from ..errors import Refused
from ..io.dicom.passing import DECODED_SYNTAXES, Passing, identify
from ..io.dicom.sopclasses import IMAGES
from .secrets import server_context
from .settings import Listen
from .spool import Spool, key_of

__all__ = ["Intake", "Listener", "start_listening"]

log = logging.getLogger(__name__)

_MB = 2**20
_LARGEST_PDU = 128 * 1024
_LARGEST_REQUEST = 2**20  # of an association: 128 contexts with all their transfer syntaxes take a tenth
_HANDSHAKE_S = 10.0
# answers of the storage service (PS3.4, B.2.3)
_SUCCESS = 0x0000
_NO_ROOM = 0xA700
_NOT_UNDERSTOOD = 0xC000
_OTHER_CONTENT = 0xC111  # within "cannot understand": the UID belongs to another object


class Intake:
    """Takes whole objects into the spool: written beside, identified, renamed, noted.

    Parameters
    ----------
    spool : Spool
    clock : callable
        Gives seconds, such as ``time.time``.
    """

    def __init__(self, spool: Spool, clock: Callable[[], float]) -> None:
        self.spool, self.clock = spool, clock
        self.hopeless: set[str] = set()  # instances that were fetched and refused

    def beside(self) -> Path:
        """Give a path in ``incoming`` that nobody has."""
        return self.spool.folder / "incoming" / f"{secrets.token_hex(8)}.dcm"

    def take(self, data: bytes, *, source: str) -> tuple[Passing, bool]:
        """Take an object; tell which it is, and whether it is new.

        Raises
        ------
        Refused
            As `identify` and `Spool.accept`, and ``spool-full``.
        """
        self.spool.check_room(len(data))
        file = self.beside()
        try:
            with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
                out.write(data)
            return self.take_file(file, source=source)
        except OSError as error:
            raise Refused("spool-full", "an object could not be written", got=error.strerror) from error
        finally:
            file.unlink(missing_ok=True)

    def take_file(self, file: Path, *, source: str) -> tuple[Passing, bool]:
        """Take an object that was written to `beside`; unless it is refused, it is gone from there."""
        self.spool.check_room(0)
        with open(file, "rb") as written:
            os.fsync(written.fileno())
        found = identify(file)
        return found, self.spool.accept(file, found, source=source, now=self.clock())


class Listener:
    """A running storage provider; ``close`` ends it."""

    def __init__(self, server: _Server, thread: threading.Thread) -> None:
        self._server, self._thread = server, thread
        self.port: int = server.server_address[1]

    def close(self) -> None:
        """Take no more calls and end those that are open; what was not confirmed is sent again."""
        for association in self._server.active_associations:
            association.abort()
        self._server.shutdown()
        self._thread.join()


def start_listening(settings: Listen, intake: Intake) -> Listener:
    """Listen for C-STORE and C-ECHO, in threads of its own.

    Only the called title that is ours and the calling titles of the settings are let in, only image classes
    and transfer syntaxes that can be decoded are agreed on. An object that is larger than it may be ends its
    association. Nothing is answered with success before its file and row are on the disk.

    Raises
    ------
    Refused
        ``unreachable`` where the address cannot be bound, and as `server_context` refuses.
    """
    ae = AE(settings.ae_title)
    ae.require_called_aet = True
    ae.require_calling_aet = list(settings.callers)
    ae.maximum_associations = settings.max_associations
    ae.maximum_pdu_size = _LARGEST_PDU
    ae.network_timeout = ae.acse_timeout = ae.dimse_timeout = settings.timeout_s
    ae.add_supported_context(Verification)
    for uid in sorted(IMAGES):
        ae.add_supported_context(uid, list(DECODED_SYNTAXES))
    context = None
    if settings.certificate:
        context = server_context(settings.certificate, settings.key, settings.authority)
    try:
        server = ae.make_server(
            (settings.host, settings.port),
            ae_title=settings.ae_title,
            ssl_context=context,
            evt_handlers=[
                (evt.EVT_C_STORE, _stored, [intake]),
                (evt.EVT_DIMSE_RECV, _message_ended),
                (evt.EVT_REJECTED, _rejected),
                (evt.EVT_ABORTED, _ended_early),
                (evt.EVT_CONN_CLOSE, _closed),
            ],
            server_class=_Server,
            request_handler=_Handler,
        )
    except OSError as error:
        raise Refused(
            "unreachable",
            f"cannot listen on {settings.host}, port {settings.port}",
            got=error.strerror,
            do="choose another port, or stop what has this one",
        ) from error
    server.most_bytes = settings.max_object_mb * _MB
    server.silence_s = settings.timeout_s
    ae._servers.append(server)  # where shutdown() takes it from
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    return Listener(server, thread)


class _Server(ThreadedAssociationServer):  # type: ignore[misc]
    """Shakes hands over TLS in the thread of the caller: one who says nothing keeps nobody else waiting."""

    most_bytes = 0
    silence_s = 60.0

    def get_request(self) -> tuple[socket.socket, Any]:
        client, address = self.socket.accept()
        if self.ssl_context:
            client = self.ssl_context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        return client, address


class _Handler(RequestHandler):  # type: ignore[misc]
    """One caller."""

    def handle(self) -> None:
        """Shake hands and let the association begin."""
        if isinstance(self.request, ssl.SSLSocket):
            try:
                self.request.settimeout(_HANDSHAKE_S)
                self.request.do_handshake()
            except OSError as error:
                log.warning("a caller was turned away at the TLS handshake: %s", type(error).__name__)
                self.request.close()
                return
        self.request.settimeout(self.server.silence_s)
        super().handle()

    def _create_association(self) -> Any:
        association = super()._create_association()
        # a second socket would announce a second connection, so the one that is there becomes bounded
        association.dul.socket.__class__ = _BoundedSocket
        association.dul.socket.most_bytes = self.server.most_bytes
        return association


class _BoundedSocket(AssociationSocket):  # type: ignore[misc]
    """Reads no PDU that is longer than agreed, and no message that is larger than an object may be.

    pynetdicom takes whatever length a caller claims, up to 4 GB a PDU and without end a message.
    """

    most_bytes = 0
    pending = 0

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > _LARGEST_REQUEST:
            raise OSError("a PDU is longer than was agreed on")
        self.pending += nr_bytes
        if self.pending > self.most_bytes + _LARGEST_REQUEST:
            log.warning("an object was larger than max_object_mb; its association was ended")
            raise OSError("an object is larger than it may be")
        received: bytearray = super().recv(nr_bytes)
        return received


def _message_ended(event: Any) -> None:
    """A whole message has arrived: the next one is counted from 0."""
    if isinstance(event.assoc.dul.socket, _BoundedSocket):
        event.assoc.dul.socket.pending = 0


def _stored(event: Any, intake: Intake) -> int:
    """Answer one C-STORE."""
    source = f"C-STORE from {_title(event)}"
    claimed = str(event.request.AffectedSOPInstanceUID)
    try:
        found, new = intake.take(event.encoded_dataset(), source=source)
    except Refused as refused:
        log.warning("object %s was refused: %s [%s]", key_of(claimed), refused.sentence, refused.reason)
        return {"spool-full": _NO_ROOM, "same-uid-other-content": _OTHER_CONTENT}.get(
            refused.reason, _NOT_UNDERSTOOD
        )
    log.info("object %s %s", key_of(found.sop_instance_uid), "arrived" if new else "is here already")
    return _SUCCESS


def _title(event: Any) -> str:
    """The caller's AE title, one of those in the settings."""
    return str(event.assoc.requestor.ae_title).strip()


def _rejected(event: Any) -> None:
    log.warning("an association was rejected: its AE titles are not in the settings, or there are too many")


def _ended_early(event: Any) -> None:
    log.warning("an association was ended in the middle; what was confirmed is kept")


def _closed(event: Any) -> None:
    log.debug("a connection was closed")
