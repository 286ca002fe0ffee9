"""What templates may use beyond their own data: how times, lengths and sizes are written."""

from __future__ import annotations

import getpass
import hashlib
import math
import os
import secrets
import shlex
from datetime import datetime
from typing import Any

from flask import Flask, g, request
from jinja2 import StrictUndefined
from markupsafe import Markup

from app import durations
from app.accounts.service import current_user
from app.clusters import service as clusters
from app.clusters.service import ClusterRow
from app.config import REPOSITORY, Config
from app.database import now
from app.installation import service as installation
from app.jobs import preview, view
from app.orgs import service as orgs
from app.orgs.models import Role

NBSP = "\u00a0"


def install(app: Flask, config: Config) -> None:
    app.jinja_options = {**app.jinja_options, "undefined": StrictUndefined}
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(
        ago=ago,
        ahead=ahead,
        lasting=lasting,
        exactly=exactly,
        clock=clock,
        spoken=spoken,
        bytes=size,
        thousands=thousands,
        shellquote=shlex.quote,
    )
    app.jinja_env.globals.update(
        api_body=view.api_body,
        asset=asset,
        capacity_of=clusters.capacity,
        duration=view.duration,
        free_on=free_on,
        fresh_key=lambda: secrets.token_urlsafe(18),
        gpu_text=gpu_text,
        local_workdir=lambda: config.local_start,
        own_primary=False,
        pool_label=preview.label,
        portal_user=portal_user,
        roles=Role,
        stop_grace=lambda _seen: spoken(config.local_grace),
    )

    @app.context_processor
    def _frame() -> dict[str, Any]:
        """What the frame around every page needs. The page for errors of the portal itself has none."""
        if g.get("portal_failed"):
            return {}
        theme = request.cookies.get(config.theme_cookie)
        frame: dict[str, Any] = {"theme": theme if theme in ("light", "dark") else None, "notice": None}
        signed_in = "_login_user" in g and g._login_user.is_authenticated
        frame["me"] = current_user() if signed_in else None
        frame["my_orgs"] = []
        frame["org"] = g.membership.org if "membership" in g else None
        frame["my_role"] = g.membership.role if "membership" in g else None
        if signed_in and not request.headers.get("HX-Request"):
            frame["my_orgs"] = orgs.of_user(g._login_user.id)
            frame["notice"] = installation.worker_silent_since()
        return frame


_assets: dict[str, str] = {}


def asset(name: str) -> str:
    """The address of a static file. It changes with the file, so browsers may keep it for ever."""
    if name not in _assets:
        digest = hashlib.sha256((REPOSITORY / "app" / "static" / name).read_bytes()).hexdigest()[:10]
        _assets[name] = f"/static/{name}?v={digest}"
    return _assets[name]


def exactly(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(moment: datetime | None, tail: str = " ago") -> Markup:
    """How long ago, with the exact time on hover."""
    if moment is None:
        return Markup("")
    seconds = (now() - moment).total_seconds()
    # only the larger unit: a page that is a minute old should not pretend to know seconds
    text = "just now" if seconds < 5 else spoken(_rounded(seconds)) + tail
    return _time(moment, exactly(moment), text, tail)


def ahead(moment: datetime) -> Markup:
    """In how long; where the page stays open for so long, then how long ago."""
    seconds = (moment - now()).total_seconds()
    unit = next((unit for unit in (86400, 3600, 60) if seconds >= 10 * unit), 1)
    return _time(moment, exactly(moment), f"in {spoken(math.ceil(seconds / unit) * unit)}", " ago")


def lasting(moment: datetime) -> Markup:
    """How long something has gone on since then."""
    return _time(moment, f"since {exactly(moment)}", spoken((now() - moment).total_seconds()), "")


def _time(moment: datetime, title: str, text: str, tail: str) -> Markup:
    """Nothing in it comes from outside; Markup.format would cost more than the rest of a list's row."""
    return Markup(f'<time datetime="{moment.isoformat()}" title="{title}" data-tail="{tail}">{text}</time>')  # noqa: S704 - every part is safe already


def _rounded(seconds: float) -> float:
    for unit in (86400, 3600, 60):
        if seconds >= unit:
            return seconds // unit * unit if seconds >= 10 * unit else seconds
    return seconds


def clock(moment: datetime) -> Markup:
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(), exactly(moment), moment.strftime("%H:%M")
    )


def spoken(seconds: float) -> str:
    return durations.spoken(seconds).replace(" ", NBSP)


def size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            text = f"{value:.0f}" if unit == "bytes" or value >= 100 else f"{value:.1f}"
            return f"{text}{NBSP}{unit}"
        value /= 1000
    raise AssertionError


def thousands(number: int, cap: int | None = None) -> str:
    return f"{cap:,}+" if cap is not None and number > cap else f"{number:,}"


def gpu_text(gpus: int, nodes: int) -> str:
    if gpus == 0:
        return "no GPU" if nodes == 1 else f"{nodes} nodes, no GPU"
    return f"{gpus}{NBSP}GPU{'s' if gpus > 1 else ''}" if nodes == 1 else f"{nodes}{NBSP}×{NBSP}{gpus} GPUs"


def free_on(row: ClusterRow) -> str:
    """What is free on a cluster, of everything that it has."""
    seen = clusters.capacity(row)
    if seen is None:
        return ""
    parts = [preview.free_text(row, True)] if seen.gpus else []
    return " ".join([*parts, preview.free_text(row, False)]).strip()


def portal_user() -> str:
    """The user that local jobs run as: the portal's own."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
