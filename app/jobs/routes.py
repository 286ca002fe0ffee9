"""The pages of jobs. Each route finds, asks a service, and renders; a fragment has its own address."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    redirect,
    render_template,
    request,
    stream_with_context,
    url_for,
)
from werkzeug.wrappers import Response as Answer

from app.accounts.service import current_user
from app.clusters import service as clusters
from app.database import db
from app.jobs import preview, pulse, service
from app.jobs.forms import LaunchForm
from app.jobs.models import Job
from app.jobs.pulse import Shown
from app.jobs.request import allowed_clusters
from app.jobs.service import Filter, LaunchRefused
from app.jobs.shared import SharedAnswers
from app.jobs.states import WORDS, State
from app.jobs.view import JobView, digest
from app.logs import service as logs
from app.logs import view as log_view
from app.orgs.access import current_org, requires, role, still_let_in
from app.orgs.models import Role
from app.presets import service as presets

bp = Blueprint("jobs", __name__, url_prefix="/orgs/<org>")

Page = str | Answer | tuple[str, int] | tuple[str, int, dict[str, str]]

LOOK_AGAIN = 1.0  # seconds after which a download asks anew whether its reader is let in

TABS = ("", "active", *(state.value for state in State if state not in (State.STARTING, State.STOPPING)))


# the list


@bp.get("/")
def org_home() -> Page:
    """To the jobs; while there are none, to the form filled in with what can be run."""
    if service.has_jobs(current_org.id) or not role().includes(Role.MEMBER) or not presets.of_org(current_org.id):
        return redirect(url_for("jobs.index"))
    return redirect(url_for("jobs.new"))


@bp.get("/jobs")
def index() -> Page:
    context = _list()
    if not context["counts"][""]:
        return render_template("jobs/empty.html", **_first_steps())
    return render_template("jobs/index.html", **context)


@bp.get("/jobs-list")
def list_fragment() -> Page:
    context = _list()
    if request.args.get("seen") == context["digest"]:
        return "", 204
    return render_template("jobs/_list.html", **context)


def _list() -> dict[str, Any]:
    asked = request.args
    state = asked.get("state", "")
    if state not in TABS and state not in WORDS:
        abort(404)
    mine = asked.get("mine") == "1"
    text = asked.get("q", "").replace("\0", "").strip()[:63]
    only = Filter(state=state, user_id=current_user().id if mine else None, q=text)
    page = service.page_of_jobs(current_org.id, only, before=_id("before"), after=_id("after"))
    counts = service.counts(current_org.id)
    usable = clusters.of_org(current_org.id)
    return {
        "page": page,
        "counts": counts,
        "digest": digest(page, counts, usable),
        "tabs": TABS,
        "only": only,
        "mine": mine,
        "people": service.people({job.user_id for job in page.jobs}),
        "cluster_names": clusters.names({job.cluster_id for job in page.jobs}),
        "usable": usable,
        "me": current_user(),
        "may_launch": role().includes(Role.MEMBER),
        "here": {name: value for name, value in asked.items() if name in ("state", "mine", "q") and value},
    }


def _id(name: str) -> int | None:
    text = request.args.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _first_steps() -> dict[str, Any]:
    found = presets.of_org(current_org.id)
    example = next((each for each in found if each.content.command), None)
    form = None
    if example is not None:
        form = LaunchForm.for_preset(example, service.free_name(current_org.id, example.name))
    return {
        "presets": found,
        "example": example,
        "form": form,
        "usable": clusters.of_org(current_org.id),
        "role": role(),
        "may_launch": role().includes(Role.MEMBER),
    }


# launching


@bp.get("/new-job")
@requires(Role.MEMBER)
def new() -> Page:
    found = presets.of_org(current_org.id)
    if not found:
        return render_template("jobs/no_preset.html")
    source = request.args.get("from", "")
    if source:
        job = service.readable_job(current_org, source)
        free = service.free_name(current_org.id, job.name)
        form = LaunchForm.for_request(service.request_of(job), free, source)
    else:
        wanted = request.args.get("preset")
        preset = next((each for each in found if each.name == wanted), found[0])
        form = LaunchForm.for_preset(preset, service.free_name(current_org.id, preset.name))
    return _form_page(form)


@bp.post("/new-job")
@requires(Role.MEMBER)
def launch() -> Page:
    form = LaunchForm.of(request.form)
    if form.preset != form.shown and form.shown and _preset(form.preset) is not None:
        # without JavaScript the form still shows what belongs to another preset: nobody should run that unseen
        text = "You picked another preset. What you had not changed is its own now: look at it, then launch."
        return _form_page(replace(_redrawn(form), errors={"preset": text})), 422
    asked, errors = form.request()
    try:
        if errors:
            _resolve_too(asked, errors)
        try:
            done = service.launch(current_org, current_user(), asked, form.once or None)
        except service.KeyReused:
            # the form was sent before and then changed: another wish, not a repetition
            changed = f"{form.once} {asked.digest().hex()}"
            done = service.launch(current_org, current_user(), asked, changed)
    except LaunchRefused as refused:
        return _form_page(replace(form, errors=refused.errors)), 422
    return redirect(url_for("jobs.show", name=done.job.name), 303)


def _resolve_too(asked: service.LaunchRequest, errors: dict[str, str]) -> None:
    """Raise with what could not be read and what does not fit, together: nobody likes errors one at a time."""
    seen = preview.preview(current_org.id, asked, _preset(asked.preset))
    raise LaunchRefused({**seen.errors, **errors})


@bp.post("/new-job/draft")
@requires(Role.MEMBER)
def draft() -> Page:
    """The form after one of its own buttons, for browsers without JavaScript. Nothing is launched or kept."""
    return _form_page(_redrawn(LaunchForm.of(request.form)))


@bp.post("/new-job/draft-fragment")
@requires(Role.MEMBER)
def draft_fragment() -> Page:
    return render_template("jobs/_form.html", **_form_context(_redrawn(LaunchForm.of(request.form))))


def _redrawn(form: LaunchForm) -> LaunchForm:
    form = form.stepped(request.form.get("step", ""))
    new, old = _preset(form.preset), _preset(form.shown)
    if new is not None and new.name != form.shown:
        org_id = current_org.id
        old_name = service.free_name(org_id, old.name) if old is not None else ""
        form = form.with_preset(old, new, service.free_name(org_id, new.name), old_name)
    asked, errors = form.request()
    seen = preview.preview(current_org.id, asked, new)
    found = {**seen.errors, **errors}
    if asked.name and "name" not in found and service.is_taken(current_org.id, asked.name):
        free = service.free_name(current_org.id, asked.name)
        found["name"] = f"The name {asked.name} is taken in this org. {free} is free."
    # an empty command is no news while somebody still fills the form in
    return replace(form, errors={name: text for name, text in found.items() if name != "command" or form.command})


def _preset(name: str) -> presets.PresetView | None:
    return next((each for each in presets.of_org(current_org.id) if each.name == name), None)


def _form_page(form: LaunchForm) -> str:
    return render_template("jobs/new.html", **_form_context(form))


def _form_context(form: LaunchForm) -> dict[str, Any]:
    found = presets.of_org(current_org.id)
    preset = next((each for each in found if each.name == form.preset), None)
    usable = clusters.of_org(current_org.id)
    asked, _ = form.request()
    seen = preview.preview(current_org.id, asked, preset)
    return {
        "form": form,
        "presets": found,
        "preset": preset,
        "limits": preview.limits(preset, usable) if preset else None,
        "usable": usable,
        "allowed": allowed_clusters(preset, usable) if preset else [],
        "gpu_choices": preview.gpu_choices(preset, usable) if preset else [],
        "preview": seen,
        "runs_as_portal": preview.runs_as_portal(seen.cluster),
    }


@bp.post("/jobs/<name>/again")
@requires(Role.MEMBER)
def again(name: str) -> Page:
    job = service.readable_job(current_org, name)
    try:
        done = service.again(current_org, current_user(), job, request.form.get("once") or None)
    except service.KeyReused:
        done = service.again(current_org, current_user(), job)
    except LaunchRefused as refused:
        free = service.free_name(current_org.id, job.name)
        form = LaunchForm.for_request(service.request_of(job), free, job.name)
        return _form_page(replace(form, errors=refused.errors)), 422
    return redirect(url_for("jobs.show", name=done.job.name), 303)


# one job


@bp.get("/jobs/<name>")
def show(name: str) -> Page:
    seen = _view(name)
    return render_template("jobs/show.html", **_show_context(seen))


@bp.get("/jobs/<name>/poll")
def poll_fragment(name: str) -> Page:
    """State and log together: one poll a page. 204 while there is nothing new and the pace is right."""
    asked = request.args
    rank, since = _id("rank") or 0, _id("since") or 0
    shown = Shown(
        version=asked.get("version", ""),
        size=_id("size") or 0,
        complete=asked.get("complete") == "1",
        every=asked.get("every", ""),
        still=asked.get("still") == "1",
    )
    now = pulse.read(current_org.id, name, rank, _id("attempt"))
    if now is None:
        raise service.JobNotFound(name)
    if rank >= now.nodes:
        abort(404)
    if shown.is_up_to_date(now):
        return "", 204
    shared: SharedAnswers = current_app.extensions.setdefault("shared answers", SharedAnswers())
    if not shown.lacks_news(now) and (answer := shared.find((request.full_path, now))):
        return answer
    seen = _view(name)
    now = seen.pulse  # it may have moved on between two statements
    log = None
    if seen.stream is not None and shown.lacks_lines(now) and not (now.size == shown.size and since > now.size):
        log = log_view.new(seen.stream, min(since, now.size), asked.get("style", ""))
    answer = render_template(
        "jobs/_poll.html", seen=seen, shown=shown, log=log, since=since, style=asked.get("style", "")
    )
    if not shown.lacks_news(now):
        shared.keep((request.full_path, now), answer)
    return answer


@bp.get("/jobs/<name>/lines")
def lines_fragment(name: str) -> Page:
    """More of the log above or below what the page has."""
    seen = _view(name)
    stream = seen.stream
    above, below = _id("above"), _id("below")
    if stream is None or (above or below or 0) < 1:
        abort(404)
    log = log_view.above(stream, above) if above else log_view.below(stream, below or 1)
    return render_template("jobs/_lines.html", seen=seen, log=log, above=above, below=below)


@bp.get("/jobs/<name>/log")
def download(name: str) -> Page:
    """The bytes as printed, of one rank."""
    seen = _view(name)
    attempt_id = seen.attempt.id if seen.attempt is not None else 0
    rank, size = seen.rank, seen.stream.size if seen.stream is not None else 0

    def body() -> Iterator[bytes]:
        end, looked = 0, time.monotonic()
        for piece in logs.pieces(attempt_id, rank, 0, size):
            if time.monotonic() >= looked + LOOK_AGAIN:
                if not still_let_in():
                    raise _cut_off("who downloads it is not let in any more")
                looked = time.monotonic()
            yield from _missing(attempt_id, rank, end, piece.first_byte)
            end = piece.end
            db.session.rollback()  # nobody who reads slowly holds a transaction open
            yield piece.data
        if end < size and logs.find_stream(attempt_id, rank) is None:
            raise _cut_off("the job was removed meanwhile")
        yield from _missing(attempt_id, rank, end, size)

    answer = Response(stream_with_context(body()), content_type="text/plain; charset=utf-8")
    answer.headers["Content-Disposition"] = f'attachment; filename="{seen.job.name}-rank{rank}.log"'
    return answer


def _cut_off(why: str) -> OSError:
    """What ends an answer in the middle, so that nobody takes what came for all of it.

    gunicorn closes the connection without the last chunk, and takes this error for one of the caller's connection.
    """
    current_app.logger.info("the download of a log was cut off: %s", why)
    return ConnectionResetError(errno.ECONNRESET, why)


def _missing(attempt_id: int, rank: int, since: int, until: int) -> Iterator[bytes]:
    """The gaps between two positions, as a download shows them."""
    for gap in logs.gaps(attempt_id, rank, since, until):
        yield f"\n[{'some' if gap.size is None else format(gap.size, ',')} bytes are missing here]\n".encode()


@bp.post("/jobs/<name>/stop")
@requires(Role.MEMBER)
def stop(name: str) -> Page:
    job = service.readable_job(current_org, name)
    try:
        service.stop(job, current_user(), role())
    except service.MayNotStop:
        abort(403)
    return redirect(url_for("jobs.show", name=name), 303)


@bp.get("/jobs/<name>/stop")
@requires(Role.MEMBER)
def confirm_stop(name: str) -> Page:
    """The question before a stop, for browsers without dialogs."""
    seen = _view(name)
    if not seen.may_stop:
        return redirect(url_for("jobs.show", name=name))
    return render_template("jobs/stop.html", seen=seen)


def _view(name: str) -> JobView:
    job = service.readable_job(current_org, name)
    rank = _id("rank") or 0
    if rank >= job.nodes:
        abort(404)
    return JobView(job, current_user(), role(), rank, _id("attempt"))


def _show_context(seen: JobView) -> dict[str, Any]:
    asked = request.args
    find = asked.get("find", "").strip()[:200]
    line = _id("line")
    found = None
    log = None
    if seen.stream is not None:
        if find:
            found = log_view.find(seen.stream, find)
            if found.lines and line not in found.lines:
                line = next((number for number in found.lines if number >= (line or 1)), found.lines[0])
        log = log_view.around(seen.stream, line, find) if line else log_view.tail(seen.stream, find)
    return {
        "seen": seen,
        "log": log,
        "find": find,
        "found": found,
        "line": line,
        "follow": line is None and not find,
    }


@bp.app_errorhandler(service.JobNotFound)
def _no_such_job(error: service.JobNotFound) -> Page:
    name = str(error)[:63]
    near: list[Job] = service.near(current_org.id, name)
    # the page that polls a job which retention has removed loads itself anew, and then asks no more
    headers = {"HX-Refresh": "true"} if request.headers.get("HX-Request") else {}
    return render_template("jobs/not_found.html", name=name, near=near), 404, headers
