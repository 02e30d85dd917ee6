"""The peer at work: four loops that know of each other by the spool alone, and a status for who watches."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ..errors import Refused
from ..files import write_text
from ..version import __version__
from .completing import QUIET_NOTE, look_for_complete
from .dimse import DimsePeer
from .peer import Peer
from .polling import fetch_new, since
from .receiving import Intake, Listener, start_listening
from .running import RESULTS, OpenNight, Runner
from .sending import send_due
from .settings import Settings
from .spool import Spool
from .web import WebPeer

__all__ = ["STATUS", "Server", "peer_for"]

log = logging.getLogger(__name__)

STATUS = "status.json"
_GB = 1e9
_LONGEST_PAUSE_S = 120.0
_PRUNE_EVERY_S = 3600.0


def peer_for(settings: Settings, way: str) -> Peer | None:
    """The PACS, asked in one of the ways of the settings: "web", "dimse" or "nobody".

    Raises
    ------
    Refused
        As `read_password` and `client_context` refuse.
    """
    if way == "web":
        assert settings.web is not None
        return WebPeer(settings.web)
    if way == "dimse":
        assert settings.dimse is not None
        return DimsePeer(settings.dimse)
    return None


@dataclass
class _Loop:
    """A thread that does its step again and again; what is refused is told once, and tried after a pause."""

    name: str
    step: Callable[[], bool]
    every_s: float
    end: Callable[[], None] = lambda: None  # called in the thread, whatever happened
    problem: str = ""
    problem_since: float = 0.0
    error: BaseException | None = field(default=None, repr=False)

    def run(self, stop: threading.Event, clock: Callable[[], float]) -> None:
        pause = self.every_s
        try:
            while not stop.is_set():
                try:
                    busy = self.step()
                except Refused as refused:
                    if self.problem != refused.reason:
                        log.warning("%s: %s", self.name, refused)
                        self.problem, self.problem_since = refused.reason, clock()
                    pause = min(_LONGEST_PAUSE_S, max(1.0, 2 * pause))
                else:
                    if self.problem:
                        log.info("%s goes on", self.name)
                    self.problem, pause = "", 0.0 if busy else self.every_s
                stop.wait(pause)
        except BaseException as error:  # a thread dies unheard; nothing is hidden, see below
            self.error = error  # raised again by `Server.run`
            stop.set()
        finally:
            self.end()


class _Hopeless(Exception):
    """A refusal that trying again does not change."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(str(refused))
        self.refused = refused


