"""What the API promises, as OpenAPI 3.1: each call is declared beside its view, and checked by what it declares.

So the document cannot drift from the code: the models that describe a call are the ones that read it and answer it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Flask, Response, current_app, request
from pydantic import BaseModel, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from app.accounts.access import public
from app.api.request import Body, OfOrg, Query, needs_scope, read_body, read_query, refuse_body
from app.errors import KINDS, PROBLEMS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFS = "#/components/schemas/{model}"
FRESH = 300  # seconds for which a copy of the document may be used unasked

Schema = dict[str, Any]
View = Callable[..., Response]


class Answer(BaseModel):
    """What a call answers with. Callers must bear further fields: they are added without notice."""


class ProblemAnswer(BaseModel):
    """An error as RFC 9457 has it. `type` is stable; the texts are for people."""

    type: str = Field(json_schema_extra={"format": "uri"})
    title: str
    status: int
    detail: str | None = None


class Wrong(BaseModel):
    field: str = Field(description="Where: a field of the body (env.A, command.1), a parameter, a header, or body.")
    detail: str = Field(description="What is wrong with it, and what would help.")


class InvalidAnswer(ProblemAnswer):
    """What was sent cannot be carried out; every field that is wrong is named at once."""

    errors: list[Wrong] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Value:
    """A header, or a part of an address."""

    description: str
    schema: Schema
    required: bool = True

    def written(self) -> Schema:
        return {"description": self.description, "required": self.required, "schema": self.schema}


Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Reply:
    """One way in which a call succeeds."""

    description: str
    model: type[Answer] | None = None
    media: str = "application/json"
    headers: Values = field(default_factory=dict)
    example: Any = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: what it takes and how it answers."""

    id: str
    summary: str
    description: str
    replies: Mapping[int, Reply]
    scope: str | None  # what the token must be made for
    path: Values
    query: type[Query]
    headers: Values  # that the caller may send
    body: type[Body] | None
    examples: Mapping[str, Any]  # of the body
    problems: tuple[int, ...]  # beside those that follow from what it takes


def operation(
    summary: str,
    description: str,
    replies: Mapping[int, Reply],
    *,
    scope: str | None = None,
    path: Values | None = None,
    query: type[Query] = Query,
    headers: Values | None = None,
    body: type[Body] | None = None,
    examples: Mapping[str, Any] | None = None,
    problems: tuple[int, ...] = (),
) -> Callable[[View], View]:
    """Declare a call. Its view gets what the address asks, and then what the body says, checked.

    A token without the scope, and anything that the models do not know, is refused before the view is called.
    """

    def declare(view: View) -> View:
        @wraps(view)
        def checked(**named: str) -> Response:
            if scope is not None:
                needs_scope(scope)
            asked = read_query(query)
            if body is not None:
                return view(asked, read_body(body), **named)
            refuse_body()
            return view(asked, **named)

        checked.operation = Operation(  # type: ignore[attr-defined]  # document() looks for it
            view.__name__,
            summary,
            description,
            replies,
            scope,
            path or {},
            query,
            headers or {},
            body,
            examples or {},
            problems,
        )
        return checked

    return declare


def register(bp: Blueprint) -> None:
    bp.get("/openapi.json")(read_document)


@public  # it tells nothing of any org
@operation(
    "This document",
    "The description of the API that you are reading, as OpenAPI 3.1. It needs no token.",
    {
        200: Reply("The document.", headers={"ETag": Value("Changes with the document.", {"type": "string"})}),
        304: Reply("It has not changed since the copy that `If-None-Match` names.", media=""),
    },
    headers={"If-None-Match": Value("The `ETag` of a copy that you have.", {"type": "string"}, required=False)},
)
def read_document(_asked: Query) -> Response:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    written: bytes | None = app.extensions.get("openapi")
    if written is None:
        written = app.extensions["openapi"] = (json.dumps(document(app), ensure_ascii=False) + "\n").encode()
    answer = Response(written, content_type="application/json")
    answer.headers["Cache-Control"] = f"public, max-age={FRESH}"
    answer.add_etag()
    answer.make_conditional(request)
    return answer


# writing the document

