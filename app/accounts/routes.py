from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from flask import Blueprint, Response, abort, current_app, flash, g, make_response, redirect, render_template, request
from flask import url_for as url
from werkzeug.wrappers import Response as Answer

from app.accounts import access, service
from app.accounts.access import public
from app.accounts.forms import NameForm, PasswordForm, SignInForm, TokenForm
from app.config import Config
from app.database import transaction
from app.orgs import service as orgs

bp = Blueprint("accounts", __name__)

Page = str | Answer | tuple[str, int] | tuple[str, int, dict[str, str]]


def _config() -> Config:
    config: Config = current_app.config["PORTAL"]
    return config


def _onward() -> Answer:
    """To where a person wanted to go before signing in. 303: the browser asks with GET."""
    return redirect(access.local_path(request.args.get("next")) or url("accounts.home"), 303)


@bp.get("/")
def home() -> Page:
    memberships = orgs.of_user(service.current_user().id)
    if not memberships:
        return render_template("accounts/no_org.html")
    return redirect(url("jobs.org_home", org=memberships[0].org.slug))


@bp.get("/sign-in")
@public
def sign_in() -> Page:
    if access.current_session() is not None:
        return _onward()
    return render_template("accounts/sign_in.html", form=SignInForm(), host=urlsplit(_config().url).netloc)


@bp.post("/sign-in")
@public
def sign_in_with_password() -> Page:
    form = SignInForm()
    host = urlsplit(_config().url).netloc
    if not form.validate_on_submit():
        return render_template("accounts/sign_in.html", form=form, host=host), 422
    try:
        user = service.check_password(form.email.data or "", form.password.data or "", request.remote_addr or "")
    except service.TooManyTries as error:
        form.password.errors = [str(error)]
        return render_template("accounts/sign_in.html", form=form, host=host), 429, {"Retry-After": str(error.seconds)}
    if user is None:
        form.password.errors = ["The e-mail address and the password do not belong together."]
        return render_template("accounts/sign_in.html", form=form, host=host), 422
    with transaction():
        access.sign_in(user, _config())
    return _onward()


@bp.get("/sign-in/<secret>")
@public
def use_link(secret: str) -> Page:
    """A link from a console signs in by GET. HEAD, which programs send that only look at links, does not."""
    if request.method == "HEAD":
        return Response(status=200)
    with transaction():
        user = service.use_link(secret)
        if user is not None:
            access.sign_in(user, _config())
    if user is None:
        if access.current_session() is not None:
            return _onward()  # a reload by the person who used it
        return render_template("accounts/link_gone.html"), 410
    return _onward()


@bp.post("/sign-out")
@public
def sign_out() -> Page:
    with transaction():
        access.sign_out()
    flash("You are signed out.")
    return redirect(url("accounts.sign_in"), 303)


@bp.post("/theme")
@public
def theme() -> Page:
    """Kept in a cookie that the server reads, so that a page comes in the right colours at once."""
    wanted = request.form.get("theme", "")
    back = access.local_path(request.form.get("back")) or url("accounts.home")
    answer = make_response(redirect(back, 303))
    name, secure = _config().theme_cookie, _config().secure
    if wanted in ("light", "dark"):
        answer.set_cookie(name, wanted, max_age=31_536_000, httponly=True, samesite="Lax", secure=secure)
    else:
        answer.delete_cookie(name, httponly=True, samesite="Lax", secure=secure)
    return answer


@bp.get("/account")
def account() -> Page:
    return _account()


def _account(
    name_form: NameForm | None = None, password_form: PasswordForm | None = None, token_form: TokenForm | None = None
) -> str:
    """The page, with the form that was sent; the others are as if nobody had touched them."""
    user = service.current_user()
    tokens = service.tokens(user.id)
    return render_template(
        "accounts/account.html",
        name_form=name_form or NameForm(formdata=None, obj=user),
        password_form=password_form or PasswordForm(formdata=None),
        token_form=token_form or TokenForm(formdata=None, once=secrets.token_urlsafe(18)),
        sessions=service.sessions(user.id, _config().session_idle_hours),
        here=g.user_session,
        tokens=tokens,
        expired={each.id for each in tokens if service.has_expired(each)},
        memberships=orgs.of_user(user.id),
    )


@bp.post("/account/name")
def rename() -> Page:
    form = NameForm()
    if not form.validate_on_submit():
        return _account(name_form=form), 422
    with transaction():
        service.rename(service.current_user(), form.name.data or "")
    flash("Your name is changed.")
    return redirect(url("accounts.account"), 303)


@bp.post("/account/password")
def set_password() -> Page:
    form = PasswordForm()
    if not form.validate_on_submit():
        return _account(password_form=form), 422
    with transaction():
        service.set_password(service.current_user(), form.password.data or "", keep=g.user_session)
        if form.revoke.data:
            service.revoke_all_tokens(service.current_user().id)
    ended = "Every other session and every API token of yours" if form.revoke.data else "Every other session of yours"
    flash(f"Your password is set. {ended} has ended.")
    return redirect(url("accounts.account") + "#password", 303)


@bp.post("/account/sessions/<int:session_id>/end")
def end_session(session_id: int) -> Page:
    with transaction():
        ended = service.end_session(service.current_user().id, session_id)
    if not ended:
        abort(404)
    flash("The session has ended.")
    return redirect(url("accounts.account") + "#sessions", 303)


@bp.post("/account/sessions/end-others")
def end_other_sessions() -> Page:
    with transaction():
        service.end_all_sessions(service.current_user().id, keep=g.user_session)
    flash("Every other session of yours has ended.")
    return redirect(url("accounts.account") + "#sessions", 303)


@bp.get("/account/tokens")
def tokens() -> Page:
    return redirect(url("accounts.account") + "#tokens")


@bp.post("/account/tokens")
def make_token() -> Page:
    """The answer itself shows the token, once: in a redirect it would have to go through a cookie or an address.

    Loading the answer again sends the form again, with the same `once`: that makes no second token and shows none.
    """
    form = TokenForm()
    if not form.validate_on_submit():
        return _account(token_form=form), 422
    user, days = service.current_user(), int(form.days.data) if form.days.data else None
    try:
        with transaction():
            token = service.make_own_token(
                user, form.name.data or "", form.scopes.data or (), days, form.once.data or ""
            )
    except service.AccountError as error:
        form.name.errors = [str(error)]
        return _account(token_form=form), 422
    except service.ShownBefore:
        flash("That token was shown once already. If you did not keep it, revoke it and make another one.")
        return redirect(url("accounts.account") + "#tokens", 303)
    memberships = orgs.of_user(user.id)
    return render_template("accounts/token.html", token=token, form=form, memberships=memberships)


@bp.get("/account/tokens/<int:token_id>/revoke")
def confirm_revoke_token(token_id: int) -> Page:
    """The question before it, for browsers without dialogs."""
    token = service.token_of_user(service.current_user().id, token_id)
    if token is None:
        abort(404)
    return render_template("accounts/revoke.html", token=token)


@bp.post("/account/tokens/<int:token_id>/revoke")
def revoke_token(token_id: int) -> Page:
    with transaction():
        gone = service.revoke_token(service.current_user().id, token_id)
    if not gone:
        abort(404)
    flash("The token is revoked.")
    return redirect(url("accounts.account") + "#tokens", 303)
