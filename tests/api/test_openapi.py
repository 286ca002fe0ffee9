"""The document of the API is true: schemathesis calls everything in it, in every way that it can think of."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import jsonschema_rs
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, from_schema
from schemathesis.engine import events as engine
from schemathesis.hooks import unregister
from schemathesis.specs.openapi import _auth_retry
from sqlalchemy import event, update

from app.api import cursors
from app.api.openapi import DIALECT
from app.database import db, transaction
from app.errors import KINDS, PROBLEMS
from app.jobs.api import page_purpose
from app.jobs.models import Job
from app.jobs.service import Filter
from app.jobs.states import State
from tests.conftest import Portal
from tests.jobs.conftest import World

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

EXAMPLES = {"sqlite": 200, "postgresql": 50}  # of each call: what a database adds is found soon
SEED = 20261124
NAMES = ["waits", "alices", "failed", "printed"]
PRESET = """
name: digits
image: registry.example/digits:1
command: python train.py
gpus: {default: 1, max: 2}
nodes: {default: 1, max: 4}
gpu_types: [H100]
"""
# stand for cursors, which only the portal can make
ABOVE, BEFORE = "CURSOR", "SINCE"

CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "ensure_resource_availability",
    # Left out: use_after_free. DELETE stops a job; its row stays, and so 200 is right after it.
    # Left out: object_level_authorization. It needs a second caller; tests/test_matrix.py has five.
}


@pytest.fixture
def busy(make: Callable[..., Portal]) -> Portal:
    """A portal with jobs in several states, logs, gaps, and no limit of requests."""
    portal = make(api_rate=0, api_failure_rate=0)
    if portal.config.sqlite:
        with portal.app.app_context():
            db.engine.dispose()
            # thousands of commits, of which none has to survive
            event.listen(db.engine, "connect", lambda opened, _: opened.execute("PRAGMA synchronous = OFF"))
    world = World(portal)
    world.machine(gpus=8)
    world.import_presets(PRESET)
    for name in NAMES:
        portal.launch(name, "alice" if name == "alices" else "bob", nodes=2)
    world.begin("failed")
    world.finish("failed", State.FAILED, exit_code=137, reason_raw="OOMKilled")
    attempt = world.begin("printed")
    for rank in (0, 1):
        world.print(attempt, b"one\ntwo \xff\n", rank=rank)
        world.print(attempt, b"three\n", rank=rank, skipped=None if rank else 100)
    return portal


def narrowed(document: dict[str, Any], follows: bool = False) -> dict[str, Any]:
    """The document, with the names and limits that this portal happens to have put in.

    A preset that does not exist is refused, as it should be, and no document can know which do. What stays of the
    document is everything else: what it says of lengths, of letters, of types, and of each answer.
    """
    narrow = copy.deepcopy(document)
    wish = narrow["components"]["schemas"]["LaunchBody"]["properties"]
    wish["preset"] = {"const": "digits"}
    wish["cluster"] = {"enum": ["this-machine", None]}
    wish["org"] = {"enum": ["lab", None]}
    wish["gpu_type"] = {"enum": ["H100", None]}
    wish["max_runtime"] = {"enum": ["90s", "1h30m", None]}
    wish["gpus"]["anyOf"][0]["maximum"] = 2
    wish["nodes"]["anyOf"][0]["maximum"] = 4
    if follows:
        del wish["name"]  # it may be taken by the call before
    else:
        wish["name"]["anyOf"][0]["not"] = {"enum": NAMES}  # Hypothesis tries the words of the code it tests, too
    known: dict[str, list[Any]] = {
        "org": ["lab", ""],
        "name": NAMES,
        "rank": [0, 1, ""],
        "attempt": [1, ""],
        "cursor": [ABOVE, ""],
        "since": [BEFORE, ""],
    }
    for path, calls in narrow["paths"].items():
        for call in calls.values():
            if follows:  # these are of one job, and any job may be asked for
                call["parameters"] = [each for each in call["parameters"] if each["name"] not in ("attempt", "since")]
            for parameter in call["parameters"]:
                name, schema = parameter["name"], parameter["schema"]
                if name == "name":
                    schema |= {} if follows else {"enum": ["printed"] if path.endswith("/logs") else known["name"]}
                elif name in known:
                    schema["enum"] = [known[name][0], ""] if follows else known[name]
    return narrow


def settings(portal: Portal, phases: set[str], examples: int) -> SchemathesisConfig:
    generation = {"max-examples": examples, "deterministic": True, "database": "none"}
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "cache": {"enabled": False},
            "continue-on-failure": True,
            "auth": {"openapi": {"token": {"bearer": portal.token("bob")}}},
            "generation": generation,
            "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
            "phases": {
                "examples": {"enabled": "examples" in phases},
                "coverage": {"enabled": "coverage" in phases, "generate-duplicate-query-parameters": True},
                "fuzzing": {
                    "enabled": "fuzzing" in phases,
                    # what an answer held would steer what is asked next, and no two runs would be the same
                    "extra-data-sources": {"responses": False},
                    "error-feedback": {"enabled": False},
                },
                "stateful": {"enabled": "stateful" in phases},
            },
        }
    )


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check ignored_auth of schemathesis 4.32.5 asks an application in process with what is meant for sockets."""
    kept = _auth_retry.build_retry_transport_kwargs

    def without_sockets(*given: Any) -> dict[str, Any]:
        sockets = ("max_redirects", "verify", "cert", "proxies")
        return {name: value for name, value in kept(*given).items() if name not in sockets}

    monkeypatch.setattr(_auth_retry, "build_retry_transport_kwargs", without_sockets)


