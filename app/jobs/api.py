"""Jobs in the API: the pages' own services, as JSON."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, request
from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from app import durations
from app.accounts.service import current_user
from app.api import cursors
from app.api.openapi import Answer, Reply, Value, operation
from app.api.request import Body, Digits, OfOrg, Whole, invalid, member, reply
from app.clusters import service as clusters
from app.errors import Problem, api_problem
from app.jobs import pulse, service
from app.jobs.models import Job, JobAttempt
from app.jobs.request import COMMAND_LIMIT, ENV_LIMIT
from app.jobs.service import Filter, LaunchRefused, LaunchRequest
from app.jobs.states import State
from app.logs import service as logs
from app.orgs.models import Org, Role
from app.presets.content import ENV_NAME, NAME, NAME_RULE

VALUE_LIMIT = 130_000  # characters of one variable: with its name it stays below Linux's limit of one argument
KEY = re.compile(r"[!-~]([ -~]{0,198}[!-~])?")

# what a caller may send. The rules of a launch are in app/jobs/request.py, which tells all that is wrong at once; here
# they are described, and tests/api/test_openapi.py holds the one to the other


def _text(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **schema})


NAME_SCHEMA = {"type": "string", "pattern": f"^{NAME.pattern}$"}
NO_NUL = r"^[^\u0000]*$"
# str.strip() takes more for a space than some programs' \s does
SOMETHING = r"^[^\u0000]*[^\u0000\s\u001c-\u001f\u0085][^\u0000]*$"
_WORD: dict[str, Any] = {"type": "string", "maxLength": COMMAND_LIMIT}

Shell = Annotated[str, _text(pattern=SOMETHING, maxLength=COMMAND_LIMIT)]
Argv = Annotated[
    list[str],
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "prefixItems": [{**_WORD, "pattern": SOMETHING}],
            "items": {**_WORD, "pattern": NO_NUL},
        }
    ),
]
Env = Annotated[
    dict[str, Annotated[str, StringConstraints(max_length=VALUE_LIMIT)]],
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": f"^{ENV_NAME.pattern}$"},
            "additionalProperties": {"type": "string", "pattern": NO_NUL, "maxLength": VALUE_LIMIT},
        }
    ),
]
NotEmpty = StringConstraints(min_length=1)


class LaunchBody(Body):
    """What to run. What is null or left out is as the preset says, or as the portal chooses."""

    preset: Annotated[str, WithJsonSchema(NAME_SCHEMA)] = Field(description="The preset's name.")
    command: Shell | Argv | None = Field(
        None,
        description="A string is run by `/bin/sh -c`; a list is the exact argv. All of it has at most "
        f"{ENV_LIMIT:,} bytes, and each part {COMMAND_LIMIT:,}.",
    )
    gpus: Annotated[Whole, WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 1024})] | None = Field(
        None, description="Per node; at most what the preset allows."
    )
    nodes: Annotated[Whole, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 1024})] | None = Field(
        None, description="At most what the preset allows."
    )
    name: Annotated[str, NotEmpty, WithJsonSchema(NAME_SCHEMA)] | None = Field(
        None, description=f"Unique in the org: {NAME_RULE}. Made from the preset's if left out."
    )
    env: Env | None = Field(
        None,
        description="Variables beside, or instead of, those of the preset. Every member of the org can read them. All "
        f"together have at most {ENV_LIMIT:,} bytes.",
    )
    cluster: Annotated[str, NotEmpty] | None = Field(None, description="Where it must run.")
    org: str | None = Field(None, description="The org's slug, where the address does not name it.")
    max_runtime: (
        Annotated[str, NotEmpty, _text(pattern="^[0-9]{1,9}[dhms]([0-9]{1,9}[hms]){0,3}$", examples=["90s", "1h30m"])]
        | None
    ) = Field(None, description="Counts from `running`. Numbers with d, h, m and s, in this order.")
    gpu_type: Annotated[str, NotEmpty] | None = Field(None, description="One of those that the preset allows.")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("The character NUL cannot be searched for.")
    return text


class JobsQuery(OfOrg):
    state: Literal[
        "", "active", "queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled", "lost"
    ] = Field("", description="Only jobs in this state; `active`: in any that is not final.")
    mine: Literal["", "0", "1", "false", "true"] = Field("", description="Only jobs that you launched.")
    q: Annotated[str, StringConstraints(max_length=63), AfterValidator(_no_nul)] = Field(
        "", description="Only jobs with this in their names.", json_schema_extra={"pattern": NO_NUL}
    )
    cursor: str | None = Field(None, description="The `next` of the page before, asked for with the same filters.")
    limit: Digits = Field(service.PAGE, ge=1, le=200, description="Jobs on a page.")


class LogQuery(OfOrg):
    rank: Digits = Field(0, ge=0, le=100_000, description="Which process of a job on several nodes.")
    attempt: Digits | None = Field(None, ge=0, le=100_000, description="Which try; the last one if left out.")
    since: str | None = Field(None, description="The `Log-Cursor` of the reply before. From the beginning if left out.")


# what it is answered


class Reason(Answer):
    code: str = Field(description="Stable, for programs.")
    text: str = Field(description="A sentence for people.")
    raw: str = Field(description="What the cluster said itself, where it said something.")


class SummaryAnswer(Answer):
    """A job as lists have it."""

    name: str
    org: str
    user: str = Field(description="The address of who launched it.")
    state: State
    reason: Reason
    gpus: int = Field(ge=0, description="Per node.")
    nodes: int = Field(ge=1)
    cluster: str
    attempt: int = Field(ge=0, description="The number of the current try; 0 before the first.")
    created_at: datetime
    started_at: datetime | None = Field(description="When all its ranks ran.")
    finished_at: datetime | None
    exit_code: int | None = Field(description="128+n where signal n ended it.")


class Event(Answer):
    at: datetime
    text: str
    detail: str
    state: State | None = Field(description="The state that it brought.")
    user: str | None = Field(description="Who did it; null: the portal or the cluster.")


class JobAnswer(SummaryAnswer):
    """A job with everything that it was given and that has happened to it."""

    preset: str
    preset_version: int = Field(ge=1)
    command: str | list[str]
    env: dict[str, str]
    max_runtime: str
    timeline: list[Event] = Field(description="What happened, oldest first.")


class JobsAnswer(Answer):
    jobs: list[SummaryAnswer] = Field(description="Newest first.")
    next: str | None = Field(description="The `cursor` of the page below; null: this is the last one.")


def register(bp: Blueprint) -> None:
    bp.post("/jobs")(launch)
    bp.get("/jobs")(list_jobs)
    bp.get("/jobs/<name>")(show)
    bp.delete("/jobs/<name>")(stop)
    bp.get("/jobs/<name>/logs")(read_log)


NAMED = {"name": Value("The job's name.", NAME_SCHEMA)}
LOCATION = Value("Where the job is.", {"type": "string", "format": "uri-reference"})


@operation(
    "Launch a job",
    "Once it is answered no crash can lose it. A request with an `Idempotency-Key` can be sent again safely: the same "
    "key with the same request gives the same job, with another request 409. A refused request uses no key up.",
    {
        201: Reply("The job.", JobAnswer, headers={"Location": LOCATION}),
        200: Reply(
            "The job that the same request launched before.",
            JobAnswer,
            headers={
                "Location": LOCATION,
                "Idempotent-Replay": Value("Nothing new was made.", {"type": "string", "const": "true"}),
            },
        ),
    },
    scope="write",
    query=OfOrg,
    headers={
        "Idempotency-Key": Value(
            "1 to 200 printable ASCII characters, yours in this org.",
            {"type": "string", "pattern": f"^{KEY.pattern}$"},
            False,
        )
    },
    body=LaunchBody,
    examples={
        "preset": {"preset": "digits"},
        "more": {
            "preset": "digits",
            "name": "digits-seed-1",
            "command": ["python3", "train.py", "--epochs", "3"],
            "gpus": 0,
            "env": {"SEED": "1"},
            "max_runtime": "10m",
        },
    },
    problems=(409,),
)
def launch(asked: OfOrg, sent: LaunchBody) -> Response:
    if asked.org is not None and sent.org not in (None, asked.org):
        raise invalid({"org": "The address names another org than the body."})
    found = member(asked.org if sent.org is None else sent.org, Role.MEMBER)
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise invalid({"Idempotency-Key": "It must have 1 to 200 printable ASCII characters."})
    wanted = LaunchRequest(
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
    try:
        done = service.launch(found.org, current_user(), wanted, key)
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


@operation(
    "Jobs",
    "The jobs of an org, newest first, a page at a time. New jobs do not move the pages below.",
    {200: Reply("A page.", JobsAnswer)},
    scope="read",
    query=JobsQuery,
)
def list_jobs(asked: JobsQuery) -> Response:
    org = member(asked.org).org
    only = Filter(asked.state, current_user().id if asked.mine in ("1", "true") else None, asked.q)
    purpose = page_purpose(org.id, only)
    before = cursors.read(purpose, "cursor", asked.cursor, 1)[0] if asked.cursor is not None else None
    page = service.page_of_jobs(org.id, only, before=before, limit=asked.limit)
    following = cursors.make(purpose, page.older) if page.older is not None else None
    people = service.addresses({job.user_id for job in page.jobs})
    places = clusters.names({job.cluster_id for job in page.jobs})
    listed = [
        SummaryAnswer(**_summary(job, org), user=people[job.user_id], cluster=places[job.cluster_id])
        for job in page.jobs
    ]
    return reply(JobsAnswer(jobs=listed, next=following))


def page_purpose(org_id: int, only: Filter) -> str:
    """With other filters a cursor would leave jobs out, and nobody would see it."""
    return f"jobs {org_id} {only.user_id or 0} {only.state} {only.q}"


@operation(
    "One job",
    "With its state, why it is in it, what it was given, and what has happened to it.",
    {200: Reply("The job.", JobAnswer)},
    scope="read",
    path=NAMED,
    query=OfOrg,
)
def show(asked: OfOrg, name: str) -> Response:
    org = member(asked.org).org
    return reply(describe(_job(org, name), org))


@operation(
    "Stop a job",
    "Stops it and removes what it has on its cluster. Repeating it is harmless. A job that has finished keeps its "
    "state, and its row is kept. A member stops their own jobs, an owner any.",
    {202: Reply("The job as it is now; it may take a while to end.", JobAnswer)},
    scope="write",
    path=NAMED,
    query=OfOrg,
)
def stop(asked: OfOrg, name: str) -> Response:
    found = member(asked.org)
    job = _job(found.org, name)
    try:
        service.stop(job, current_user(), found.role)
    except service.MayNotStop:
        raise api_problem(403) from None
    return reply(describe(_job(found.org, name), found.org), 202)


@operation(
    "A job's log",
    "The bytes as they were printed, standard output and standard error in one stream, at most 1 MiB a reply. Pass "
    "`Log-Cursor` on as `since` until a reply has `Log-Complete`. While `Log-Poll` is 0 there is more to read at once; "
    "else it says after how many seconds asking again is worth it. No request is held open: to follow a log is to ask "
    "again.",
    {
        200: Reply(
            "The bytes from `since` on; none if there are no new ones.",
            media="application/octet-stream",
            headers={
                "Log-Cursor": Value("Opaque; where this reply ends.", {"type": "string"}),
                "Log-Complete": Value(
                    "The log is final, and this reply reaches its end.", {"type": "string", "const": "true"}, False
                ),
                "Log-Poll": Value(
                    "Seconds until asking again is worth it. Not on the last reply.",
                    {"type": "integer", "minimum": 0},
                    False,
                ),
                "Log-Gap": Value(
                    "Where bytes are missing that should stand in this reply, as FIRST+SIZE: the number of the first "
                    "one, counted from 0 over all that was printed, and how many, or `?` where nobody knows, which "
                    "then counts as one.",
                    {
                        "type": "string",
                        "pattern": r"^[0-9]+\+([0-9]+|\?)(, [0-9]+\+([0-9]+|\?))*$",
                        "examples": ["536870912+1048576", "5+100, 107+?"],
                    },
                    False,
                ),
            },
        )
    },
    scope="read",
    path=NAMED,
    query=LogQuery,
)
def read_log(asked: LogQuery, name: str) -> Response:
    org = member(asked.org).org
    job = _job(org, name)
    if asked.rank >= job.nodes:
        raise invalid({"rank": f"The job has the ranks 0 to {job.nodes - 1}."})
    number = job.attempt if asked.attempt is None else asked.attempt
    attempt = service.attempt_of(job, number) if number else None
    if attempt is None and number != job.attempt:
        raise invalid({"attempt": "The job has no such attempt."})
    purpose = f"log {job.id} {asked.rank}"
    since = 0
    if asked.since is not None:
        of_attempt, since = cursors.read(purpose, "since", asked.since, 2)
        if of_attempt not in (0, number):
            raise invalid({"since": "This cursor belongs to another attempt."})
    part, complete, printed_at = _part(job, attempt, asked.rank, since)
    headers = {"Log-Cursor": cursors.make(purpose, number, part.next)}
    if complete and part.at_end:
        headers["Log-Complete"] = "true"
    else:
        moved = printed_at or job.started_at or job.created_at
        headers["Log-Poll"] = str(0 if not part.at_end else pulse.pace(moved))
    if part.gaps:
        headers["Log-Gap"] = ", ".join(
            f"{gap.first_byte}+{gap.size if gap.size is not None else '?'}" for gap in part.gaps
        )
    return Response(part.data, 200, headers, content_type="application/octet-stream")


def _part(job: Job, attempt: JobAttempt | None, rank: int, since: int) -> tuple[logs.Reply, bool, datetime | None]:
    """What to answer, whether the log is final, and when its last byte came."""
    if attempt is None:
        return logs.Reply(b"", since, True, []), job.state.final, None
    stream = logs.find_stream(attempt.id, rank)
    if stream is None:
        return logs.Reply(b"", since, True, []), job.settled, None
    # whether it is final is known before it is read: the end that is then reached is the end
    complete, printed_at = stream.complete, stream.last_at
    return logs.read(attempt.id, rank, since), complete, printed_at


def _job(org: Org, name: str) -> Job:
    try:
        return service.readable_job(org, name)
    except service.JobNotFound:
        raise api_problem(404) from None


def _summary(job: Job, org: Org) -> dict[str, Any]:
    return {
        "name": job.name,
        "org": org.slug,
        "state": job.state,
        "reason": Reason(code=job.reason_code, text=job.reason_text, raw=job.reason_raw),
        "gpus": job.gpus,
        "nodes": job.nodes,
        "attempt": job.attempt,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "exit_code": job.exit_code,
    }


def describe(job: Job, org: Org) -> JobAnswer:
    spec, preset = service.spec_of(job), service.preset_of(job)
    events = service.timeline(job)
    people = service.addresses({job.user_id} | {event.user_id for event in events if event.user_id is not None})
    return JobAnswer(
        **_summary(job, org),
        user=people[job.user_id],
        preset=preset.name,
        preset_version=preset.number,
        command=spec.command if isinstance(spec.command, str) else list(spec.command),
        env=dict(spec.env),
        cluster=clusters.by_id(job.cluster_id).name,
        max_runtime=durations.written(spec.max_runtime),
        timeline=[
            Event(
                at=event.at,
                text=event.text,
                detail=event.detail,
                state=event.state,
                user=people.get(event.user_id) if event.user_id is not None else None,
            )
            for event in events
        ],
    )
