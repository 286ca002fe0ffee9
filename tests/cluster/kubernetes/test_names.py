"""Names and labels: what Kubernetes accepts, and nothing of anybody else's taken for ours."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.kubernetes.names import (
    INSTANCE,
    JOB,
    attempt_labels,
    attempt_selector,
    instance_selector,
    key_of,
    labels,
    object_name,
)
from app.cluster.protocol import Attempt, AttemptKey, JobSpec

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", re.ASCII)
INSTANCE_ID = "3f0c7a52-9c1e-4a68-b0c4-1f3a5d6e7f80"
SPEC = JobSpec(image="busybox", command="true", gpus=0, nodes=1, max_runtime=60)

uids = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=8)
numbers = st.integers(1, 9_999_999)


def attempt(name: str = "digits", uid: str = "k3v9x2ab", number: int = 1, instance: str = INSTANCE_ID) -> Attempt:
    return Attempt(AttemptKey(uid, number), name, instance, org="12", user="7", spec=SPEC)


@pytest.mark.parametrize(
    ("job_name", "name"),
    [
        ("digits", "r-digits-k3v9x2ab-a1"),
        ("a-name-that-is-much-longer-than-it-may-be", "r-a-name-that-is-much-k3v9x2ab-a1"),
        ("cut-at-a-dash-here-x-y", "r-cut-at-a-dash-here-x-k3v9x2ab-a1"),
        ("Odd_Name.v2", "r-odd-name-v2-k3v9x2ab-a1"),
        ("数字", "r-k3v9x2ab-a1"),
    ],
)
def test_a_name_is_made_of_the_jobs_name_and_the_key(job_name: str, name: str) -> None:
    assert object_name(attempt(job_name)) == name


@given(st.text(), uids, numbers)
def test_any_attempt_has_a_name_short_enough_for_the_host_names_of_1000_ranks(
    job_name: str, uid: str, number: int
) -> None:
    name = object_name(attempt(job_name, uid, number))
    assert len(name) <= 40
    assert DNS_LABEL.fullmatch(f"{name}-1023")


@given(st.tuples(st.text(), uids, numbers), st.tuples(st.text(), uids, numbers))
def test_two_attempts_never_share_a_name(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    if one[1:] != other[1:]:
        assert object_name(attempt(*one)) != object_name(attempt(*other))


@pytest.mark.parametrize(("uid", "number"), [("", 1), ("short", 1), ("UPPERCAS", 1), ("k3v9x2ab", 0), ("../../..", 1)])
def test_a_malformed_key_names_nothing(uid: str, number: int) -> None:
    with pytest.raises(ValueError, match="cannot name an object"):
        object_name(attempt(uid=uid, number=number))


def test_labels_are_ids_and_who_made_it() -> None:
    assert labels(attempt()) == {
        "app.kubernetes.io/managed-by": "simpletrain",
        "app.kubernetes.io/part-of": "simpletrain",
        "app.kubernetes.io/component": "training-job",
        "simpletrain.io/instance": INSTANCE_ID,
        "simpletrain.io/org": "12",
        "simpletrain.io/job": "k3v9x2ab",
        "simpletrain.io/attempt": "1",
        "simpletrain.io/user": "7",
    }


@given(st.text(), uids, numbers)
def test_every_label_is_one_that_kubernetes_takes(job_name: str, uid: str, number: int) -> None:
    for value in labels(attempt(job_name, uid, number)).values():
        assert len(value) <= 63
        assert LABEL_VALUE.fullmatch(value)


def test_an_installation_id_that_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be the value of the label"):
        labels(attempt(instance="two words"))


@given(uids, numbers)
def test_labels_read_back_as_the_key(uid: str, number: int) -> None:
    assert key_of(labels(attempt(uid=uid, number=number)), INSTANCE_ID) == AttemptKey(uid, number)


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        {INSTANCE: "another", JOB: "k3v9x2ab", "simpletrain.io/attempt": "1"},
        {INSTANCE: INSTANCE_ID},
        {INSTANCE: INSTANCE_ID, JOB: "k3v9x2ab"},
        {INSTANCE: INSTANCE_ID, JOB: "k3v9x2ab", "simpletrain.io/attempt": "one"},
        {INSTANCE: INSTANCE_ID, JOB: "k3v9x2ab", "simpletrain.io/attempt": "01"},
        {INSTANCE: INSTANCE_ID, JOB: "k3v9x2ab", "simpletrain.io/attempt": "0"},
        {INSTANCE: INSTANCE_ID, JOB: "K3V9X2AB", "simpletrain.io/attempt": "1"},
        {INSTANCE: INSTANCE_ID, JOB: None, "simpletrain.io/attempt": "1"},
    ],
)
def test_what_is_not_surely_ours_is_nobodys(found: dict[str, object] | None) -> None:
    assert key_of(found, INSTANCE_ID) is None


def test_selectors_name_the_installation() -> None:
    key = AttemptKey("k3v9x2ab", 2)
    assert instance_selector(INSTANCE_ID) == f"simpletrain.io/instance={INSTANCE_ID}"
    assert attempt_selector(INSTANCE_ID, key) == (
        f"simpletrain.io/instance={INSTANCE_ID},simpletrain.io/job=k3v9x2ab,simpletrain.io/attempt=2"
    )
    assert attempt_labels(INSTANCE_ID, key).items() <= labels(attempt(number=2)).items()
