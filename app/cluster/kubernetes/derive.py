"""From what a cluster shows of an attempt to what the portal says about it. Pure: asks no cluster and no clock.

Only the Job's own Complete or Failed ends an attempt, and then only once its pods are seen to have ended too: Job and
pods are watched apart, and a verdict never changes. Three ends come without the Job's word: all is gone that we asked
to go; the Job was removed by somebody and its pods ended; and what cannot start any more, which the Job itself would
wait for without end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.cluster.kubernetes import words
from app.cluster.kubernetes.fields import (
    Event,
    Object,
    condition,
    field,
    items,
    latest,
    moment,
    number,
    order,
    text,
)
from app.cluster.kubernetes.fields import events as read_events
from app.cluster.kubernetes.manifests import GPU_TYPES
from app.cluster.kubernetes.names import INDEX
from app.cluster.kubernetes.notes import in_order, job_notes, rank_notes
from app.cluster.kubernetes.rank import Failure, Rank, Stage, Trouble, has_ended, read
from app.cluster.protocol import Code, Note, Observation, Outcome, Phase, RankStatus, Reason
from app.cluster.text import duration

SETTLE = timedelta(seconds=30)  # how long the end of a pod may be told after the end of its Job
NO_ANSWER = timedelta(minutes=5)  # over its time of grace, a pod is still there: its node does not answer

REMOVED = "It was removed on the cluster, outside the portal."


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is of one attempt, read."""

    job: Object | None
    ranks: tuple[Rank, ...]  # those that have a pod, by number
    nodes: int
    job_events: tuple[Event, ...]
    notes: tuple[Note, ...]
    asked_to_stop: bool
    now: datetime

    @property
    def started_at(self) -> datetime | None:
        """When the last rank began to run, if all have."""
        times = [rank.started_at for rank in self.ranks]
        return latest(times) if len(times) == self.nodes and None not in times else None

    @property
    def running(self) -> int:
        return sum(rank.stage is Stage.RUNS for rank in self.ranks)

    @property
    def all_over(self) -> bool:
        return all(rank.over for rank in self.ranks)


def observe(
    job: Object | None,
    pods: Sequence[Object],
    events: Sequence[Object],
    spec_nodes: int,
    asked_to_stop: bool,
    now: datetime,
    gone: Sequence[Object] = (),
) -> Observation | None:
    """What there is now; None when there is nothing. `pods` and `events` may hold others': they are left out.

    `gone`: removed pods as they last were. The cluster removes the ranks that ran when another failed, and people
    remove pods: how those ended is then in here only.
    """
    if condition(job, "Complete") or condition(job, "Failed"):
        pods = [*(pod for pod in gone if has_ended(pod)), *pods]
    seen = _seen(job, pods, events, spec_nodes, asked_to_stop, now)
    if seen.job is None and not seen.ranks:
        return None
    return _ended(seen) or _leaving(seen) or _held(seen) or _ending(seen) or _starting(seen) or _running(seen)


# reading


def _seen(
    job: Object | None, pods: Sequence[Object], events: Sequence[Object], nodes: int, asked_to_stop: bool, now: datetime
) -> Seen:
    told = read_events(events)
    types = text(job, "metadata", "annotations", GPU_TYPES).replace(",", " or ")
    of_job = _about(job, told)
    ranks, notes = [], [*job_notes(of_job, now)]
    for index, pod in sorted(_by_rank(job, pods, nodes).items()):
        of_pod = _about(pod, told)
        ranks.append(read(pod, index, of_pod, types, now))
        notes += rank_notes(pod, index, nodes, of_pod, now)
    return Seen(job, tuple(ranks), nodes, of_job, in_order(notes), asked_to_stop, now)


def _about(found: Object | None, told: Sequence[Event]) -> tuple[Event, ...]:
    uid = text(found, "metadata", "uid")
    return tuple(event for event in told if uid and event.about == uid)


def _by_rank(job: Object | None, pods: Sequence[Object], nodes: int) -> dict[int, Object]:
    """The newest pod of each rank, of this very Job."""
    found: dict[int, Object] = {}
    for pod in sorted(pods, key=lambda pod: order(moment(pod, "metadata", "creationTimestamp"))):
        owners = items(pod, "metadata", "ownerReferences")
        owner = next((text(each, "uid") for each in owners if each.get("controller") is True), "")
        if job is not None and owner and owner != text(job, "metadata", "uid"):
            continue
        written = text(pod, "metadata", "labels", INDEX) or text(pod, "metadata", "annotations", INDEX)
        if written.isdecimal() and int(written) < nodes:
            found[int(written)] = pod
        elif not written and nodes == 1:
            found[0] = pod
    return found


