"""What gunicorn refuses before the portal hears of it: what is no HTTP, too long, or contradicts itself.

The answer is a problem as the API has them. Nothing of the request is in it, nor in the log, where gunicorn itself
would repeat it: what cannot be understood may hold a token.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from socket import socket
from typing import Any

from gunicorn.http import errors as refused  # type: ignore[import-untyped]

from app.errors import PROBLEMS
from app.patience import PatientWorker

log = logging.getLogger("simpletrain.refusals")

INTERNAL = (500, "internal", "Something went wrong in the portal")
# the first that fits: kind of error, status, what the API calls it, and its words
KNOWN: tuple[tuple[Any, tuple[int, str, str]], ...] = (
    # an answer of the portal's own that cannot be sent is an error of the portal
    ((refused.InvalidResponseHeader, refused.InvalidResponseHeaderName, refused.ConfigurationProblem), INTERNAL),
    (refused.LimitRequestLine, (414, "uri-too-long", "The address is too long")),
    (refused.LimitRequestHeaders, (431, "headers-too-large", "The headers are too many or too long")),
    (refused.ExpectationFailed, (417, "expectation-failed", "What the header Expect asks for is not done here")),
    (refused.UnsupportedTransferCoding, (501, "not-implemented", "This transfer coding is not known here")),
    (refused.ParseException, (400, "bad-request", "The request cannot be understood")),
    (BaseException, INTERNAL),
)


class Worker(PatientWorker):
    """gunicorn's gthread, which tells its own errors as the portal does."""

    def handle_error(self, req: object, client: socket, addr: tuple[str, int] | str | None, exc: BaseException) -> None:
        status, kind, title = next(told for known, told in KNOWN if isinstance(exc, known))
        if status == 500:
            log.error("an answer could not be made", exc_info=exc)
        else:
            address = addr[0] if isinstance(addr, tuple) else "(socket)"
            log.warning("refused with %s: %s", status, type(exc).__name__, extra={"about": {"address": address}})
        try:
            client.setblocking(False)  # whoever reads nothing is not waited for
            client.sendall(answer(status, kind, title))
        except OSError as error:
            log.debug("a refusal did not reach the caller: %s", error)


def answer(status: int, kind: str, title: str) -> bytes:
    """All of it, as it goes over the wire."""
    body = json.dumps({"type": PROBLEMS + kind, "title": title, "status": status}) + "\n"
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Connection: close",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
    )
    return "\r\n".join((*head, "", body)).encode()
