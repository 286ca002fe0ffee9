"""The lines of the API page, copied from the page into a terminal, do on a real portal what the page says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from bs4 import BeautifulSoup

from tests.crash.portals import PATIENCE, Served, wait_for

# what the preset `digits` runs: prints, and goes on once the test opens the gate
TRAIN = """
import os, sys, time
print("epoch 1", flush=True)
while not os.path.exists("gate"):
    time.sleep(0.05)
sys.stdout.buffer.write(b"\\xff\\r\\nepoch 2, no line end")
"""
SET_TOKEN = "export SIMPLETRAIN_TOKEN=st_…"
PRINTED = b"epoch 1\n\xff\r\nepoch 2, no line end"


@pytest.fixture
def site(furnish: Callable[..., Served]) -> Served:
    portal = furnish(LOCAL_GPUS="2")
    (portal.work / "train.py").write_text(TRAIN)
    portal.serve()
    return portal


def lines_of(site: Served) -> dict[str, str]:
    """What can be copied from the page, by what it does."""
    link = site.command("users", "link", "bob@example.org").stdout.split()[-1]
    with site.sign_in(link).open(f"http://127.0.0.1:{site.port}/orgs/lab/api", timeout=30) as page:
        soup = BeautifulSoup(page.read(), "html.parser")
    return {str(each["aria-label"]): each.get_text() for each in soup.select(".copyable pre")}


def terminal(site: Served, lines: str) -> subprocess.Popen[bytes]:
    """A shell of somebody who has set the token, and then pastes these lines."""
    return subprocess.Popen(
        ["sh", "-c", f"{SET_TOKEN.replace('st_…', site.token)}\n{lines}"],
        env={"PATH": os.environ["PATH"], "NO_PROXY": "*", "TMPDIR": str(site.work)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def pasted(site: Served, lines: str) -> bytes:
    shell = terminal(site, lines)
    out, errors = shell.communicate(timeout=PATIENCE)
    assert (shell.returncode, errors) == (0, b""), out
    return out


def test_the_lines_for_a_terminal_work_as_they_stand(site: Served) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    copied = lines_of(site)
    assert copied["Set the token"] == SET_TOKEN
    assert json.loads(pasted(site, copied["Who am I"]))["email"] == "bob@example.org"
    launched = json.loads(pasted(site, copied["Launch a job"]))
    assert (launched["name"], launched["preset"], launched["org"]) == ("digits", "digits", "lab")
    # pasted twice it is the same job
    assert json.loads(pasted(site, copied["Launch a job"]))["name"] == "digits"
    assert [job["name"] for job in site.request("GET", "/api/jobs").json["jobs"]] == ["digits"]
    site.until("digits", "running")
    assert json.loads(pasted(site, copied["See how it stands"]))["state"] == "running"
    tail = terminal(site, copied["Follow its log"])
    try:
        wait_for(lambda: b"epoch 1" in pasted(site, copied["Read its log"]), "the first line")
        assert tail.poll() is None
        (site.work / "gate").touch()
        out, errors = tail.communicate(timeout=PATIENCE)
    finally:
        tail.kill()
    assert (tail.returncode, errors) == (0, b"")
    assert out == PRINTED
    assert pasted(site, copied["Read its log"]) == PRINTED
    assert list(site.work.glob("tmp.*")) == []

    (site.work / "gate").unlink()
    copied = lines_of(site)
    assert json.loads(pasted(site, copied["Launch a job"]))["name"] == "digits-2"
    site.until("digits-2", "running")
    assert json.loads(pasted(site, copied["Stop it"]))["name"] == "digits-2"
    site.until("digits-2", "cancelled")
    # what goes wrong is said, and does not go on for ever
    nowhere = terminal(site, copied["Follow its log"].replace("digits-2", "nowhere"))
    assert nowhere.communicate(timeout=PATIENCE)[0] == b""
    assert b"epoch" not in pasted(site, copied["See how it stands"].replace("digits-2", "nowhere"))


def run_script(site: Served, **settings: str) -> subprocess.Popen[bytes]:
    script = site.work / "script.py"
    script.write_text(lines_of(site)["Python script"])
    return subprocess.Popen(
        [sys.executable, "-I", str(script)],
        env={"SIMPLETRAIN_TOKEN": site.token, "no_proxy": "*", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one call
    )


def test_the_script_launches_a_job_and_follows_it_to_its_end(site: Served) -> None:
    (site.work / "gate").touch()
    out, errors = run_script(site).communicate(timeout=PATIENCE)
    assert errors == b""
    began, ended = b"I am bob@example.org\nlaunched digits\n", b"\nsucceeded: It ended with exit code 0.\n"
    assert out == began + PRINTED + ended


def test_ctrl_c_in_the_script_stops_its_job(site: Served) -> None:
    script = run_script(site)
    try:
        assert script.stdout is not None
        assert b"epoch 1\n" in iter(script.stdout.readline, b"")  # it reads on until then
        script.send_signal(signal.SIGINT)
        _, errors = script.communicate(timeout=PATIENCE)
    finally:
        script.kill()
    assert errors == b""
    site.until("digits", "cancelled")


def test_the_script_waits_when_there_are_too_many_requests(furnish: Callable[..., Served]) -> None:
    portal = furnish(LOCAL_GPUS="2", API_RATE="60")
    (portal.work / "train.py").write_text(TRAIN)
    portal.serve()
    (portal.work / "gate").touch()
    while portal.request("GET", "/api/me").status != 429:
        pass
    script = run_script(portal)
    out, errors = script.communicate(timeout=PATIENCE)
    assert errors == b""
    assert PRINTED in out


def test_the_script_says_what_is_wrong(site: Served) -> None:
    site.token = "st_0123456789ab_wrong"
    out, errors = run_script(site).communicate(timeout=PATIENCE)
    assert out == b""
    assert json.loads(errors)["type"].endswith("/unauthorized")
