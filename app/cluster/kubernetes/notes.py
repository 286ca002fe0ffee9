"""What an attempt's timeline takes from the cluster. The same event has the same time and text at every look.

A trouble that is told again and again is one note, at its first time. The cluster forgets an event after an hour, and
the next one would look like a first: so a trouble that began longer ago is not told any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from app.cluster.kubernetes import words
from app.cluster.kubernetes.fields import Event, Object, condition, items, mapping, moment, named, text
from app.cluster.kubernetes.names import CONTAINER
from app.cluster.protocol import Note
from app.cluster.text import duration

MOST_NODES = 8  # above, a timeline of every rank's beginning is one that nobody reads
MOST_NOTES = 100
FRESH = timedelta(minutes=30)

_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def rank_notes(pod: Object, rank: int, nodes: int, events: Sequence[Event], now: datetime) -> Iterable[Note]:
    """`events`: those about this pod."""
    possessive = "Its" if nodes == 1 else f"Rank {rank}'s"
    subject = "It" if nodes == 1 else f"Rank {rank}"
    node = text(pod, "spec", "nodeName")
    placed = moment(condition(pod, "PodScheduled"), "lastTransitionTime")
    if nodes <= MOST_NODES:
        if placed is not None and node:
            yield Note(placed, f"{subject} got node {node}.")
        for event in events:
            took = re.match(r'Successfully pulled image "[^"]*" in (\S+)', event.message)
            if event.says("Pulled") and took:
                yield Note(event.first, f"{possessive} image was downloaded in {_spoken(took[1])}.", event.message)
        main = named(items(pod, "status", "containerStatuses"), CONTAINER)
        for state in ("running", "terminated"):
            started = moment(mapping(main, "state", state), "startedAt")
            # on one node this is what the job's own `Running` says
            if started is not None and nodes > 1:
                yield Note(started, f"{subject} started.")
    told = [event for event in events if event.warning and (placed is None or event.last >= placed)]
    for event, sentence in _firsts([(event, _warning(event, possessive, node)) for event in told], now):
        alone = nodes == 1 or possessive in sentence
        yield Note(
            event.first, sentence if alone else f"Rank {rank}: {words.continued(sentence)}", words.raw(event.message)
        )


def job_notes(events: Iterable[Event], now: datetime) -> Iterable[Note]:
    """`events`: those about the Job."""
    told = [(event, words.not_made(event.message)[1]) for event in events if event.says("FailedCreate")]
    for event, sentence in _firsts(told, now):
        yield Note(event.first, sentence, words.raw(event.message))


def _firsts(told: Iterable[tuple[Event, str]], now: datetime) -> Iterable[tuple[Event, str]]:
    first: dict[str, Event] = {}
    for event, sentence in told:
        if sentence and (sentence not in first or event.first < first[sentence].first):
            first[sentence] = event
    return [(event, sentence) for sentence, event in first.items() if now - event.first < FRESH]


def in_order(notes: Iterable[Note]) -> tuple[Note, ...]:
    once = {(note.at, note.text): note for note in notes}
    return tuple(once[key] for key in sorted(once))[:MOST_NOTES]


def _warning(event: Event, possessive: str, node: str) -> str:
    if event.says("Failed"):
        name = re.match(r'Failed to pull image "([^"]+)"', event.message)
        return words.image(name[1], event.message.replace(name[1], "")).text if name else ""
    if event.says("FailedMount", "FailedAttachVolume"):
        return words.not_mounted(event.message, {})
    if event.says("FailedCreatePodSandBox"):
        return f"Node {node} could not start the container, and tries again."
    if event.says("NodeNotReady"):
        return f"{possessive} node {node} stopped answering."
    return ""


def _spoken(written: str) -> str:
    """A length of time as Go writes it, 1m2.345s, for people."""
    parts = re.findall(r"([0-9.]+)(h|ms|us|µs|ns|m|s)", written)
    try:
        seconds = sum(float(amount) * _GO_UNITS[unit] for amount, unit in parts)
    except ValueError:
        return written
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else duration(minutes * 60)
