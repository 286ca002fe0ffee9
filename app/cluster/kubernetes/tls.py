"""TLS contexts from keys that are held in memory: no key is ever a file that could be left behind."""

from __future__ import annotations

import os
import ssl
import tempfile


def context(ca: str = "", certificate: str = "", key: str = "") -> ssl.SSLContext:
    """Verifies the server against `ca`, or against the system's authorities where that is empty.

    Raises ValueError with a sentence for what cannot be used.
    """
    try:
        made = ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, ValueError) as problem:
        raise ValueError(f"The certificate authority is not a certificate in PEM form: {_why(problem)}.") from None
    # Authorities made by older tools lack extensions that Python's strict mode asks for; kubectl takes them too.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate or key:
        _load(made, certificate, key)
    return made


def _load(into: ssl.SSLContext, certificate: str, key: str) -> None:
    """Python reads a certificate's key from a path only. This one leads to memory, and is gone when this returns."""
    data = f"{certificate.rstrip()}\n{key.rstrip()}\n".encode()
    if hasattr(os, "memfd_create"):
        handle, path = os.memfd_create("client", os.MFD_CLOEXEC), ""
    else:
        handle, path = tempfile.mkstemp(prefix="client-")  # mode 0600
    try:
        with os.fdopen(handle, "wb", closefd=False) as file:
            file.write(data)
        # without a password callback OpenSSL would ask for one at the terminal
        into.load_cert_chain(path or f"/proc/self/fd/{handle}", password=lambda: "")
    except (ssl.SSLError, ValueError) as problem:
        raise ValueError(f"The client certificate and its key cannot be used together: {_why(problem)}.") from None
    finally:
        os.close(handle)
        if path:
            os.unlink(path)


def _why(problem: Exception) -> str:
    if isinstance(problem, ssl.SSLError) and problem.reason:
        return problem.reason.replace("_", " ").lower()
    return "it cannot be read"
