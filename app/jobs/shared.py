"""News that are the same for everybody who watches a job, put into words once.

Two hundred people on one page ask for the same lines within the same second. What a poll answers while only the log has
moved depends on the job, on where the page stands and on where the log ends, and on nobody's role: it is kept for a
moment in the memory of the web process.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable

FRESH = 2.0  # seconds: "last line 3 s ago" may be that much late
MOST = 128  # answers
LARGEST = 64 << 10  # characters; longer ones are rare and made anew


class SharedAnswers:
    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[float, str]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> str | None:
        """The answer that was made for this key a moment ago."""
        with self._lock:
            made_at, answer = self._kept.get(key, (0.0, ""))
        return answer if answer and time.monotonic() < made_at + FRESH else None

    def keep(self, key: Hashable, answer: str) -> None:
        if len(answer) > LARGEST:
            return
        with self._lock:
            self._kept[key] = (time.monotonic(), answer)
            self._kept.move_to_end(key)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
