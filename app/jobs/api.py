"""Jobs in the API: the pages' own services, as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Blueprint, Response, request

from app import durations
from app.accounts.service import current_user
from app.api import cursors
from app.api.request import Body, Whole, body, invalid, member, needs_scope, number, query, reply
from app.clusters import service as clusters
from app.errors import Problem, api_problem
from app.jobs import service
from app.jobs.models import Job
from app.jobs.service import Filter, LaunchRefused, LaunchRequest
from app.jobs.states import WORDS, State
from app.logs import service as logs
from app.orgs.models import Org, Role


class LaunchBody(Body):
    preset: str
    command: str | list[str] | None = None
    gpus: Whole | None = None
    nodes: Whole | None = None
    name: str | None = None
    env: dict[str, str] | None = None
    cluster: str | None = None
    org: str | None = None
    max_runtime: str | None = None
    gpu_type: str | None = None


def register(bp: Blueprint) -> None:
    bp.post("/jobs")(launch)
    bp.get("/jobs")(list_jobs)
    bp.get("/jobs/<name>")(show)
    bp.delete("/jobs/<name>")(stop)
    bp.get("/jobs/<name>/logs")(read_log)


def launch() -> Response:
    needs_scope("write")
    named = query("org").get("org")
    sent = body(LaunchBody)
    if named is not None and sent.org not in (None, named):
        raise invalid({"org": "The address names another org than the body."})
    found = member(named if sent.org is None else sent.org, Role.MEMBER)
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= 200 and key.isprintable()):
        raise invalid({"Idempotency-Key": "It must have 1 to 200 printable characters."})
    asked = LaunchRequest(
        preset=sent.preset,
        command=tuple(sent.command) if isinstance(sent.command, list) else sent.command,
        gpus=sent.gpus,
        nodes=sent.nodes,
        name=sent.name,
        env=sent.env or {},
        cluster=sent.cluster,
        max_runtime=sent.max_runtime,
        gpu_type=sent.gpu_type,
    )
    if sent.name == "":
        raise invalid({"name": "It must not be empty. Leave it out to have one made."})
    try:
        done = service.launch(found.org, current_user(), asked, key)
    except LaunchRefused as refused:
        raise invalid(refused.errors) from refused
    except service.KeyReused:
        raise Problem(
            409, "key-reused", "The idempotency key was used for another request", "Use a fresh key for a new wish."
        ) from None
    headers = {"Location": f"/api/jobs/{done.job.name}?org={found.org.slug}"}
    if done.replayed:
        return reply(describe(done.job, found.org), 200, {**headers, "Idempotent-Replay": "true"})
    return reply(describe(done.job, found.org), 201, headers)


def list_jobs() -> Response:
    needs_scope("read")
    asked = query("org", "state", "mine", "q", "cursor", "limit")
    org = member(asked.get("org")).org
    state = asked.get("state", "")
    if state and state != "active" and state not in WORDS:
        raise invalid({"state": f"It is one of active, {', '.join(State)}."})
    mine = asked.get("mine", "")
    if mine not in ("", "0", "1", "true", "false"):
        raise invalid({"mine": "It is 1 or 0."})
    text = asked.get("q", "")
    if len(text) > 63 or "\0" in text:
        raise invalid({"q": "It has at most 63 characters, and no NUL."})
    limit = number(asked, "limit", service.PAGE, 1, 200)
    before = cursors.read(f"jobs {org.id}", "cursor", asked["cursor"], 1)[0] if "cursor" in asked else None
    only = Filter(state=state, user_id=current_user().id if mine in ("1", "true") else None, q=text)
    page = service.page_of_jobs(org.id, only, before=before, limit=limit)
    following = cursors.make(f"jobs {org.id}", page.older) if page.older is not None else None
    return reply({"jobs": [summary(job, org) for job in page.jobs], "next": following})


def show(name: str) -> Response:
    needs_scope("read")
    org = member(query("org").get("org")).org
    return reply(describe(_job(org, name), org))


def stop(name: str) -> Response:
    needs_scope("write")
    found = member(query("org").get("org"))
    job = _job(found.org, name)
    try:
        service.stop(job, current_user(), found.role)
    except service.MayNotStop:
        raise api_problem(403) from None
    return reply(describe(_job(found.org, name), found.org), 202)


def read_log(name: str) -> Response:
    """The bytes as printed, at most 1 MiB a reply. `Log-Complete` only where the log is final and this is its end."""
    needs_scope("read")
    asked = query("org", "rank", "attempt", "since")
    org = member(asked.get("org")).org
    job = _job(org, name)
    rank = number(asked, "rank", 0, 0, 100_000)
    if rank >= job.nodes:
        raise invalid({"rank": f"The job has the ranks 0 to {job.nodes - 1}."})
    attempt_number = number(asked, "attempt", job.attempt, 0, 100_000)
    attempt = service.attempt_of(job, attempt_number) if attempt_number else None
    if attempt is None and attempt_number != job.attempt:
        raise invalid({"attempt": "The job has no such attempt."})
    purpose = f"log {job.id} {rank}"
    since = 0
    if "since" in asked:
        of_attempt, since = cursors.read(purpose, "since", asked["since"], 2)
        if of_attempt not in (0, attempt_number):
            raise invalid({"since": "This cursor belongs to another attempt."})
    if attempt is None:
        headers = {"Log-Cursor": cursors.make(purpose, 0, 0)}
        if job.state.final:
            headers["Log-Complete"] = "true"
        return Response(b"", 200, headers, content_type="application/octet-stream")
    stream = logs.find_stream(attempt.id, rank)
    complete = stream.complete if stream is not None else job.settled
    part = logs.read(attempt.id, rank, since)
    headers = {"Log-Cursor": cursors.make(purpose, attempt_number, part.next)}
    if complete and part.at_end:
        headers["Log-Complete"] = "true"
    if part.gaps:
        headers["Log-Gap"] = ", ".join(
            f"{gap.first_byte}+{gap.size if gap.size is not None else '?'}" for gap in part.gaps
        )
    return Response(part.data, 200, headers, content_type="application/octet-stream")


def _job(org: Org, name: str) -> Job:
    try:
        return service.readable_job(org, name)
    except service.JobNotFound:
        raise api_problem(404) from None


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else None


def summary(job: Job, org: Org) -> dict[str, Any]:
    """A job as lists have it."""
    return {
        "name": job.name,
        "org": org.slug,
        "state": job.state.value,
        "reason": {"code": job.reason_code, "text": job.reason_text, "raw": job.reason_raw},
        "gpus": job.gpus,
        "nodes": job.nodes,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "exit_code": job.exit_code,
    }


def describe(job: Job, org: Org) -> dict[str, Any]:
    spec, preset = service.spec_of(job), service.preset_of(job)
    events = service.timeline(job)
    people = service.addresses({job.user_id} | {event.user_id for event in events if event.user_id is not None})
    return {
        **summary(job, org),
        "user": people[job.user_id],
        "preset": preset.name,
        "preset_version": preset.number,
        "command": spec.command if isinstance(spec.command, str) else list(spec.command),
        "env": dict(spec.env),
        "cluster": clusters.by_id(job.cluster_id).name,
        "max_runtime": durations.written(spec.max_runtime),
        "attempt": job.attempt,
        "timeline": [
            {
                "at": _time(event.at),
                "text": event.text,
                "detail": event.detail,
                "state": event.state.value if event.state is not None else None,
                "user": people.get(event.user_id) if event.user_id is not None else None,
            }
            for event in events
        ],
    }
