from __future__ import annotations

from flask_wtf import FlaskForm
from wtforms import (  # type: ignore[attr-defined]  # SelectChoice is newer than the types that mypy knows
    BooleanField,
    Field,
    HiddenField,
    PasswordField,
    RadioField,
    SelectChoice,
    SelectMultipleField,
    StringField,
)
from wtforms.validators import DataRequired, InputRequired, Length, ValidationError

from app.accounts.secrets import PASSWORD_MAX, PASSWORD_MIN
from app.accounts.service import SCOPES

DAYS = {"30": "in 30 days", "90": "in 90 days", "365": "in a year", "": "never"}


class SignInForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF has no types
    email = StringField("E-mail", [InputRequired("Write your e-mail address."), Length(max=254)])
    password = PasswordField("Password", [InputRequired("Write your password."), Length(max=PASSWORD_MAX)])


class PasswordForm(FlaskForm):  # type: ignore[misc]
    password = PasswordField(
        "New password",
        [
            InputRequired(f"Write a password of {PASSWORD_MIN} characters or more."),
            Length(PASSWORD_MIN, PASSWORD_MAX, f"It must have {PASSWORD_MIN} to {PASSWORD_MAX} characters."),
        ],
        id="new-password",  # the section around it has the id that links go to
    )
    again = PasswordField("The same again")
    revoke = BooleanField("Revoke my API tokens too", id="revoke-tokens")

    def validate_again(self, field: Field) -> None:
        if field.data != self.password.data:
            raise ValidationError("This is not the same password.")


def _one_line(_form: FlaskForm, field: Field) -> None:
    if any(ord(character) < 32 for character in field.data or ""):
        raise ValidationError("A name is one line of text, without control characters.")


def _some_scope(_form: FlaskForm, field: Field) -> None:
    if not set(field.data or []) & set(SCOPES):
        raise ValidationError("Tick at least one: a token that may do nothing is of no use.")


def _one_of_these(_form: FlaskForm, field: Field) -> None:
    if field.data not in DAYS:
        raise ValidationError("Choose one of these.")


class TokenForm(FlaskForm):  # type: ignore[misc]
    name = StringField(
        "What it is for",
        [
            DataRequired("Write what it is for, so that you know later which one to revoke."),
            Length(max=100, message="It may have 100 characters at most."),
            _one_line,
        ],
        id="token-name",
        filters=[lambda s: s and s.strip()],
    )
    scopes = SelectMultipleField(
        "It may",
        [_some_scope],
        choices=[
            SelectChoice("read", "see jobs, logs, presets and clusters"),
            SelectChoice("write", "launch and stop jobs"),
        ],
        default=["read", "write"],
        id="token-scopes",
        validate_choice=False,
    )
    days = RadioField(
        "It expires",
        [_one_of_these],
        choices=[SelectChoice(value, text) for value, text in DAYS.items()],
        default="90",
        id="token-days",
        validate_choice=False,
    )
    once = HiddenField(id="token-once")


class NameForm(FlaskForm):  # type: ignore[misc]
    name = StringField(
        "Name",
        [
            DataRequired("Write the name that others will read."),
            Length(max=100, message="It may have 100 characters at most."),
            _one_line,
        ],
        filters=[lambda s: s and s.strip()],
    )
