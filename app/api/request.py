"""Reading what a caller of the API sent, strictly: what is not understood is refused with the field's name."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from flask import Response, g, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.accounts.service import current_user
from app.errors import Problem, api_problem
from app.orgs import service as orgs
from app.orgs.models import Membership, Role

BODY_LIMIT = 1 << 20  # bytes


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _whole(value: object) -> object:
    """JSON Schema calls 2.0 an integer, and does not call true one."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=-(2**31), le=2**31 - 1)]

B = TypeVar("B", bound=Body)


def invalid(errors: dict[str, str]) -> Problem:
    listed = [{"field": name, "detail": text} for name, text in errors.items()]
    first = next(iter(errors.items()))
    return Problem(422, "invalid", "The request cannot be carried out", f"{first[0]}: {first[1]}", errors=listed)


def body(model: type[B]) -> B:
    """The request's JSON, checked. Raises Problem: 415, 413, 400, or 422 with each field."""
    if request.mimetype != "application/json":
        raise api_problem(415)
    raw = request.get_data(cache=False)
    if len(raw) > BODY_LIMIT:
        raise api_problem(413)
    try:
        parsed = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_no_repeats, parse_constant=_no_constant, parse_int=_bounded
        )
    except (ValueError, RecursionError) as error:
        if isinstance(error, _Repeated):
            raise invalid({error.name: "This field stands in the object twice."}) from error
        raise Problem(400, "bad-json", "The body is not JSON", str(error)[:200]) from error
    if not isinstance(parsed, dict):
        raise invalid({"body": "It must be a JSON object."})
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        errors: dict[str, str] = {}
        for each in error.errors():
            # pydantic also names which of several types it tried
            name = ".".join(str(part) for part in each["loc"] if part not in ("str", "list[str]"))
            errors.setdefault(name or "body", each["msg"].removeprefix("Value error, "))
        # of a field that may have several types, only what is wrong with the type that it has
        parts = {name for name in errors if any(other.startswith(f"{name}.") for other in errors)}
        raise invalid({name: text for name, text in errors.items() if name not in parts}) from error


class _Repeated(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name[:100]


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Repeated(name)
        found[name] = value
    return found


def _bounded(digits: str) -> int | float:
    """Python refuses to read a whole number of thousands of digits, although it is JSON."""
    return int(digits) if len(digits) < 100 else float(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def query(*allowed: str) -> dict[str, str]:
    """The query's parameters, each at most once. Raises Problem for others."""
    errors = {}
    for name, values in request.args.lists():
        if name not in allowed:
            errors[name[:100]] = f"There is no such parameter. There are: {', '.join(allowed) or 'none'}."
        elif len(values) > 1:
            errors[name] = "This parameter stands in the address twice."
    if errors:
        raise invalid(errors)
    return request.args.to_dict()


def number(asked: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = asked.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise invalid({name: f"It must be a whole number from {least} to {most}."})
    return int(text)


def member(slug: str | None, least: Role = Role.VIEWER) -> Membership:
    """The org that a call is about: the one named, or the caller's only one. Raises Problem."""
    user = current_user()
    if slug is None:
        mine = orgs.of_user(user.id)
        if len(mine) != 1:
            names = ", ".join(each.org.slug for each in mine)
            raise invalid({"org": f"Say which org: {names}." if mine else "You are in no org."})
        found: Membership | None = mine[0]
    else:
        # a database may refuse to be asked for other characters at all
        found = orgs.membership(user.id, slug) if slug.isascii() and slug.isprintable() else None
    if found is None:
        raise api_problem(404)
    if not found.role.includes(least):
        raise api_problem(403)
    return found


def needs_scope(scope: str) -> None:
    """Raises Problem unless the token was made for this."""
    if scope not in g.api_token.scopes.split():
        raise Problem(403, "scope", "The token was not made for this", f"It needs the scope {scope}.")


def reply(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(value, ensure_ascii=False) + "\n", status, headers, content_type="application/json")
