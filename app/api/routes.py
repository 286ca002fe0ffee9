"""The page that explains the API to whoever reads it: with their org, a preset of it, and this portal's address."""

from __future__ import annotations

import secrets

from flask import Blueprint, current_app, render_template, request

from app.api.examples import Examples
from app.config import Config
from app.jobs import service as jobs
from app.orgs.access import current_org, role
from app.orgs.models import Role
from app.presets import service as presets

bp = Blueprint("api_pages", __name__, url_prefix="/orgs/<org>")


@bp.get("/api")
def guide() -> str:
    config: Config = current_app.config["PORTAL"]
    may_launch = role().includes(Role.MEMBER)
    found = presets.of_org(current_org.id)
    preset = next((each for each in found if each.content.command), found[0] if found else None)
    wanted = preset.name if preset is not None else "PRESET"
    job = jobs.free_name(current_org.id, wanted.lower())
    if not may_launch:
        newest = jobs.page_of_jobs(current_org.id, jobs.Filter(), limit=1).jobs
        job = newest[0].name if newest else "NAME"
    wish = {"org": current_org.slug, "preset": wanted, "name": job}
    if preset is None or not preset.content.command:
        wish["command"] = "echo hello"
    return render_template(
        "api/guide.html",
        examples=Examples(
            base=config.base_url.rstrip("/") or request.host_url.rstrip("/"),
            org=current_org.slug,
            job=job,
            wish=wish,
            key=secrets.token_urlsafe(12),
        ),
        preset=preset,
        may_launch=may_launch,
        rate=config.api_rate,
        failure_rate=config.api_failure_rate,
    )