# it has ended


def _ended(seen: Seen) -> Observation | None:
    complete, failed = condition(seen.job, "Complete"), condition(seen.job, "Failed")
    if complete or failed:
        at = moment(complete or failed, "lastTransitionTime")
        if not seen.all_over and (at is None or seen.now - at < SETTLE):
            return None
        return _succeeded(seen, at) if complete else _failed(seen, failed, at)
    if seen.job is None:
        return _ended_without_a_job(seen)
    if text(seen.job, "metadata", "deletionTimestamp") and not seen.ranks:
        return _gone(seen)
    return _hopeless(seen)


def _succeeded(seen: Seen, at: datetime | None) -> Observation:
    text_ = "It ended with exit code 0." if seen.nodes == 1 else f"All {seen.nodes} ranks ended with exit code 0."
    return _verdict(seen, Outcome.SUCCEEDED, Reason(Code.SUCCEEDED, text_), at, exit_code=0)


def _failed(seen: Seen, failed: Object, at: datetime | None) -> Observation:
    why, said = text(failed, "reason"), text(failed, "message")
    raw = words.raw(f"{why}: {said}" if said else why)
    if why == "DeadlineExceeded":
        limit = number(seen.job, "spec", "activeDeadlineSeconds")
        sentence = f"Stopped at its time limit{f' of {duration(limit)}' if limit else ''}."
        return _verdict(seen, Outcome.FAILED, Reason(Code.TIME_LIMIT, sentence, raw), at)
    first = _first_to_fail(seen)
    if first is not None:
        rank, failure = first
        if failure.code is Code.REMOVED and seen.asked_to_stop:
            return _gone(seen)
        outcome = Outcome.LOST if failure.code is Code.REMOVED else Outcome.FAILED
        sentence = f"{_subject(seen, rank)} {failure.predicate}{_others(seen, rank)}."
        reason = Reason(failure.code, sentence, failure.raw or raw)
        code = rank.exit_code if failure.code in _PROGRAM else None
        return _verdict(seen, outcome, reason, at, exit_code=code)
    if why == "PodFailurePolicy" and "DisruptionTarget" in said:
        named = re.search(r"-(\d+)-[a-z0-9]{5} has condition", said)  # the pod's name; the pod itself is gone
        subject = f"Rank {named[1]}" if named and seen.nodes > 1 else "It"
        sentence = f"{subject} was taken away by the cluster: its node was drained or lost, or others needed it."
        return _verdict(seen, Outcome.FAILED, Reason(Code.EVICTED, sentence, raw), at)
    sentence = "Its pods were removed on the cluster, outside the portal, and how it ended went with them."
    return _verdict(seen, Outcome.LOST, Reason(Code.REMOVED, sentence, raw), at)


_PROGRAM = frozenset({Code.EXIT_CODE, Code.SIGNAL, Code.OUT_OF_MEMORY})


def _first_to_fail(seen: Seen) -> tuple[Rank, Failure] | None:
    """The one that the others failed after; times are whole seconds, so looks decide between equals."""
    # a pod that is removed once the Job has failed was removed by the Job
    over = moment(condition(seen.job, "FailureTarget") or condition(seen.job, "Failed"), "lastTransitionTime")
    failed = [
        (rank, rank.failure)
        for rank in seen.ranks
        if rank.failure is not None
        and not (rank.failure.code is Code.REMOVED and over is not None and order(rank.failure.at) >= over)
    ]
    return min(failed, key=lambda each: (order(each[1].at), each[1].consequence, each[0].number), default=None)


def _others(seen: Seen, first: Rank) -> str:
    """What became of the other ranks, at the end of the same sentence. Those that ran, the cluster has removed."""
    present = {rank.number: rank for rank in seen.ranks}
    after = [
        number
        for number in range(seen.nodes)
        if number != first.number and (number not in present or present[number].stage is not Stage.SUCCEEDED)
    ]
    if not after:
        return ""
    if len(after) == seen.nodes - 1:
        return "; the other one ended after it" if len(after) == 1 else f"; the other {len(after)} ended after it"
    return "; one other ended after it" if len(after) == 1 else f"; {len(after)} others ended after it"


def _ended_without_a_job(seen: Seen) -> Observation | None:
    """The Job is gone and its pods have ended. Just after that, news of the Job may only be late."""
    last = latest(rank.finished_at for rank in seen.ranks)
    if not seen.all_over or last is None or seen.now - last < SETTLE:
        return None
    return _gone(seen)


def _gone(seen: Seen) -> Observation:
    if seen.asked_to_stop:
        return _verdict(seen, Outcome.STOPPED, Reason(Code.STOPPED, "It was stopped."), None)
    return _verdict(seen, Outcome.LOST, Reason(Code.REMOVED, REMOVED), None)


