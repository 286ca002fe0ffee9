"""From an attempt's files to what the portal says about it. Reads, decides, and writes nothing."""

from __future__ import annotations

import signal
from pathlib import Path

from app.cluster.local.folder import AttemptFolder
from app.cluster.local.shim.records import Exit, RankEnd, Running, Spec, Started
from app.cluster.protocol import Code, Note, Observation, Outcome, Phase, RankStatus, Reason
from app.cluster.text import count, duration, minute, moment

MEANINGS = {
    126: "a command was found but is not executable",
    127: "a command was not found",
    134: "aborted, signal 6",
    137: "killed, signal 9; often that is the system running out of memory",
    139: "a bad memory access, signal 11",
    143: "asked to end, signal 15",
}
CRASHES: dict[int, str] = {
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "crashed with a bad memory access",
    signal.SIGFPE: "crashed with an arithmetic error",
    signal.SIGILL: "crashed with an illegal instruction",
    signal.SIGSEGV: "crashed with a bad memory access",
}


def starting(spec: Spec | None) -> Observation:
    return Observation(
        Phase.STARTING, Reason(Code.STARTING, "Its processes are being started."), notes=_gpu_notes(spec)
    )


def alive(folder: AttemptFolder) -> Observation:
    spec, running = folder.spec, folder.running
    if running is None:
        return starting(spec)
    reason = Reason(Code.RUNNING, "It runs on this machine.")
    if folder.stop and spec:
        reason = Reason(Code.STOPPING, f"It was asked to end, and is killed if it takes more than {_grace(spec)}.")
    return Observation(
        Phase.RUNNING, reason, ranks=_begun(running), started_at=moment(running["at"]), notes=_gpu_notes(spec)
    )


def lost(folder: AttemptFolder) -> Observation:
    running = folder.running
    return Observation(
        Phase.ENDED,
        _why_lost(folder.started),
        Outcome.LOST,
        ranks=_begun(running) if running else (),
        started_at=moment(running["at"]) if running else None,
        notes=_gpu_notes(folder.spec),
    )


def ended(exit: Exit, spec: Spec | None) -> Observation:
    outcome, reason = _outcome(exit, spec)
    failed = exit["first_failed"]
    running_at = exit["running_at"]
    return Observation(
        Phase.ENDED,
        reason,
        outcome,
        ranks=tuple(_rank_status(number, rank) for number, rank in enumerate(exit["ranks"])),
        started_at=moment(running_at) if running_at is not None else None,
        finished_at=moment(exit["finished_at"]),
        exit_code=_overall_code(exit["ranks"], failed),
        notes=_gpu_notes(spec) + _end_notes(exit),
    )


def _outcome(exit: Exit, spec: Spec | None) -> tuple[Outcome, Reason]:
    why = exit["why"]
    if why == "could_not_start":
        return Outcome.FAILED, Reason(Code.COULD_NOT_START, exit["detail"])
    if why == "stopped":
        return Outcome.STOPPED, Reason(Code.STOPPED, _stopped(exit, spec))
    if why == "time_limit":
        limit = duration(spec["max_runtime"]) if spec else "…"
        return Outcome.FAILED, Reason(Code.TIME_LIMIT, f"Stopped at its time limit of {limit}.{_killed(exit, spec)}")
    if exit["first_failed"] is None:
        return Outcome.SUCCEEDED, Reason(Code.SUCCEEDED, "It ended with exit code 0.")
    return Outcome.FAILED, _failure(exit, exit["first_failed"])


def _stopped(exit: Exit, spec: Spec | None) -> str:
    if exit["running_at"] is None:
        return "It was stopped before it started."
    return "It was stopped." + _killed(exit, spec)


def _killed(exit: Exit, spec: Spec | None) -> str:
    return f" It did not end by itself within {_grace(spec)} and was killed." if exit["killed"] and spec else ""


def _failure(exit: Exit, number: int) -> Reason:
    rank = exit["ranks"][number]
    others = _others(exit["ranks"])
    several = len(exit["ranks"]) > 1
    subject = f"Rank {number}" if several else "It"
    if rank["signal"] == signal.SIGKILL:
        if exit["oom_kills"]:
            text = f"{subject} was killed (signal 9) because the machine ran out of memory{others}."
            return Reason(Code.OUT_OF_MEMORY, text)
        text = f"{subject} was killed from outside (signal 9){others}; often that is the system running out of memory."
        return Reason(Code.SIGNAL, text)
    if rank["signal"]:
        return Reason(Code.SIGNAL, f"{subject} {_how(rank['signal'])}{others}.")
    code = rank["exit_code"] or 0
    meaning = f" ({MEANINGS[code]})" if code in MEANINGS else ""
    text = f"Rank {number} ended first, with exit code {code}" if several else f"It ended with exit code {code}"
    return Reason(Code.EXIT_CODE, f"{text}{meaning}{others}.")


def _how(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:  # a real-time signal has a number only
        return f"was ended by signal {number}"
    return f"{CRASHES.get(number, 'was ended')} (signal {number}, {name})"


def _others(ranks: list[RankEnd]) -> str:
    """What became of the ranks that still ran when the first one failed; it goes on in the same sentence."""
    stopped = sum(rank["interrupted"] for rank in ranks)
    if not stopped:
        return ""
    all_others = stopped == len(ranks) - 1
    if stopped == 1:
        return "; the other one was stopped" if all_others else "; one other was stopped"
    return f"; the other {stopped} were stopped" if all_others else f"; {stopped} others were stopped"


def _overall_code(ranks: list[RankEnd], first_failed: int | None) -> int | None:
    if first_failed is not None:
        return ranks[first_failed]["exit_code"]
    return 0 if ranks and all(rank["exit_code"] == 0 for rank in ranks) else None


def _why_lost(started: Started | None) -> Reason:
    if started and started["boot_id"] != boot_id():
        text = f"This machine restarted at {minute(boot_time())} while the job ran."
        return Reason(Code.MACHINE_RESTARTED, text)
    text = "The job's supervisor was killed from outside; how the job itself ended is not known."
    return Reason(Code.SUPERVISOR_DIED, text)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boot_time() -> float:
    lines = Path("/proc/stat").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("btime "))


def _begun(running: Running) -> tuple[RankStatus, ...]:
    return tuple(RankStatus(number, started_at=moment(rank["at"])) for number, rank in enumerate(running["ranks"]))


def _rank_status(number: int, rank: RankEnd) -> RankStatus:
    finished = rank["finished_at"]
    return RankStatus(
        number,
        started_at=moment(rank["started_at"]),
        finished_at=moment(finished) if finished is not None else None,
        exit_code=rank["exit_code"],
    )


def _gpu_notes(spec: Spec | None) -> tuple[Note, ...]:
    if not spec or not spec["gpus"]:
        return ()
    kind = "simulated " if spec["simulated"] else ""
    text = f"It holds {count(len(spec['gpus']), kind + 'GPU')} of this machine."
    return (Note(moment(spec["created_at"]), text, detail=f"{spec['gpu_type']}: {', '.join(spec['gpus'])}"),)


def _end_notes(exit: Exit) -> tuple[Note, ...]:
    if not exit["left_behind"]:
        return ()
    number = exit["left_behind"]
    text = "A process that it left behind was killed."
    if number > 1:
        text = f"{number} processes that it left behind were killed."
    return (Note(moment(exit["finished_at"]), text),)


def _grace(spec: Spec) -> str:
    return duration(spec["grace"])
