"""What goes wrong with the test cluster, as one sentence for whoever runs it."""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster cannot do this; the message says why and what would help."""


class Refused(ClusterError):
    """The API server, or kubectl on its behalf, said no."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
