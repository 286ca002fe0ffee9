"""What a job's page shows, gathered in one place, so that the page and its poll cannot drift apart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.accounts.service import User
from app.cluster.kubernetes.manifests import Impossible, as_yaml, manifests
from app.clusters import service as clusters
from app.clusters.service import ClusterKind, ClusterRow
from app.clusters.settings import kubernetes_settings
from app.database import now
from app.installation import service as installation
from app.jobs import pulse, service
from app.jobs.models import Job, JobAttempt, JobEvent, JobRank
from app.jobs.pulse import Pulse
from app.jobs.request import as_api_body
from app.jobs.states import FINAL, State
from app.logs import service as logs
from app.logs.service import LogStream
from app.orgs.models import Role


@dataclass
class JobView:
    """One job as one person sees it. Everything is read when it is first asked for."""

    job: Job
    user: User
    role: Role
    rank: int = 0
    attempt_number: int | None = None

    @cached_property
    def _attempt_and_stream(self) -> tuple[JobAttempt | None, LogStream | None]:
        return service.attempt_and_stream(self.job, self.attempt_number, self.rank)

    @property
    def attempt(self) -> JobAttempt | None:
        return self._attempt_and_stream[0]

    @cached_property
    def cluster(self) -> ClusterRow:
        return clusters.by_id(self.job.cluster_id)

    @cached_property
    def preset(self) -> Any:
        return service.preset_of(self.job)

    @cached_property
    def spec(self) -> Any:
        return service.spec_of(self.job)

    @cached_property
    def events(self) -> list[JobEvent]:
        """Newest first, as the page has them."""
        return service.timeline(self.job)[::-1]

    @cached_property
    def people(self) -> dict[int, str]:
        ids = {event.user_id for event in self.events if event.user_id is not None} | {self.job.user_id}
        return service.people(ids)

    @cached_property
    def ranks(self) -> list[JobRank]:
        return service.ranks(self.attempt)

    @property
    def stream(self) -> LogStream | None:
        return self._attempt_and_stream[1]

    @cached_property
    def streams(self) -> list[LogStream]:
        return logs.streams(self.attempt.id) if self.attempt is not None else []

    @cached_property
    def manifest(self) -> str:
        """The objects on the cluster as YAML, ready for kubectl; empty where they are not Kubernetes objects."""
        if self.local:
            return ""
        attempt = service.attempt_value(self.job, installation.identity())
        try:
            return as_yaml(manifests(attempt, kubernetes_settings(self.cluster.settings)))
        except Impossible:
            return ""

    @property
    def local(self) -> bool:
        return self.cluster.kind is ClusterKind.LOCAL

    @property
    def silent_since(self) -> Any:
        return None if self.job.state.final else clusters.silent_since(self.cluster)

    @cached_property
    def pulse(self) -> Pulse:
        return pulse.pulse(self.job, self.stream, self.cluster)

    @property
    def may_stop(self) -> bool:
        return self.job.can_stop and service.may_stop(self.job, self.user, self.role)

    @property
    def may_launch(self) -> bool:
        return self.role.includes(Role.MEMBER)

    def who(self, user_id: int | None) -> str:
        return "you" if user_id == self.user.id else self.people.get(user_id or 0, "")

    @property
    def waited_or_ran(self) -> float:
        """Seconds from the start to the end, or to now; before the start from the launch."""
        return duration(self.job)

    @property
    def first_bad_rank(self) -> JobRank | None:
        """The rank that failed first: what came later is mostly its consequence."""
        bad = [rank for rank in self.ranks if rank.exit_code and rank.finished_at is not None]
        return min(bad, key=lambda rank: rank.finished_at or now(), default=None)


def api_body(seen: JobView, org: str) -> str:
    """The body of the API call that launches the same again."""
    body = {**as_api_body(seen.preset.name, seen.cluster.name, seen.spec), "org": org}
    return json.dumps(body, ensure_ascii=False)


def duration(job: Job) -> float:
    begin = job.started_at or (job.created_at if job.state not in FINAL else job.finished_at)
    end = job.finished_at or now()
    return max(0.0, (end - (begin or end)).total_seconds())


def digest(page: service.JobPage, counts: dict[str, int], usable: list[ClusterRow]) -> str:
    """Changes whenever something on a page of the list does."""
    rows = [(job.id, job.version) for job in page.jobs]
    free = [(row.refused, row.capacity) for row in usable]
    return hashlib.sha256(json.dumps([rows, counts, page.older, page.newer, free]).encode()).hexdigest()[:16]


def tone(state: State) -> str:
    return {State.SUCCEEDED: "good", State.FAILED: "bad", State.LOST: "warn", State.RUNNING: "live"}.get(state, "")
