"""Requests to one API server, plain dictionaries in and out. The only importer of the package `kubernetes`.

The package gives its configuration, TLS and connection pool. Its typed models are not used: they refuse what a newer
or older server says, and are ten times slower. Nothing is retried in here, no redirect is followed, every wait ends.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from app.cluster.kubernetes import tls
from app.cluster.kubernetes.breaker import Breaker
from app.cluster.kubernetes.errors import RAW, Auth, KubernetesError, Retry, Trouble, error_of
from app.cluster.kubernetes.kubeconfig import Credential, token_source

if TYPE_CHECKING:
    import urllib3

Object = dict[str, Any]
Query = Mapping[str, str | int | bool]

CALL = (3.0, 10.0)  # seconds to connect, seconds of silence
WATCH = (3.0, 70.0)  # a bookmark comes about each minute, so that longer silence means a dead connection
LOG = (3.0, 60.0)
WHOLE = 30.0  # seconds for a whole answer, however steadily it drips
BODY = 32 << 20  # bytes of a whole answer
PAGE = 500  # objects of one page of a list
PIECE = 64 << 10  # bytes read at a time
CONNECTIONS = 64  # kept open for the next request
JSON = "application/json"
MERGE = "application/merge-patch+json"

log = logging.getLogger("simpletrain.kubernetes")


class Client:
    """Thread-safe. Make it after the process has forked."""

    def __init__(self, credential: Credential, breaker: Breaker | None = None) -> None:
        self._server = credential.server.rstrip("/")
        self._token = token_source(credential)
        self._secrets = tuple(s for s in (credential.token, credential.key) if s)
        self._pool = _pool(credential)
        self.breaker = breaker or Breaker()

    def get(self, path: str, query: Query | None = None) -> Object:
        return self._call("GET", path, query)

    def pages(self, path: str, query: Query | None = None) -> Iterator[Object]:
        """A list, page by page, straight from the store. Raises Gone if it was too slow for the server's history."""
        more: dict[str, str | int | bool] = {**(query or {}), "limit": PAGE}
        while True:
            page = self._call("GET", path, more)
            yield page
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            more["continue"] = token

    def items(self, path: str, query: Query | None = None) -> list[Object]:
        """A whole list."""
        return [item for page in self.pages(path, query) for item in page.get("items") or ()]

    def post(self, path: str, body: Object, query: Query | None = None) -> Object:
        return self._call("POST", path, {"fieldValidation": "Strict", **(query or {})}, body)

    def patch(self, path: str, body: Object) -> Object:
        return self._call("PATCH", path, {"fieldValidation": "Strict"}, body, MERGE)

    def delete(self, path: str, uid: str, propagation: str) -> None:
        """Delete exactly the object that was seen, not a later one of its name."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {"uid": uid},
        }
        self._call("DELETE", path, None, options)

    def stream(self, path: str, query: Query, timeouts: tuple[float, float]) -> Stream:
        """An answer that goes on. Not held back by the breaker: whoever streams has a pace of its own."""
        response = self._send("GET", path, query, timeouts, {})
        return Stream(response, self._translated)

    def close(self) -> None:
        self._pool.clear()

    def _call(
        self, method: str, path: str, query: Query | None, body: Object | None = None, content: str = JSON
    ) -> Object:
        self.breaker.check()
        headers = {"Content-Type": content} if body is not None else {"Accept-Encoding": "gzip"}
        data = json.dumps(body).encode() if body is not None else None
        try:
            response = self._send(method, path, query, CALL, headers, data)
            answer = self._whole(response)
        except KubernetesError as error:
            if isinstance(error, Auth | Retry):
                self.breaker.failed(error)
            else:
                self.breaker.answered()
            raise
        self.breaker.answered()
        return answer

    def _send(
        self,
        method: str,
        path: str,
        query: Query | None,
        timeouts: tuple[float, float],
        headers: dict[str, str],
        data: bytes | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """The answer to one request, its body not yet read. Raises what a refusal means."""
        for refused in (False, True):
            token = self._token(refused)
            if token and token not in self._secrets:
                self._secrets = (*self._secrets[-3:], token)
            try:
                return self._once(method, path, query, timeouts, _signed(headers, token), data)
            except Auth:
                # the token may have been exchanged a moment ago
                if refused or self._token(True) == token:
                    raise
        raise AssertionError("unreachable")

    def _once(
        self,
        method: str,
        path: str,
        query: Query | None,
        timeouts: tuple[float, float],
        headers: dict[str, str],
        data: bytes | None,
    ) -> urllib3.BaseHTTPResponse:
        import urllib3

        url = self._server + path + ("?" + urlencode(_words(query)) if query else "")
        try:
            response = self._pool.request(
                method,
                url,
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=timeouts[0], read=timeouts[1]),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise self._translated(problem) from None
        if response.status < 300:
            return response
        raise self._refusal(response)

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> KubernetesError:
        try:
            body = json.loads(self._bytes(response, 1 << 20))
        except (Retry, ValueError, RecursionError):
            body = None
        status = body if isinstance(body, dict) and body.get("kind") == "Status" else {}
        after = response.headers.get("Retry-After", "")
        if isinstance(status.get("message"), str):
            status["message"] = self._redacted(status["message"])
        seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 7 else None
        if not status and 400 <= response.status < 500 and response.status not in (401, 403, 404, 409, 410, 429):
            return Retry(Trouble.NONSENSE, f"Something that is no Kubernetes answered ({response.status}).")
        return error_of(response.status, status, seconds)

    def _whole(self, response: urllib3.BaseHTTPResponse) -> Object:
        try:
            answer = json.loads(self._bytes(response, BODY))
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise Retry(Trouble.NONSENSE, f"Something that is no Kubernetes answered ({response.status}).")
        return answer

    def _bytes(self, response: urllib3.BaseHTTPResponse, limit: int) -> bytes:
        """The whole body, decompressed, within bounds of size and time."""
        deadline = time.monotonic() + WHOLE
        parts: list[bytes] = []
        size = 0
        with Stream(response, self._translated) as stream:
            while part := stream.read():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise Retry(Trouble.NONSENSE, f"The cluster's answer is larger than {limit >> 20} MiB.")
                if time.monotonic() > deadline:
                    raise Retry(Trouble.TIMEOUT, f"The cluster did not finish its answer within {WHOLE:g} s.")
            stream.done()
        return b"".join(parts)

    def _translated(self, problem: Exception) -> Retry:
        error = _trouble(problem)
        error.raw = self._redacted(error.raw)
        return error

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[credential]")
        return text[:RAW]


class Stream:
    """The body of an answer, as it comes. Read by one thread; `abort` may be called by another."""

    def __init__(self, response: urllib3.BaseHTTPResponse, translated: Callable[[Exception], Retry]) -> None:
        self._response = response
        self._translated = translated
        self._finished = False

    def read(self) -> bytes:
        """What has come, at most 64 KiB; waits for it. Empty: the answer is complete. Raises Retry if it was cut."""
        import urllib3

        try:
            return self._response.read1(PIECE)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as problem:
            raise self._translated(problem) from None

    def lines(self, limit: int) -> Iterator[bytes]:
        """Whole lines, without their ends. One that is cut off at the end is not given."""
        rest = b""
        while data := self.read():
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
            if len(rest) > limit:
                raise Retry(Trouble.NONSENSE, f"The cluster sent a line larger than {limit >> 20} MiB.")

    def done(self) -> None:
        """It was read to its end: the connection can serve another request."""
        self._finished = True

    def abort(self) -> None:
        """Wake up a `read` that waits."""
        with suppress(Exception):
            self._response.shutdown()

    def close(self) -> None:
        with suppress(Exception):
            if self._finished:
                self._response.release_conn()
            else:
                self._response.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pool(credential: Credential) -> urllib3.PoolManager:
    # Here and not above: a worker whose clusters are all of another kind does not carry 35 MB of models.
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject

    configuration = Configuration(
        host=credential.server,
        proxy="",  # None would take one from the environment
        no_proxy="",
        retries=False,
        connection_pool_maxsize=CONNECTIONS,
    )
    configuration.keep_alive = True
    pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager
    # The package would write the client's key to a file in /tmp for good; a ready context needs none.
    pool.connection_pool_kw["ssl_context"] = tls.context(credential.ca, credential.certificate, credential.key)
    return pool


def _signed(headers: dict[str, str], token: str) -> dict[str, str]:
    # a log is no JSON, and asked for as such it is refused
    signed = {"Accept": f"{JSON}, */*", "User-Agent": "simpletrain", **headers}
    if token:
        signed["Authorization"] = f"Bearer {token}"
    return signed


def _words(query: Query) -> dict[str, str]:
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in query.items()}


def _trouble(problem: Exception) -> Retry:
    """Which of the ways to get no answer this was. The request itself is not quoted: it carries the credential."""
    from urllib3 import exceptions as http

    if isinstance(problem, http.NameResolutionError):
        return Retry(Trouble.DNS, "The cluster's name does not resolve (DNS).", _reason(problem), sent=False)
    if isinstance(problem, http.SSLError):
        return Retry(Trouble.TLS, "The cluster's certificate is not accepted (TLS).", _reason(problem), sent=False)
    if isinstance(problem, http.ConnectTimeoutError) and not isinstance(problem, http.NewConnectionError):
        return Retry(Trouble.TIMEOUT, "The cluster cannot be reached: no connection in time.", sent=False)
    if isinstance(problem, http.NewConnectionError):
        return Retry(Trouble.REFUSED, "The cluster cannot be reached.", _reason(problem), sent=False)
    if isinstance(problem, http.ReadTimeoutError | TimeoutError):
        return Retry(Trouble.TIMEOUT, "The cluster is silent: no answer in time.")
    return Retry(Trouble.CUT, "The connection to the cluster was cut.", _reason(problem))


def _reason(problem: Exception) -> str:
    """The innermost error, without the objects (and their addresses) that urllib3 puts around it."""
    inner: BaseException = problem
    while inner.__cause__ is not None or inner.__context__ is not None:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(inner)[:200] if isinstance(inner, OSError) else type(inner).__name__