def _hopeless(seen: Seen) -> Observation | None:
    rank = next((rank for rank in seen.ranks if rank.trouble is not None and rank.trouble.hopeless), None)
    if rank is None or rank.trouble is None or seen.asked_to_stop or text(seen.job, "metadata", "deletionTimestamp"):
        return None
    code = Code.IMAGE if rank.trouble.code is Code.IMAGE else Code.COULD_NOT_START
    sentence = rank.trouble.text if _same_for_all(seen, rank.trouble) else _of(rank, rank.trouble.text)
    return _verdict(seen, Outcome.FAILED, Reason(code, sentence, rank.trouble.raw), seen.now)


def _verdict(
    seen: Seen, outcome: Outcome, reason: Reason, at: datetime | None, exit_code: int | None = None
) -> Observation:
    """`at`: when the cluster said so. The last rank's own end is better, where all ranks tell it."""
    ends = [rank.finished_at for rank in seen.ranks]
    told = len(ends) == seen.nodes and None not in ends
    return Observation(
        Phase.ENDED,
        reason,
        outcome,
        ranks=_statuses(seen),
        started_at=seen.started_at,
        finished_at=latest(ends) if told else (at or latest(ends)),
        exit_code=exit_code,
        notes=seen.notes,
    )


# it is about to end


def _leaving(seen: Seen) -> Observation | None:
    """The Job is being deleted, or is gone and its pods follow."""
    if seen.job is not None and not text(seen.job, "metadata", "deletionTimestamp"):
        return None
    leaving = [rank for rank in seen.ranks if rank.leaving_at is not None]
    if seen.job is None and not leaving and not seen.asked_to_stop and not _long_there(seen):
        return None  # its pods were seen before it
    stuck = [rank for rank in leaving if rank.leaving_at is not None and seen.now - rank.leaving_at >= NO_ANSWER]
    if stuck:
        rank = stuck[0]
        sentence = f"Node {rank.node} does not answer, so that {_name(seen, rank)} cannot be ended there."
        return _interim(seen, Reason(Code.STOPPING, sentence))
    if seen.asked_to_stop:
        still = f" {seen.running} of {seen.nodes} ranks still run." if seen.nodes > 1 and seen.running else ""
        return _interim(seen, Reason(Code.STOPPING, f"It was asked to stop and ends now.{still}"))
    if seen.job is None and not leaving:
        sentence = "Its Job was removed on the cluster, outside the portal; its ranks were left to themselves."
        return _interim(seen, Reason(Code.REMOVED, sentence))
    return _interim(seen, Reason(Code.STOPPING, "It is being removed on the cluster, outside the portal."))


def _long_there(seen: Seen) -> bool:
    begun = latest(rank.started_at for rank in seen.ranks)
    return begun is not None and seen.now - begun >= SETTLE


def _ending(seen: Seen) -> Observation | None:
    """A rank has failed or is taken away; the cluster ends the others, and says so when all have ended."""
    first = _first_to_fail(seen)
    if first is not None:
        rank, failure = first
        sentence = f"{_subject(seen, rank)} {failure.predicate}"
        if rank.stage is not Stage.FAILED:
            return _interim(seen, Reason(failure.code, f"{sentence}; its time of grace runs.", failure.raw))
        left = seen.nodes - sum(each.over for each in seen.ranks)
        ends = f"; the other {left if left > 1 else 'one'} {'are' if left > 1 else 'is'} being ended" if left else ""
        return _interim(seen, Reason(failure.code, f"{sentence}{ends}.", failure.raw))
    removed = next((rank for rank in seen.ranks if rank.leaving_at is not None and not rank.over), None)
    told = condition(seen.job, "FailureTarget") or condition(seen.job, "Failed")
    if told:
        raw = words.raw(": ".join(part for part in (text(told, "reason"), text(told, "message")) if part))
        return _interim(seen, Reason(Code.STOPPING, "It has failed; its ranks are being ended.", raw))
    if removed is not None:
        sentence = f"{_subject(seen, removed)} is being removed on the cluster, outside the portal."
        return _interim(seen, Reason(Code.STOPPING, sentence))
    if condition(seen.job, "SuccessCriteriaMet") or condition(seen.job, "Complete"):
        return _interim(seen, Reason(Code.RUNNING, "It has ended; the cluster cleans up."))
    return None


# it begins, and runs


