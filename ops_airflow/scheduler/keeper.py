"""`ops-agent scheduler`: keeps the lease and, while it holds it, the scheduler. One thread, one select loop.

The protocol decides; this module carries its actions out and tells it what happened. The loop hears the database, its
scheduler and signals, and nobody else: who asks for its state is answered by another process (endpoint.py).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING

import psycopg2

from ops_airflow.scheduler import protocol as p
from ops_airflow.scheduler.endpoint import Endpoint
from ops_airflow.scheduler.report import Report
from ops_airflow.scheduler.session import Session

if TYPE_CHECKING:
    from ops_airflow.scheduler.config import Config
    from ops_airflow.scheduler.process import SchedulerProcess

log = logging.getLogger("ops_airflow.keeper")

_PING_SECONDS = 1.0


def notify_systemd(message: str) -> None:
    """Tell the service manager, if it is listening (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + path[1:] if path.startswith("@") else path)
            channel.send(message.encode())


class Keeper:
    """Everything that touches the world."""

    def __init__(self, config: Config, scheduler: SchedulerProcess, *, preloaded: bool) -> None:
        """`preloaded`: whether the scheduler's code is in memory, so that it starts at once."""
        self._protocol = p.Protocol(config.timing)
        self._session = Session(config.database, config.timing.ttl)
        self._scheduler = scheduler
        self._report = Report(self._protocol, time.monotonic)
        self._report.preloaded = preloaded
        self._endpoint = Endpoint(config.listen_address, config.listen_port, config.readers)
        self._call: p.Call | None = None
        self._leave = False
        self._next_ping = 0.0
        self._complaint = ""
        self._signals, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = wakeup

    @property
    def port(self) -> int:
        """The endpoint's port."""
        return self._endpoint.port

    def run(self) -> None:
        """Keep until SIGTERM or SIGINT; return when the scheduler is dead and the lease given back."""
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        notify_systemd("READY=1")
        self._step(p.Tick())
        while not self._leave:
            self._turn()
        self._session.close()
        self._endpoint.close()

    def _turn(self) -> None:
        self._endpoint.tell(self._report.snapshot())
        reading = [self._signals]
        writing: list[int] = []
        if self._scheduler.pid:
            reading.append(self._scheduler.pipe)
        database = self._session.fileno()
        if database is not None:
            (writing if self._session.wants_to_write else reading).append(database)
        now = time.monotonic()
        timeout = max(0.0, min(self._protocol.wake_at, self._next_ping) - now)
        readable, writable, _ = select.select(reading, writing, [], timeout)
        ready = {*readable, *writable}
        self._ping()
        # What has happened comes before what it would lead to: a dead scheduler before the renewal of its lease.
        if self._signals in ready:
            self._read_signals()
        if self._scheduler.pid and self._scheduler.pipe in ready:
            self._read_progress()
        if database in ready and database == self._session.fileno():
            self._push_session()
        self._give_up_late_call()
        if time.monotonic() >= self._protocol.wake_at:
            self._step(p.Tick())

    def _ping(self) -> None:
        now = time.monotonic()
        if now >= self._next_ping:
            self._next_ping = now + _PING_SECONDS
            notify_systemd("WATCHDOG=1")
            self._endpoint.tend()

    def _read_signals(self) -> None:
        numbers = set(os.read(self._signals, 4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            notify_systemd("STOPPING=1")
            self._step(p.ShutDown())
        if signal.SIGCHLD in numbers and (how := self._scheduler.reap()):
            self._report.scheduler_pid = 0
            self._step(p.SchedulerDied(how))

    def _read_progress(self) -> None:
        try:
            self._step(p.Progressed(self._scheduler.progress()))
        except BlockingIOError:
            return
        except EOFError:
            # It closed the pipe on its way out; SIGCHLD is about to come.
            time.sleep(0.001)

    def _push_session(self) -> None:
        try:
            answer = self._session.push()
        except psycopg2.Error as error:
            self._drop_session(str(error))
            return
        if self._session.notified():
            self._step(p.Notified())
        if answer is not None:
            self._complaint = ""
            self._call = None
            self._step(p.Answered(answer))

    def _give_up_late_call(self) -> None:
        if self._call and time.monotonic() >= self._call.deadline:
            self._drop_session(f"{self._call.verb}: no answer in time")

    def _drop_session(self, why: str) -> None:
        self._session.leave()
        waiting, self._call = self._call, None
        # Said once, not four times a second for as long as the database is away.
        if why != self._complaint:
            log.warning("database: %s", " ".join(why.split()))
        self._complaint = why
        if waiting:
            self._step(p.Failed(why.strip()))

    def _step(self, event: p.Event) -> None:
        for action in self._protocol.step(time.monotonic(), event):
            self._act(action)

    def _act(self, action: p.Action) -> None:
        match action:
            case p.Call():
                self._start_call(action)
            case p.Start(epoch, resend_after):
                self._start_scheduler(epoch, resend_after)
            case p.End():
                self._scheduler.end()
            case p.Kill(why):
                log.warning("killing scheduler %d: %s", self._scheduler.pid, why)
                self._scheduler.kill()
            case p.Changed(state, epoch, why):
                log.info("%s, epoch %d: %s", state, epoch, why)
                self._report.changed(state, why)
            case p.Leave():
                self._leave = True

    def _start_call(self, call: p.Call) -> None:
        self._call = call
        try:
            self._session.start(call)
        except psycopg2.Error as error:
            self._drop_session(str(error))

    def _start_scheduler(self, epoch: int, resend_after: float | None) -> None:
        # What libpq calls the scheduler's sessions: so the server's own log tells in which epoch each of them wrote.
        os.environ["PGAPPNAME"] = f"airflow-scheduler epoch {epoch}"
        database = self._session.fileno()
        inherited = [*self._endpoint.all_files(), self._signals, self._wakeup]
        self._scheduler.start(resend_after, [*inherited, database] if database is not None else inherited)
        self._report.scheduler_pid = self._scheduler.pid
        log.info("scheduler %d started for epoch %d", self._scheduler.pid, epoch)