REQUEST_ID = Value("Names this answer. The operator finds it in the portal's log.", {"type": "string"})
RETRY_AFTER = Value("Seconds to wait before asking again.", {"type": "integer", "minimum": 0})
RATE_LIMIT = {
    "RateLimit-Policy": Value("How many requests the token may make.", {"type": "string"}, required=False),
    "RateLimit": Value("How many are left, once they are few.", {"type": "string"}, required=False),
}
CHALLENGE = Value("How to prove who you are.", {"type": "string", "examples": ['Bearer realm="simpletrain"']})

MEANING = {
    400: "What was sent is not HTTP, or not JSON, that can be understood.",
    401: "There is no valid bearer token: it has expired, was revoked, or its person was disabled.",
    403: "The token, or the role of its person, does not allow this.",
    404: "There is nothing here. What never existed and what another org has look the same, byte for byte.",
    409: "The idempotency key was used for another request.",
    413: "The body is larger than a call takes.",
    415: "The body is not `application/json` in UTF-8.",
    422: "It cannot be carried out; `errors` names every field that is wrong. Nothing was changed or used up.",
    429: "The token has made too many requests.",
    500: "Something went wrong in the portal. Nothing was changed by halves.",
    503: "The portal cannot reach its database. Nothing was changed; where that is not certain, the type is `unsure`.",
}
PROBLEM_HEADERS: dict[int, Values] = {
    401: {"WWW-Authenticate": CHALLENGE},
    429: {"Retry-After": RETRY_AFTER},
    503: {"Retry-After": RETRY_AFTER},
}

INTRODUCTION = """\
Launch jobs, watch their state and read their logs.

Every call but this document's needs a token: `Authorization: Bearer st_…`. A cookie opens nothing here, and a token
opens no page. Where you are in several orgs, name the one that you mean with `org`.

What is not understood is refused: unknown fields and parameters, a boolean where a number belongs, a key that stands
twice. An empty parameter of an address is as one left out. Errors are `application/problem+json` (RFC 9457) with a
stable `type`. Times are RFC 3339 in UTC. Cursors are opaque, and good only for the call that gave them.
"""


def operations(app: Flask) -> dict[tuple[str, str], View]:
    """The view of every call by its path and method."""
    found: dict[tuple[str, str], View] = {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("api."):
            path = rule.rule.replace("<", "{").replace(">", "}")
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                found[path, method.lower()] = app.view_functions[rule.endpoint]  # type: ignore[assignment]
    return dict(sorted(found.items()))


def document(app: Flask) -> dict[str, Any]:
    views = operations(app)
    calls: list[Operation] = [view.operation for view in views.values()]  # type: ignore[attr-defined]
    answers: set[type[BaseModel]] = {reply.model for call in calls for reply in call.replies.values() if reply.model}
    answers |= {ProblemAnswer, InvalidAnswer}
    schemas, refs = _schemas(answers, {call.body for call in calls if call.body is not None})
    paths: dict[str, Any] = {}
    for ((path, method), view), call in zip(views.items(), calls, strict=True):
        paths.setdefault(path, {})[method] = _operation(call, not getattr(view, "public", False), refs)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {"title": "SimpleTrain", "version": "1.0.0", "description": INTRODUCTION},
        "servers": [{"url": "/", "description": "This portal"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {_component(status): _problem(status, refs) for status in MEANING},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of yours, made on the page of your account or by the operator's command "
                    "`tokens create`. What it may do is in its scopes: `read`, `write`.",
                }
            },
        },
    }


Refs = Mapping[type[BaseModel], Schema]


def _schemas(answers: set[type[BaseModel]], bodies: set[type[BaseModel]]) -> tuple[dict[str, Schema], Refs]:
    """The schemas by name, and how each model is referred to."""
    schemas: dict[str, Schema] = {}
    refs: dict[type[BaseModel], Schema] = {}
    modes: dict[JsonSchemaMode, set[type[BaseModel]]] = {"serialization": answers, "validation": bodies}
    for mode, models in modes.items():
        asked = [(model, mode) for model in sorted(models, key=lambda each: each.__name__)]
        found, defined = models_json_schema(asked, ref_template=REFS, schema_generator=_Plain)
        named: dict[str, Schema] = defined["$defs"]
        schemas |= _open(named) if mode == "serialization" else named
        refs |= {model: found[model, mode] for model, _ in asked}
    return dict(sorted(schemas.items())), refs