def _held(seen: Seen) -> Observation | None:
    if field(seen.job, "spec", "suspend") is True:
        return _observation(seen, Phase.HELD, Reason(Code.SUSPENDED, "The cluster's own queue holds it back."))
    gated = [rank for rank in seen.ranks if rank.trouble is not None and rank.trouble.code is Code.SUSPENDED]
    if gated and len(gated) == len(seen.ranks) and gated[0].trouble is not None:
        trouble = gated[0].trouble
        return _observation(seen, Phase.HELD, Reason(trouble.code, trouble.text, trouble.raw))
    return None


def _starting(seen: Seen) -> Observation | None:
    if seen.started_at is not None:
        return None
    missing = seen.nodes - len(seen.ranks)
    trouble = max((_trouble(rank) for rank in seen.ranks), key=lambda each: each.weight, default=None)
    if missing and (trouble is None or trouble.weight < 2):
        trouble = _no_pod(seen) or trouble
    if trouble is None or (trouble is _COMING and not seen.running):
        return _observation(seen, Phase.STARTING, Reason(Code.STARTING, "Its pods are being made."))
    return _observation(seen, Phase.STARTING, Reason(trouble.code, _told(seen, trouble), trouble.raw))


_COMING = Trouble(Code.STARTING, "It is being started.", weight=-1)


def _trouble(rank: Rank) -> Trouble:
    return rank.trouble if rank.trouble is not None and rank.stage is Stage.WAITS else _COMING


def _no_pod(seen: Seen) -> Trouble | None:
    """Why a pod is missing: an event of the Job tells, unless a pod was made after it."""
    told = [event for event in seen.job_events if event.says("FailedCreate", "SuccessfulCreate")]
    if not told or told[-1].says("SuccessfulCreate"):
        return None
    code, sentence = words.not_made(told[-1].message)
    # each try names another pod; the first that says the same stands for all
    same = next(event.message for event in told if words.not_made(event.message)[1] == sentence)
    return Trouble(code, sentence, words.raw(same), weight=2)


def _told(seen: Seen, trouble: Trouble) -> str:
    if seen.nodes == 1 or (not seen.running and _same_for_all(seen, trouble)):
        return trouble.text
    runs = f"{seen.running} of {seen.nodes} ranks {'is' if seen.running == 1 else 'are'} running"
    if not seen.running:
        runs = f"No rank of {seen.nodes} runs yet"
    if trouble is _COMING:
        return f"{runs}."
    rank = next((rank for rank in seen.ranks if rank.trouble is trouble), None)
    return f"{runs}; {_of(rank, trouble.text, start=False) if rank else words.continued(trouble.text)}"


def _same_for_all(seen: Seen, trouble: Trouble) -> bool:
    waiting = [rank.trouble for rank in seen.ranks if rank.stage is Stage.WAITS]
    return (
        seen.nodes == 1
        or not seen.ranks
        or (len(waiting) == len(seen.ranks) and all(each is not None and each.text == trouble.text for each in waiting))
    )


def _running(seen: Seen) -> Observation:
    silent = next((rank for rank in seen.ranks if rank.trouble is not None), None)
    over = sum(rank.over for rank in seen.ranks)
    if silent is not None and silent.trouble is not None:
        trouble = silent.trouble
        reason = Reason(trouble.code, trouble.text if seen.nodes == 1 else _of(silent, trouble.text), trouble.raw)
    elif over == seen.nodes:
        reason = Reason(Code.RUNNING, "It has ended; the cluster has not said so yet.")
    elif over:
        reason = Reason(Code.RUNNING, f"{seen.running} of {seen.nodes} ranks still run.")
    elif seen.nodes == 1:
        reason = Reason(Code.RUNNING, f"It runs on node {seen.ranks[0].node}.")
    else:
        reason = Reason(Code.RUNNING, f"All {seen.nodes} ranks run.")
    return _observation(seen, Phase.RUNNING, reason)


# saying


def _interim(seen: Seen, reason: Reason) -> Observation:
    return _observation(seen, Phase.RUNNING if seen.started_at else Phase.STARTING, reason)


def _observation(seen: Seen, phase: Phase, reason: Reason) -> Observation:
    return Observation(phase, reason, ranks=_statuses(seen), started_at=seen.started_at, notes=seen.notes)


def _statuses(seen: Seen) -> tuple[RankStatus, ...]:
    return tuple(rank.status for rank in seen.ranks)


def _subject(seen: Seen, rank: Rank) -> str:
    return "It" if seen.nodes == 1 else f"Rank {rank.number}"


def _name(seen: Seen, rank: Rank) -> str:
    return "it" if seen.nodes == 1 else f"rank {rank.number}"


def _of(rank: Rank, sentence: str, start: bool = True) -> str:
    return f"{'Rank' if start else 'rank'} {rank.number}: {words.continued(sentence)}"
