"""Figures of a portal with real processes: true with several web processes, also after one of them was killed."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable

from tests.crash.portals import Served, children, free_port, kill, wait_for

TOKEN = "a-token-of-metrics"


def figures(port: int) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return str(answer.read().decode())


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


def test_several_web_processes_tell_one_truth(furnish: Callable[..., Served]) -> None:
    at = free_port()
    served = furnish(METRICS_PORT=str(at), METRICS_TOKEN=TOKEN, WEB_WORKERS="3")
    served.serve()
    me = 'simpletrain_request_seconds_count{method="GET",route="/api/me",status="2xx"}'
    for _ in range(40):
        assert served.request("GET", "/api/me").status == 200
    assert {value(figures(at), me) for _ in range(10)} == {40.0}  # whoever answers
    killed = children(served.child("web"))[0]
    kill(killed)
    wait_for(
        lambda: killed not in children(served.child("web")) and len(children(served.child("web"))) == 3, "a new one"
    )
    for _ in range(10):
        assert served.request("GET", "/api/me").status == 200
    text = figures(at)
    assert value(text, me) == 50
    assert value(text, "simpletrain_database_up") == 1
    assert value(text, "simpletrain_worker_seen_timestamp_seconds") > 1e9
    assert not list((served.data / "metrics").glob(f"gauge_livesum_{killed}.db"))

    served.launch("counted", "echo 1234567")
    served.until("counted", "succeeded")
    here = '{cluster="this-machine"'
    wait_for(lambda: value(figures(at + 1), "simpletrain_log_bytes_total") == 8, lambda: figures(at + 1))
    text = figures(at + 1)
    assert value(text, f'simpletrain_launches_total{here},result="launched"}}') == 1
    assert value(text, f'simpletrain_jobs_ended_total{here},state="succeeded"}}') == 1
    assert value(text, f"simpletrain_launch_wait_seconds_count{here}}}") == 1
    assert value(text, f"simpletrain_cluster_looked_timestamp_seconds{here}}}") > 1e9
    assert value(text, "simpletrain_worker_active") == 1
    assert value(text, "simpletrain_worker_epoch") == 1
    served.kill("worker")
    wait_for(lambda: value(_or_nothing(at + 1), "simpletrain_worker_epoch") == 2, "a new worker's figures")
    served.kill("web")  # the master too, with its port
    served.kill("supervisor")
    served.until_all_gone()


def _or_nothing(port: int) -> str:
    try:
        return figures(port)
    except OSError:
        return ""


def test_a_taken_port_ends_the_web_with_a_sentence_and_no_worker(furnish: Callable[..., Served]) -> None:
    served = furnish()
    served.serve()
    second = furnish(METRICS_PORT=str(served.port))
    web = second.begin("web")
    assert web.ended() != 0
    assert f"METRICS_PORT: port {served.port} of 127.0.0.1 cannot be used (it is taken)." in web.said()
    assert "Traceback" not in web.said()
