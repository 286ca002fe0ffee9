"""Reading what a caller of the API sent, strictly: what is not understood is refused with the field's name."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote_to_bytes

from flask import Response, g, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from app import journal
from app.accounts.service import current_user
from app.errors import Problem, api_problem
from app.orgs import service as orgs
from app.orgs.models import Membership, Role

BODY_LIMIT = 1 << 20  # bytes
SHOWN = 100  # characters of a wrong name that an error repeats


class Body(BaseModel):
    """What a request's JSON may hold."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Query(BaseModel):
    """What a request's address may hold, each parameter at most once."""

    model_config = ConfigDict(extra="forbid", strict=True)


class OfOrg(Query):
    org: str | None = Field(None, description="The org's slug. Needed where you are in several.", examples=["lab"])


def _whole(value: object) -> object:
    """JSON Schema calls 2.0 an integer, and does not call true one."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=-(2**31), le=2**31 - 1)]


def _digits(value: object) -> object:
    """A number in an address is written with ASCII digits and nothing else, and is never long."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 and str(int(value)) == value:
        return int(value)
    return value


Digits = Annotated[int, BeforeValidator(_digits)]

B = TypeVar("B", bound=Body)
Q = TypeVar("Q", bound=Query)


def invalid(errors: dict[str, str]) -> Problem:
    listed = [{"field": name, "detail": text} for name, text in errors.items()]
    first = next(iter(errors.items()))
    return Problem(422, "invalid", "The request cannot be carried out", f"{first[0]}: {first[1]}", errors=listed)


def read_body(model: type[B]) -> B:
    """The request's JSON, checked. Raises Problem: 415, 413, 400, or 422 with each field."""
    if request.mimetype != "application/json":
        raise api_problem(415)
    if request.mimetype_params.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise Problem(415, "unsupported-media-type", "The body must be application/json", "JSON is written in UTF-8.")
    raw = request.get_data(cache=False)
    if len(raw) > BODY_LIMIT:
        raise api_problem(413)
    if request.content_length not in (None, len(raw)):
        raise Problem(400, "bad-request", "The request cannot be understood", "The body ended before its length.")
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
        raise invalid(_sentences(error, f"There is no such field. There are: {_names(model)}.")) from error


def refuse_body() -> None:
    """Raises Problem where a call that takes no body was sent one: what it says would not be done."""
    if request.get_data(cache=False):
        raise invalid({"body": "This call takes no body."})


class _Repeated(ValueError):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = _told(name)


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


def read_query(model: type[Q]) -> Q:
    """The address's parameters, checked; an empty one is as one left out. Raises Problem with each that is wrong."""
    given: dict[str, str] = {}
    known = model.model_fields
    for name, value in _pairs():
        if name in given:
            raise invalid({_told(name): "This parameter stands in the address twice."})
        given[name] = value
    try:
        return model.model_validate({name: value for name, value in given.items() if value or name not in known})
    except ValidationError as error:
        unknown = f"There is no such parameter. There are: {_names(model) or 'none'}."
        raise invalid(_sentences(error, unknown)) from error


def _pairs() -> list[tuple[str, str]]:
    """Werkzeug lets what is not UTF-8 stand as it was written, which would be searched for, or answered 404."""
    pairs = []
    for part in request.query_string.split(b"&"):
        if not part:
            continue
        name, _, value = (unquote_to_bytes(each) for each in part.replace(b"+", b" ").partition(b"="))
        try:
            pairs.append((name.decode(), value.decode()))
        except UnicodeDecodeError:
            field = _told(name.decode(errors="replace"))
            raise invalid({field: "It is not UTF-8."}) from None
    return pairs


def _names(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _told(name: str) -> str:
    """A name as an error may repeat it: short, and without half characters, at which programs stumble."""
    return name[:SHOWN].encode("utf-8", "replace").decode()


def _sentences(error: ValidationError, unknown: str) -> dict[str, str]:
    errors: dict[str, str] = {}
    for each in error.errors(include_url=False):
        # pydantic also names which of several types it tried
        name = ".".join(str(part) for part in each["loc"] if part not in ("str", "list[str]"))
        errors.setdefault(_told(name) or "body", unknown if each["type"] == "extra_forbidden" else _sentence(each))
    # of a field that may have several types, only what is wrong with the type that it has
    parts = {name for name in errors if any(other.startswith(f"{name}.") for other in errors)}
    return {name: text for name, text in errors.items() if name not in parts}


def _sentence(error: ErrorDetails) -> str:
    limits = error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "This field is needed."
        case "int_type" | "int_from_float" | "int_parsing_size":
            return "It must be a whole number."
        case "string_type":
            return "It must be a string."
        case "string_unicode" | "invalid_key":
            return "It holds half a character (a lone surrogate). Take it out."
        case "dict_type":
            return "It must be an object."
        case "greater_than_equal":
            return f"It must be at least {limits['ge']}."
        case "less_than_equal":
            return f"It must be at most {limits['le']}."
        case "string_too_short":
            return "It must not be empty. Leave it out instead."
        case "string_too_long":
            return f"It has at most {limits['max_length']:,} characters."
        case "literal_error":
            return f"It is one of {limits['expected']}."
        case _:
            return error["msg"].removeprefix("Value error, ")


def member(slug: str | None, least: Role = Role.VIEWER) -> Membership:
    """The org that a call is about: the one named, or the caller's only one. Raises Problem."""
    user = current_user()
    if slug is None:
        mine = orgs.of_user(user.id)
        if not mine:
            raise Problem(404, "not-found", "There is nothing here", "You are in no org.")
        if len(mine) != 1:
            raise invalid({"org": f"Say which org: {', '.join(each.org.slug for each in mine)}."})
        found: Membership | None = mine[0]
    else:
        # a database may refuse to be asked for other characters at all
        found = orgs.membership(user.id, slug) if slug.isascii() and slug.isprintable() else None
    if found is None:
        raise api_problem(404)
    journal.note(org=found.org_id)
    if not found.role.includes(least):
        raise api_problem(403)
    return found


def needs_scope(scope: str) -> None:
    """Raises Problem unless the token was made for this."""
    if scope not in g.api_token.scopes.split():
        raise Problem(403, "scope", "The token was not made for this", f"It needs the scope {scope}.")


def reply(value: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(value.model_dump_json() + "\n", status, headers, content_type="application/json")