def _operation(call: Operation, secured: bool, refs: Refs) -> Schema:
    scope = f"\n\nThe token needs the scope `{call.scope}`." if call.scope else ""
    written: Schema = {
        "operationId": call.id,
        "summary": call.summary,
        "description": call.description + scope,
        "parameters": [
            *({"name": name, "in": "path", **value.written()} for name, value in call.path.items()),
            *_query_parameters(call.query),
            *({"name": name, "in": "header", **value.written()} for name, value in call.headers.items()),
        ],
    }
    if not secured:
        written["security"] = []
    if call.body is not None:
        content: Schema = {"schema": refs[call.body]}
        if call.examples:
            content["examples"] = {name: {"value": value} for name, value in call.examples.items()}
        written["requestBody"] = {"required": True, "content": {"application/json": content}}
    written["responses"] = {
        **{str(status): _reply(reply, secured, refs) for status, reply in call.replies.items()},
        **{
            str(status): {"$ref": f"#/components/responses/{_component(status)}"} for status in _problems(call, secured)
        },
    }
    return written


def _problems(call: Operation, secured: bool) -> list[int]:
    found = {400, 413, 422, 500, 503, *call.problems}
    if secured:
        found |= {401, 429}
    if call.scope:
        found.add(403)
    if issubclass(call.query, OfOrg):
        found.add(404)
    if call.body is not None:
        found.add(415)
    return sorted(found)


def _query_parameters(model: type[Query]) -> list[Schema]:
    found = []
    for name, schema in model.model_json_schema(schema_generator=_Plain).get("properties", {}).items():
        description = schema.pop("description", "")
        # left out is the only way in which a parameter can be null
        options = [each for each in schema.pop("anyOf", [{}]) if each != {"type": "null"}]
        takes = {**options[0], **schema}
        if takes.get("type") == "integer":  # an empty one is as one left out
            takes = {"anyOf": [takes, {"type": "string", "maxLength": 0}]}
        value = Value(description, takes, required=False)
        found.append({"name": name, "in": "query", **value.written()})
    return found


def _headers(values: Values) -> Schema:
    return {name: value.written() for name, value in {"X-Request-Id": REQUEST_ID, **values}.items()}


def _reply(reply: Reply, secured: bool, refs: Refs) -> Schema:
    headers = {**reply.headers, **(RATE_LIMIT if secured else {})}
    written: Schema = {"description": reply.description, "headers": _headers(headers)}
    if reply.media:
        content: Schema = {}
        if reply.model is not None:
            content["schema"] = refs[reply.model]
        if reply.example is not None:
            content["example"] = reply.example
        written["content"] = {reply.media: content}
    return written


def _component(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")


def _problem(status: int, refs: Refs) -> Schema:
    kinds = [PROBLEMS + kind for kind in KINDS[status]]
    schema = {
        "allOf": [refs[InvalidAnswer if status == 422 else ProblemAnswer]],
        "properties": {"type": {"enum": kinds}, "status": {"const": status}},
    }
    return {
        "description": MEANING[status],
        "headers": _headers({**PROBLEM_HEADERS.get(status, {}), **RATE_LIMIT}),
        "content": {"application/problem+json": {"schema": schema}},
    }


class _Plain(GenerateJsonSchema):
    """Without a title for every field, and without null as a default: left out is what is meant."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> Schema:
        written = super().model_schema(schema)
        written.pop("title", None)
        return written

    def default_schema(self, schema: Any) -> Schema:
        written = super().default_schema(schema)
        if "default" in written and written["default"] is None:
            del written["default"]
        return written


def _open(schema: Any) -> Any:
    """An answer may get further fields: callers must not refuse them."""
    if isinstance(schema, list):
        return [_open(each) for each in schema]
    if isinstance(schema, dict):
        return {name: _open(each) for name, each in schema.items() if (name, each) != ("additionalProperties", False)}
    return schema