class Run:
    """One run of schemathesis: what it called, and what it found."""

    def __init__(self, portal: Portal, document: dict[str, Any], phases: set[str], examples: int = 1) -> None:
        self.portal = portal
        # a name that is taken is refused, as it should be: so each job gives its name up
        self._frees = "stateful" not in phases
        self.found: list[str] = []
        self.answers: dict[str, Counter[int]] = defaultdict(Counter)
        self._printed = portal.job("printed")
        schema = schemathesis.openapi.from_dict(document, config=settings(portal, phases, examples))
        schema.app = self

        def after_call(context: Any, case: Any, response: Any) -> None:
            self._note(case, response)

        schemathesis.hook(after_call)
        try:
            for told in from_schema(schema).execute():
                self._took(told)
        finally:
            unregister(after_call)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The portal, with cursors where they are only named."""
        asked = dict(parse_qsl(environ["QUERY_STRING"]))
        if {ABOVE, BEFORE} & {asked.get("cursor"), asked.get("since")}:
            with self.portal.app.app_context():
                mine = self._printed.user_id if asked.get("mine") in ("1", "true") else None
                purpose = page_purpose(self._printed.org_id, Filter(asked.get("state", ""), mine, asked.get("q", "")))
                above = cursors.make(purpose, self._printed.id + 1)
                before = cursors.make(f"log {self._printed.id} {asked.get('rank', 0)}", 1, 4)
            query = environ["QUERY_STRING"]
            environ["QUERY_STRING"] = query.replace(f"cursor={ABOVE}", f"cursor={above}").replace(
                f"since={BEFORE}", f"since={before}"
            )
        return self.portal.app(environ, start_response)

    def _note(self, case: Any, response: Any) -> None:
        self.answers[case.operation.label][response.status_code] += 1
        if self._frees and case.method == "POST" and response.status_code == 201:
            with self.portal.app.app_context(), transaction():
                made = update(Job).where(Job.name == response.json()["name"])
                db.session.execute(made.values(name=Job.uid, idempotency_key=None))

    def _took(self, event: Any) -> None:
        if isinstance(event, engine.NonFatalError):
            self.found.append(f"{event.label}: {event.info.format()}")
        elif isinstance(event, engine.FatalError):
            raise event.exception
        elif isinstance(event, engine.SchemaAnalysisWarnings):
            self.found += [str(each) for each in event.warnings]
        elif isinstance(event, engine.ScenarioFinished):
            for case_id, checks in event.recorder.checks.items():
                for check in checks:
                    if check.status is not Status.SUCCESS and check.failure_info is not None:
                        sent = event.recorder.interactions[case_id]
                        answer = sent.response.content[:500] if sent.response is not None else ""
                        self.found.append(
                            f"{check.name}: {sent.request.method} {sent.request.uri} {sent.request.body!r}"[:1000]
                            + f"\n{check.failure_info.failure.message[:1000]}\n{answer!r}"
                        )


# what is found would be an error of the portal, or of the document: nothing is


@pytest.fixture
def document(busy: Portal) -> dict[str, Any]:
    answer = busy.app.test_client().get("/api/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json  # type: ignore[assignment]  # it is an object
    return found


def test_edges_of_everything_that_can_be_sent(busy: Portal, document: dict[str, Any]) -> None:
    run = Run(busy, narrowed(document), {"examples", "coverage"})
    assert run.found == []
    assert set(run.answers) == labels(document)


def test_whatever_can_be_thought_of(busy: Portal, document: dict[str, Any], database: str) -> None:
    run = Run(busy, narrowed(document), {"fuzzing"}, EXAMPLES[database])
    assert run.found == []
    enough = {label for label, answers in run.answers.items() if answers.total() >= EXAMPLES[database]}
    assert enough == labels(document)


def test_calls_that_follow_each_other(busy: Portal, document: dict[str, Any]) -> None:
    run = Run(busy, narrowed(document, follows=True), {"stateful"}, 25)
    assert run.found == []
    assert run.answers["GET /api/jobs/{name}"][200] > 0


# the document itself


def labels(document: dict[str, Any]) -> set[str]:
    return {f"{method.upper()} {path}" for path, calls in document["paths"].items() for method in calls}


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": DIALECT, **schema})
    ids = [call["operationId"] for calls in document["paths"].values() for call in calls.values()]
    assert len(ids) == len(set(ids))
    for call in (call for calls in document["paths"].values() for call in calls.values()):
        assert call["summary"]
        assert call["description"]
        assert all(parameter["description"] for parameter in call["parameters"])


def test_every_call_is_in_the_document_and_nothing_else(portal: Portal) -> None:
    document: dict[str, Any] = portal.app.test_client().get("/api/openapi.json").json  # type: ignore[assignment]
    routes = {
        f"{method} {rule.rule.replace('<', '{').replace('>', '}')}"
        for rule in portal.app.url_map.iter_rules()
        if rule.rule.startswith("/api/")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert labels(document) == routes


def test_every_call_with_a_token_says_what_is_refused_and_when_to_come_back(portal: Portal) -> None:
    document: dict[str, Any] = portal.app.test_client().get("/api/openapi.json").json  # type: ignore[assignment]
    for calls in document["paths"].values():
        for call in calls.values():
            if call.get("security") != []:
                assert {"400", "401", "413", "422", "429", "500", "503"} <= call["responses"].keys()
    answers = document["components"]["responses"]
    for name in ("TooManyRequests", "ServiceUnavailable"):
        assert answers[name]["headers"]["Retry-After"]["required"]
    assert "WWW-Authenticate" in answers["Unauthorized"]["headers"]
    kinds = {kind for answer in answers.values() for kind in kinds_of(answer)}
    known = {kind for status, kinds in KINDS.items() if status != 405 for kind in kinds}
    assert kinds == {PROBLEMS + kind for kind in known}


def kinds_of(answer: dict[str, Any]) -> list[str]:
    kinds: list[str] = answer["content"]["application/problem+json"]["schema"]["properties"]["type"]["enum"]
    return kinds


def test_the_examples_are_what_the_document_allows(document: dict[str, Any]) -> None:
    schema = {**document["components"]["schemas"]["LaunchBody"]}
    examples = document["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert examples
    for example in examples.values():
        jsonschema_rs.validate(schema, example["value"])


def test_the_states_of_the_document_are_those_that_there_are(document: dict[str, Any]) -> None:
    (asked,) = (each for each in document["paths"]["/api/jobs"]["get"]["parameters"] if each["name"] == "state")
    assert asked["schema"]["enum"] == ["", "active", *(state.value for state in State)]


def test_a_copy_of_the_document_can_be_kept(portal: Portal) -> None:
    client = portal.app.test_client()
    first = client.get("/api/openapi.json")
    assert first.headers["Cache-Control"] == "public, max-age=300"
    again = client.get("/api/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get("/api/openapi.json", headers={"Authorization": "Bearer nonsense"}).status_code == 200