class Server:
    """A peer of a PACS, made of settings and a queue.

    Parameters
    ----------
    settings : Settings
    open_night : callable
        Opens the queue of studies in a folder.
    clock : callable, optional
        Gives seconds since 1970.
    every_s : float, optional
        How often the loops look for work.

    Raises
    ------
    Refused
        ``already-serving``, ``unwritable``, ``unreachable``, and where a password or a certificate cannot be
        used: before anything is received.
    """

    def __init__(
        self,
        settings: Settings,
        open_night: OpenNight,
        *,
        clock: Callable[[], float] = time.time,
        every_s: float = 1.0,
    ) -> None:
        self.settings, self._open_night, self.clock, self._every_s = settings, open_night, clock, every_s
        for way in ("web", "dimse"):
            if getattr(settings, way) is not None:
                peer_for(settings, way)
        self._stack = ExitStack()
        self.spool = self._stack.enter_context(
            Spool(
                settings.spool.folder,
                max_bytes=int(settings.spool.max_gb * _GB),
                min_free_bytes=int(settings.spool.min_free_gb * _GB),
            )
        )
        self.intake = Intake(self.spool, clock)
        self.listener: Listener | None = None
        self._runner: Runner | None = None
        self._next_poll = self._next_prune = 0.0
        self._has_polled = settings.poll is None
        try:
            if settings.listen is not None:
                self.listener = start_listening(settings.listen, self.intake)
        except BaseException:  # Ctrl-C, too, must not leave the spool held; it is handed on
            self._stack.close()
            raise

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set, then end cleanly: what is unfinished goes on at the next start.

        Raises
        ------
        Refused
            What makes serving impossible: ``bad-bundle``, ``other-settings``, ``audit-changed``.
        """
        loops = [
            _Loop("asking", lambda: self._ask(stop), self._every_s),
            _Loop("running", lambda: self._run(stop), self._every_s, self._end_running),
            _Loop("sending", self._send, self._every_s),
        ]
        threads = [
            threading.Thread(
                target=loop.run, args=(stop, self.clock), name=f"medseg-{loop.name}", daemon=True
            )
            for loop in loops
        ]
        for thread in threads:
            thread.start()
        log.info("serving%s", f" on port {self.listener.port}" if self.listener else "")
        try:
            while not stop.is_set():
                self._write_status("serving", loops)
                stop.wait(5 * self._every_s)
        finally:
            stop.set()
            self._close(threads, loops)
        for loop in loops:
            if isinstance(loop.error, _Hopeless):
                raise loop.error.refused
            if loop.error is not None:
                raise loop.error

    def is_idle(self) -> bool:
        """Whether the PACS has been asked, and nothing that came has to be done or sent any more."""
        return (
            self._has_polled
            and not self.spool.series("receiving", "ready", "running")
            and not self.spool.outbox.results("waiting")
        )

    def _close(self, threads: list[threading.Thread], loops: list[_Loop]) -> None:
        log.info("stopping")
        if self.listener is not None:
            self.listener.close()
        for thread in threads:
            thread.join(timeout=10)  # a series at work is begun anew: its child ends with this process
        self._write_status("stopped", loops)
        self._stack.close()

    # the steps; each returns whether there may be more to do at once

    def _ask(self, stop: threading.Event) -> bool:
        poll, now = self.settings.poll, self.clock()
        if poll is not None and now >= self._next_poll:
            peer = peer_for(self.settings, "web")
            assert peer is not None
            oldest = since(poll.days, now)
            came = fetch_new(
                self.intake, peer, self.settings.run.modalities, oldest=oldest, stopped=stop.is_set
            )
            self._next_poll, self._has_polled = self.clock() + poll.every_s, True
            if came:
                log.info("%d objects were fetched", came)
        if self.spool.series("receiving"):
            look_for_complete(
                self.spool,
                peer_for(self.settings, self.settings.wait.ask),
                self.settings.wait,
                now=self.clock(),
            )
        return False

    def _run(self, stop: threading.Event) -> bool:
        if self._runner is None:
            try:
                night = self._open_night(self.spool.folder / RESULTS)
            except Refused as refused:
                raise _Hopeless(refused) from None
            self._runner = Runner(self.spool, night, self.settings, self.clock)
        if stop.is_set():
            return False
        now = self.clock()
        if now >= self._next_prune:
            self._runner.prune(now - 86400 * self.settings.spool.keep_days)
            self._next_prune = now + _PRUNE_EVERY_S
        return self._runner.run_ready() > 0

    def _end_running(self) -> None:
        if self._runner is not None:
            self._runner.night.close()

    def _send(self) -> bool:
        if not self.spool.outbox.due(self.clock()):
            return False
        peer = peer_for(self.settings, self.settings.send.by)
        assert peer is not None
        return send_due(self.spool, peer, self.settings.send, now=self.clock()) > 0

    def _write_status(self, state: str, loops: list[_Loop]) -> None:
        """Write the file that a monitor reads: it is young and holds no problem where all is well."""
        path = self.spool.folder / STATUS
        write_text(path, json.dumps(self.status(state, loops), indent=1) + "\n")

    def status(self, state: str, loops: list[_Loop]) -> dict[str, Any]:
        """What `STATUS` holds: numbers and reasons, no names and no UIDs."""
        now = self.clock()
        waiting = self.spool.outbox.results("waiting")
        problems = {
            loop.name: {"reason": loop.problem, "seconds": round(now - loop.problem_since)}
            for loop in loops
            if loop.problem
        }
        if away := {r.reason for r in waiting if r.attempts}:
            problems["sending"] = {"reason": sorted(away)[0], "results": sum(r.attempts > 0 for r in waiting)}
        return {
            "state": state,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            "process": os.getpid(),
            "version": __version__,
            "port": self.listener.port if self.listener else None,
            "held_gb": round(self.spool.held_bytes() / _GB, 3),
            **self.spool.counts(),
            "problems": problems,
            "completeness_unknown": sum(row.note == QUIET_NOTE for row in self.spool.series("done")),
            "refused": [
                {"series": row.key, "reason": row.reason} for row in self.spool.series("refused")[-100:]
            ],
            "not_sent": [
                {"series": r.series_key, "reason": r.reason}
                for r in self.spool.outbox.results("failed")[-100:]
            ],
        }
