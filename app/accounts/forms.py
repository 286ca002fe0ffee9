from __future__ import annotations

from flask_wtf import FlaskForm
from wtforms import Field, PasswordField, StringField
from wtforms.validators import DataRequired, InputRequired, Length, ValidationError

from app.accounts.secrets import PASSWORD_MAX, PASSWORD_MIN


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

    def validate_again(self, field: Field) -> None:
        if field.data != self.password.data:
            raise ValidationError("This is not the same password.")


class NameForm(FlaskForm):  # type: ignore[misc]
    name = StringField(
        "Name",
        [
            DataRequired("Write the name that others will read."),
            Length(max=100, message="It may have 100 characters at most."),
        ],
        filters=[lambda s: s and s.strip()],
    )

    def validate_name(self, field: Field) -> None:
        if any(ord(character) < 32 for character in field.data):
            raise ValidationError("A name is one line of text, without control characters.")
