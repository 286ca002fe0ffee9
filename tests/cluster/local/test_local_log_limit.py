"""Head and tail of a long output stay; what is missing in between is counted, and never read as zeros."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from app.cluster.local.shim import linux
from app.cluster.local.shim.cap import LogCap
from app.cluster.local.shim.files import gap_of
from app.cluster.protocol import AttemptKey, LogPiece, Phase
from tests.cluster.local.machine import Machine, wait_for

LIMIT = 64 * 1024
LINE = 16  # bytes: a number and a newline
PRINT = "seq -f %015.0f 0 {last}"


def lines(first: int, last: int) -> bytes:
    return b"".join(b"%015d\n" % number for number in range(first, last))


def pieces(machine: Machine, key: AttemptKey, cursor: str = "") -> list[LogPiece]:
    source = machine.cluster.open_log(key, 0, cursor)
    found = [wait_for(lambda: source.read(5000))]
    while not found[-1].complete:
        found.append(wait_for(lambda: source.read(5000)))
    source.close()
    return found


def test_head_and_tail_are_exact_and_the_gap_is_counted(machine: Machine) -> None:
    machine.configure(log_limit=LIMIT)
    total = 100_000
    key = machine.launch(machine.attempt(PRINT.format(last=total - 1)))
    machine.until(key, Phase.ENDED)
    found = pieces(machine, key)
    half = LIMIT // 2 // LINE
    assert b"".join(piece.data for piece in found) == lines(0, half) + lines(total - half, total)
    gaps = [piece for piece in found if piece.skipped]
    assert [gap.skipped for gap in gaps] == [total * LINE - LIMIT]
    assert gaps[0].skipped_why == "The job printed more than 64 KiB; the middle was not kept."
    assert gaps[0].data.startswith(lines(total - half, total - half + 1))
    assert found[-1].cursor == str(total * LINE)


def test_a_cursor_inside_the_gap_goes_on_behind_it(machine: Machine) -> None:
    machine.configure(log_limit=LIMIT)
    total = 100_000
    key = machine.launch(machine.attempt(PRINT.format(last=total - 1)))
    machine.until(key, Phase.ENDED)
    first = pieces(machine, key, cursor=str(50_000 * LINE))[0]
    assert first.skipped == (total - 50_000) * LINE - LIMIT // 2
    assert first.data.startswith(lines(total - LIMIT // 2 // LINE, total - LIMIT // 2 // LINE + 1))


def test_the_disk_is_given_back_while_it_runs(machine: Machine) -> None:
    machine.configure(log_limit=LIMIT)
    key = machine.launch(machine.attempt("head -c 20000000 /dev/zero | tr '\\0' x; echo done; exec sleep 1000"))
    machine.until_printed(key, b"done")
    log = machine.path(key) / "rank-0.log"
    wait_for(lambda: log.stat().st_blocks * 512 < LIMIT * 2, "a hole")
    assert log.stat().st_size == 20_000_005


def test_a_reader_beside_the_writer_never_takes_the_hole_for_output(machine: Machine) -> None:
    machine.configure(log_limit=LIMIT)
    key = machine.launch(machine.attempt(f"for n in 1 2 3 4 5; do {PRINT.format(last=60_000)}; sleep 0.4; done"))
    found = pieces(machine, key)
    data = b"".join(piece.data for piece in found)
    assert b"\0" not in data
    assert len(data) + sum(piece.skipped or 0 for piece in found) == 5 * 60_001 * LINE
    assert re.fullmatch(rb"(?:\d{15}\n)+", data[: LIMIT // 2])


def test_data_that_was_cut_while_it_was_read_is_not_shown(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hole appears between the reader's first look at the record and its reading of the file."""
    attempt = machine.attempt("printf 0123456789")
    key = machine.launch(attempt)
    machine.until(key, Phase.ENDED)
    source = machine.cluster.open_log(key, 0, "")
    record = machine.path(key) / gap_of(0)
    real_pread = os.pread

    def cut_then_read(file: int, count: int, offset: int) -> bytes:
        if not record.exists():
            record.write_text(json.dumps({"start": 3, "end": 7}))
            with open(machine.path(key) / "rank-0.log", "r+b") as log:
                log.seek(3)
                log.write(b"\0" * 4)
        return real_pread(file, count, offset)

    monkeypatch.setattr(os, "pread", cut_then_read)
    found = [source.read(100), source.read(100)]
    assert [(piece.data, piece.skipped) for piece in found if piece] == [(b"012", 0), (b"789", 4)]


def test_a_short_output_has_no_gap(machine: Machine) -> None:
    machine.configure(log_limit=LIMIT)
    key = machine.launch(machine.attempt(PRINT.format(last=LIMIT // LINE - 1)))
    machine.until(key, Phase.ENDED)
    assert machine.output(key) == lines(0, LIMIT // LINE)
    assert not (machine.path(key) / gap_of(0)).exists()


def test_nothing_is_cut_where_the_disk_cannot_make_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, start: int, end: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(linux, "punch_hole", refuse)
    cap = LogCap(str(tmp_path), 0, LIMIT)
    (tmp_path / "rank-0.log").write_bytes(b"x" * LIMIT * 2)
    cap.check(last=True)
    assert not (tmp_path / gap_of(0)).exists()
    assert (tmp_path / "rank-0.log").read_bytes() == b"x" * LIMIT * 2


def test_a_little_too_much_is_cut_only_at_the_end(tmp_path: Path) -> None:
    cap = LogCap(str(tmp_path), 0, LIMIT)
    (tmp_path / "rank-0.log").write_bytes(b"x" * (LIMIT + 100))
    cap.check()
    assert not (tmp_path / gap_of(0)).exists()
    cap.check(last=True)
    assert json.loads((tmp_path / gap_of(0)).read_text()) == {"start": LIMIT // 2, "end": LIMIT // 2 + 100}
    assert (tmp_path / "rank-0.log").read_bytes() == b"x" * (LIMIT // 2) + b"\0" * 100 + b"x" * (LIMIT // 2)
