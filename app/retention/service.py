from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from app.accounts import service as accounts
from app.audit import service as audit
from app.cluster.text import count, size
from app.config import Config
from app.database import db, now, transaction
from app.jobs import service as jobs

CHUNKS = 16  # pieces of logs that one transaction removes: SQLite lets nobody else write meanwhile
JOBS = 20  # jobs that one transaction removes, or whose logs it marks as gone, unless
HOLD = 0.02  # seconds have passed by then
ROWS = 200  # rows of other tables
REST = 4  # a pause is so many times as long as the transaction before it: others write most of the time
_EVER = datetime(1970, 1, 1, tzinfo=UTC)

Pause = Callable[[float], bool]  # waits so many seconds; whether to end now


@dataclass(slots=True)
class Removed:
    """What went, or would go."""

    jobs: int = 0
    logs: int = 0  # of jobs that stay
    log_bytes: int = 0
    sign_ins: int = 0
    audit: int = 0

    def __bool__(self) -> bool:
        return bool(self.jobs or self.logs or self.sign_ins or self.audit)

    def __str__(self) -> str:
        return (
            f"{count(self.jobs, 'finished job')}, {count(self.logs, 'log')} of other jobs ({size(self.log_bytes)}), "
            f"{self.audit} audit entries, {count(self.sign_ins, 'expired sign-in')}"
        )


def rules(config: Config) -> list[str]:
    """The settings in words."""
    days = (
        ("Finished jobs, with everything of them", "RETAIN_JOBS_DAYS", config.retain_jobs_days),
        ("Logs of finished jobs", "RETAIN_LOGS_DAYS", config.retain_logs_days),
        ("The audit trail", "RETAIN_AUDIT_DAYS", config.retain_audit_days),
    )
    said = []
    for what, name, limit in days:
        kept = f"kept for {count(limit, 'day')}" if limit else "kept"
        said.append(f"{what}: {kept} ({name}).")
    kept = f"{size(config.retain_logs_bytes)} kept, the newest" if config.retain_logs_bytes else "no limit"
    return [*said, f"Bytes of the logs of finished jobs: {kept} (RETAIN_LOGS_BYTES)."]


def run(config: Config, pause: Pause) -> Removed:
    """Remove what the settings call old, in short transactions with pauses between; what went.

    It may be ended or killed at any moment, and run twice at once: each transaction leaves everything in order, and
    the next run goes on.
    """
    return _Run(config, pause).everything()


@dataclass(slots=True)
class _Run:
    config: Config
    pause: Pause
    at: datetime = field(default_factory=now)
    ended: bool = False
    done: Removed = field(default_factory=Removed)

    def everything(self) -> Removed:
        self._repeat("sign_ins", accounts.forget_expired)
        if self.config.retain_audit_days:
            before = self.at - timedelta(days=self.config.retain_audit_days)
            self._repeat("audit", lambda most: audit.forget(before, most))
        if self.config.retain_jobs_days:
            self._jobs(self.at - timedelta(days=self.config.retain_jobs_days))
        if self.config.retain_logs_days:
            days = self.config.retain_logs_days
            self._logs(self.at - timedelta(days=days), 0, f"by the portal's retention of {count(days, 'day')}.")
        if self.config.retain_logs_bytes:
            kept = size(self.config.retain_logs_bytes)
            excess = jobs.log_bytes() - self.config.retain_logs_bytes
            if excess > 0:
                self._logs(self.at, excess, f"because the portal keeps {kept} of logs, the newest ones.")
        return self.done

    @contextmanager
    def _short(self) -> Iterator[Callable[[], bool]]:
        """One short transaction, which asks now and then whether it is late, and a pause behind it."""
        began = time.monotonic()
        with transaction():
            yield lambda: time.monotonic() > began + HOLD
        self.ended = self.pause(REST * (time.monotonic() - began))

    def _repeat(self, what: str, forget: Callable[[int], int]) -> None:
        gone = ROWS
        while gone >= ROWS and not self.ended:
            with self._short():
                gone = forget(ROWS)
            setattr(self.done, what, getattr(self.done, what) + gone)

    def _jobs(self, before: datetime) -> None:
        while not self.ended and (old := jobs.oldest(before, JOBS)):
            room, gone = CHUNKS, 0
            with self._short() as late:
                for job in old:
                    room -= jobs.remove_log(job.id, "The job is being removed.", room)
                    if room <= 0:
                        break  # perhaps there is more of its log
                    gone += jobs.remove(job.id)
                    if late():
                        break
            self.done.jobs += gone

    def _logs(self, before: datetime, excess: int, why: str) -> None:
        """Of all jobs before a moment; with an excess until that many bytes have gone."""
        why = f"The log was removed on {self.at:%Y-%m-%d} {why}"
        left = excess
        while not self.ended and (left > 0 or not excess) and (old := jobs.oldest(before, JOBS, with_log=True)):
            room = CHUNKS
            gone: list[jobs.Old] = []
            with self._short() as late:
                for job in old:
                    room -= jobs.remove_log(job.id, why, room)
                    if room <= 0:
                        break
                    gone.append(job)
                    if late() or (excess and left <= sum(each.log_bytes for each in gone)):
                        break
            freed = sum(each.log_bytes for each in gone)
            left -= freed
            self.done.log_bytes += freed
            self.done.logs += sum(each.log_bytes > 0 for each in gone)


def would_remove(config: Config) -> Removed:
    """What a run would remove now. Reads only."""
    at = now()
    found = Removed(sign_ins=accounts.expired())
    floor = _EVER
    if config.retain_audit_days:
        found.audit = audit.older(at - timedelta(days=config.retain_audit_days))
    if config.retain_jobs_days:
        floor = at - timedelta(days=config.retain_jobs_days)
        found.jobs = jobs.finished_between(_EVER, floor)
    if config.retain_logs_days:
        before = max(floor, at - timedelta(days=config.retain_logs_days))
        found.logs, found.log_bytes = jobs.logs_between(floor, before)
        floor = before
    if config.retain_logs_bytes:
        logs, taken = jobs.logs_beyond(config.retain_logs_bytes, floor)
        found.logs += logs
        found.log_bytes += taken
    db.session.rollback()
    return found
