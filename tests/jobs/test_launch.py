"""Launching by the form, without JavaScript."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import func, select, text

from app.database import db
from app.jobs.models import Job, JobEvent
from app.jobs.request import COMMAND_LIMIT
from tests.conftest import Browser, Portal, on_postgresql
from tests.jobs.conftest import World, filled, sentence, wrong_fields

FORM = "/orgs/lab/new-job"


def how_many(portal: Portal) -> int:
    count: int = portal.read(lambda: db.session.scalar(select(func.count()).select_from(Job)))
    return count


@pytest.fixture
def bob(portal: Portal) -> Browser:
    return portal.browser("bob")


# as it should be


def test_the_form_opens_filled_in_with_the_presets_defaults_and_a_free_name(portal: Portal, bob: Browser) -> None:
    portal.launch("digits", gpus=0)
    fields = filled(bob, "digits")
    assert fields["preset"] == fields["shown"] == "digits"
    assert fields["command"] == "python train.py"
    assert (fields["gpus"], fields["nodes"], fields["max_runtime"]) == ("1", "1", "10m")
    assert fields["name"] == "digits-2"
    assert fields["once"]


def test_a_member_launches_a_job(portal: Portal, bob: Browser) -> None:
    answer = bob.post(FORM, filled(bob, command="echo hello", name="first"))
    assert answer.status_code == 303
    assert answer.location.endswith("/orgs/lab/jobs/first")
    bob.get(answer.location)
    assert "Queued" in bob.text()
    job = portal.job("first")
    assert job.state == "queued"
    assert job.spec["command"] == "echo hello"
    events = portal.read(lambda: [(event.text, event.user_id) for event in db.session.scalars(select(JobEvent))])
    assert events == [("Launched", job.user_id)]


def test_an_empty_name_means_that_one_is_made(portal: Portal, bob: Browser) -> None:
    for name in ("plain", "plain-2", "plain-3"):
        answer = bob.post(FORM, filled(bob, command="true", name=""))
        assert answer.location.endswith(f"/jobs/{name}")


def test_text_fields_lose_the_carriage_returns_that_browsers_add(portal: Portal, bob: Browser) -> None:
    bob.post(FORM, filled(bob, command="set -e\r\n\r\necho one\r\n", name="lines"))
    assert portal.job("lines").spec["command"] == "set -e\n\necho one\n"


def test_a_command_that_begins_with_an_empty_line_keeps_it(portal: Portal, bob: Browser) -> None:
    bob.post(FORM, filled(bob, command="\n\n  true", name="!"))
    assert bob.form("/new-job")["command"] == "\n\n  true"


def test_variables_reach_the_job_over_the_presets(portal: Portal, bob: Browser, world: World) -> None:
    world.machine(gpus=2)
    fields = filled(bob, "digits", name="vars")
    fields.update({"env-name": ["OMP_NUM_THREADS", " LR ", ""], "env-value": ["1", " 1e-3 ", ""]})
    assert bob.post(FORM, fields).status_code == 303
    assert portal.job("vars").spec["env"] == {"OMP_NUM_THREADS": "1", "LR": " 1e-3 "}


@pytest.mark.parametrize(("typed", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("0h30m", 1800), ("", 3600)])
def test_forms_of_the_maximum_run_time(portal: Portal, bob: Browser, typed: str, seconds: int) -> None:
    bob.post(FORM, filled(bob, command="true", name="timed", max_runtime=typed))
    assert portal.job("timed").spec["max_runtime"] == seconds


# as it should not be

NAME_RULE = "A name is 1 to 63 lower-case letters, digits and dashes, with a letter first and no dash at the end."
WHOLE = "Write a whole number."
WITH_UNIT = "Write a number with its unit, such as 90s, 10m, 24h or 7d."


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"name": "Upper"}, "name", NAME_RULE),
        ({"name": "-dash"}, "name", NAME_RULE),
        ({"name": "x" * 64}, "name", NAME_RULE),
        ({"name": "nul\0"}, "name", NAME_RULE),
        ({"command": ""}, "command", "Write the command to run."),
        ({"command": " \n\t"}, "command", "Write the command to run."),
        (
            {"command": "echo \0"},
            "command",
            "The character NUL is in the command, and no program can be given one. Take it out.",
        ),
        (
            {"command": "é" * 500_000},
            "command",
            f"The command has 1,000,000 bytes; {COMMAND_LIMIT:,} is the most that Linux takes. "
            "Put it into a script and run that.",
        ),
        ({"gpus": "9"}, "gpus", "The preset plain allows up to 8 GPUs per node. Take fewer, or ask an owner."),
        (
            {"gpus": "1"},
            "gpus",
            "The cluster this-machine has no GPU, and this asks for 1. Take fewer, or 0 to run without a GPU.",
        ),
        (
            {"gpus": "2", "nodes": "3"},
            "gpus",
            "The cluster this-machine has no GPU, and this asks for 6 in all. Take fewer, or 0 to run without a GPU.",
        ),
        ({"gpus": "-1"}, "gpus", "It must be at least 0."),
        ({"gpus": "one"}, "gpus", WHOLE),
        ({"gpus": "--1"}, "gpus", WHOLE),
        ({"gpus": "1.5"}, "gpus", WHOLE),
        ({"gpus": "٣"}, "gpus", WHOLE),
        ({"gpus": "9" * 5000}, "gpus", WHOLE),
        ({"nodes": "0"}, "nodes", "It must be at least 1."),
        ({"nodes": "5"}, "nodes", "The preset plain allows up to 4 nodes. Take fewer, or ask an owner."),
        ({"nodes": "-"}, "nodes", WHOLE),
        ({"max_runtime": "10"}, "max_runtime", WITH_UNIT),
        ({"max_runtime": "soon"}, "max_runtime", WITH_UNIT),
        ({"max_runtime": "0s"}, "max_runtime", "It must be at least 1s."),
        ({"max_runtime": "2h"}, "max_runtime", "The preset plain allows 1 h. Write 1h, or ask an owner."),
        ({"max_runtime": "999999d"}, "max_runtime", "It can be at most 3650d."),
        ({"cluster": "berlin"}, "cluster", "There is no cluster berlin that this org may use."),
        ({"cluster": "x" * 500}, "cluster", f"There is no cluster {'x' * 60}… that this org may use."),
        (
            {"env-name": ["1BAD"], "env-value": ["x"]},
            "env",
            "1BAD cannot be a name: letters, digits and _ only, and no digit first.",
        ),
        (
            {"env-name": ["A B"], "env-value": ["x"]},
            "env",
            "A B cannot be a name: letters, digits and _ only, and no digit first.",
        ),
        (
            {"env-name": [""], "env-value": ["orphan"]},
            "env",
            "Give the variable with the value 'orphan' a name, or take it out.",
        ),
        ({"env-name": ["A", "A"], "env-value": ["1", "2"]}, "env", "The variable A stands here twice."),
        (
            {"env-name": ["A"], "env-value": ["a\0b"]},
            "env",
            "The value of A holds the character NUL. Take it out.",
        ),
        (
            {"env-name": ["A"], "env-value": ["x" * 300_000]},
            "env",
            "All variables together may have 262,144 bytes.",
        ),
        (
            {"env-name": [f"V{n}" for n in range(201)], "env-value": ["x"] * 201},
            "env",
            "The form takes 200 variables. Take some out, or launch by the API.",
        ),
    ],
)
def test_a_bad_input_gets_its_sentence_and_everything_typed_is_kept(
    portal: Portal, bob: Browser, changes: dict[str, Any], field: str, says: str
) -> None:
    fields = filled(bob, **{"command": "true", "name": "kept", "max_runtime": "5m", **changes})
    answer = bob.post(FORM, fields)
    assert answer.status_code == 422
    assert sentence(bob, field) == says
    assert wrong_fields(bob) == {field}
    shown = bob.form("/new-job")
    for name in ("preset", "command", "gpus", "nodes", "max_runtime", "name", "once"):
        assert shown[name].replace("\ufffd", "\0") == fields[name], name  # a parser of pages may show NUL so
    if field == "env":
        # the last row is an empty one, for another variable
        names = [each["value"] for each in bob.page.find_all("input", {"name": "env-name"}) if each.has_attr("value")]
        assert names == fields["env-name"]
    assert how_many(portal) == 0


def test_all_errors_are_told_at_once(bob: Browser) -> None:
    answer = bob.post(FORM, filled(bob, command="", name="Bad", gpus="x", nodes="0", max_runtime="1"))
    assert answer.status_code == 422
    assert wrong_fields(bob) == {"command", "name", "gpus", "nodes", "max_runtime"}
    assert "5 fields need a change" in bob.text()


def test_a_taken_name_names_a_free_one(portal: Portal, bob: Browser) -> None:
    portal.launch("run")
    portal.launch("run-2")
    assert bob.post(FORM, filled(bob, command="true", name="run")).status_code == 422
    assert sentence(bob, "name") == "The name run is taken in this org. run-3 is free."
    assert bob.form("/new-job")["name"] == "run"


@pytest.mark.parametrize(
    ("taken", "free"),
    [
        (["a"], "a-2"),
        (["a-7"], "a-8"),
        (["a", "a-2", "a-9"], "a-10"),
        (["x" * 63], "x" * 52 + "-2"),
        (["a", "a-" + "9" * 61], "a-2"),
        (["v1-0"], "v1-1"),
    ],
)
def test_the_free_name_is_one_that_can_be_taken(portal: Portal, bob: Browser, taken: list[str], free: str) -> None:
    for name in taken:
        portal.launch(name)
    bob.post(FORM, filled(bob, command="true", name=taken[0]))
    assert sentence(bob, "name").endswith(f" {free} is free.")
    assert bob.post(FORM, filled(bob, command="true", name=free)).status_code == 303


@on_postgresql
def test_free_names_are_found_where_the_database_sorts_as_a_language_does(portal: Portal, bob: Browser) -> None:
    """As most servers are set up: there ":" comes before 0, and "-" may not count at all."""
    with portal.app.app_context(), db.engine.begin() as connection:
        kinds = connection.execute(text("SELECT 1 FROM pg_collation WHERE collname = 'en-US-x-icu'")).first()
        if kinds is None:
            pytest.skip("This PostgreSQL knows no languages.")
        connection.execute(text('ALTER TABLE jobs ALTER COLUMN name TYPE varchar(63) COLLATE "en-US-x-icu"'))
    for name in ("run", "run-2", "run-17", "blitz-1"):
        portal.launch(name)
    bob.post(FORM, filled(bob, command="true", name="run"))
    assert sentence(bob, "name").endswith(" run-18 is free.")
    assert bob.get("/orgs/lab/jobs/blitz-9").status_code == 404
    assert [link.get_text() for link in bob.page.select("main ul a")] == ["blitz-1"]


def test_a_name_of_another_org_is_not_taken(portal: Portal, bob: Browser) -> None:
    portal.launch("same", "mallory")
    assert bob.post(FORM, filled(bob, command="true", name="same")).status_code == 303


def test_an_unknown_preset_is_told(portal: Portal, bob: Browser) -> None:
    assert bob.post(FORM, filled(bob, command="true") | {"preset": "gone"}).status_code == 422
    assert sentence(bob, "preset") == "There is no preset gone in this org. Pick one of the list."


def test_a_cluster_that_the_preset_does_not_allow_is_told(bob: Browser, world: World) -> None:
    world.add_cluster("berlin")
    world.import_presets("{name: pinned, image: x, command: 'true', clusters: [berlin]}")
    assert bob.post(FORM, filled(bob, "pinned", cluster="this-machine")).status_code == 422
    assert sentence(bob, "cluster") == "The preset pinned does not run on this-machine. It runs on berlin."


def test_a_cluster_that_takes_no_jobs_says_why(bob: Browser, world: World) -> None:
    world.refuse_machine("LOCAL_JOBS=0 switches this machine off as a cluster.")
    assert bob.post(FORM, filled(bob, command="true")).status_code == 422
    assert sentence(bob, "cluster") == "LOCAL_JOBS=0 switches this machine off as a cluster."


def test_a_preset_whose_clusters_the_org_has_not_got_says_so(bob: Browser, world: World) -> None:
    world.import_presets("{name: elsewhere, image: x, command: 'true', clusters: [paris]}")
    assert bob.post(FORM, filled(bob, "elsewhere")).status_code == 422
    assert sentence(bob, "cluster") == "The preset elsewhere runs on paris, which this org has not got."


def test_more_gpus_than_any_cluster_has_are_refused_and_fewer_go_where_they_fit(
    portal: Portal, bob: Browser, world: World
) -> None:
    world.machine(gpus=1)
    world.add_cluster("berlin", gpus=4)
    bob.post(FORM, filled(bob, command="true", gpus="8"))
    assert sentence(bob, "gpus").startswith("The clusters of this preset have at most 4 GPUs in all")
    bob.post(FORM, filled(bob, command="true", gpus="3", name="fits"))
    assert portal.job("fits").cluster_id == 2


def test_an_org_without_presets_says_what_to_do(portal: Portal) -> None:
    portal.command("orgs", "create", "empty")
    portal.command("users", "create", "bob@example.org", "--org", "empty")
    bob = portal.browser("bob")
    bob.get("/orgs/empty/new-job")
    assert "flask --app wsgi presets import FILE --org empty" in bob.text()
    assert not bob.page.find_all("textarea")


def test_a_viewer_may_not_launch(portal: Portal) -> None:
    vera = portal.browser("vera")
    assert vera.get(FORM).status_code == 403
    for path in (FORM, f"{FORM}/draft", f"{FORM}/draft-fragment", "/orgs/lab/jobs/x/again"):
        assert vera.post(path, {"preset": "plain", "command": "true"}).status_code == 403
    assert how_many(portal) == 0


def test_a_stale_token_keeps_nothing_and_says_so(portal: Portal, bob: Browser) -> None:
    answer = bob.post(FORM, filled(bob, command="true", csrf_token="from another session"))
    assert answer.status_code == 400
    assert "This form is from another session" in bob.text()
    assert "Nothing was changed" in bob.text()
    assert how_many(portal) == 0


# sent twice


def test_the_same_form_sent_twice_makes_one_job(portal: Portal, bob: Browser) -> None:
    fields = filled(bob, command="true", name="")
    places = {bob.post(FORM, fields).location for _ in range(3)}
    assert places == {"/orgs/lab/jobs/plain"}
    assert how_many(portal) == 1


def test_a_form_that_was_changed_and_sent_again_makes_a_second_job_and_no_third(portal: Portal, bob: Browser) -> None:
    fields = filled(bob, command="true", name="")
    bob.post(FORM, fields)
    places = [bob.post(FORM, {**fields, "command": "false"}).location for _ in range(2)]
    assert places == ["/orgs/lab/jobs/plain-2"] * 2
    assert how_many(portal) == 2


def test_a_form_that_was_refused_can_be_mended_and_sent(portal: Portal, bob: Browser) -> None:
    fields = filled(bob, command="", name="mended")
    assert bob.post(FORM, fields).status_code == 422
    assert bob.post(FORM, {**bob.form("/new-job"), "command": "true"}).status_code == 303


def test_twenty_submits_at_once_with_one_key_make_one_job(portal: Portal) -> None:
    browsers = [portal.browser("bob") for _ in range(20)]
    fields = filled(browsers[0], command="true", name="")
    fields.pop("csrf_token")
    tokens = [browser.token() for browser in browsers]
    places: list[str] = []
    gate = threading.Barrier(len(browsers))

    def submit(browser: Browser, token: str) -> None:
        gate.wait()
        places.append(browser.client.post(FORM, data={**fields, "csrf_token": token}).location)

    threads = [threading.Thread(target=submit, args=pair) for pair in zip(browsers, tokens, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places == ["/orgs/lab/jobs/plain"] * 20
    assert how_many(portal) == 1


def test_submits_at_once_with_keys_of_their_own_get_names_of_their_own(portal: Portal) -> None:
    browsers = [portal.browser("bob") for _ in range(6)]
    forms = [filled(browser, command="true", name="") for browser in browsers]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda b=b, f=f: statuses.append(b.client.post(FORM, data=f).status_code))
        for b, f in zip(browsers, forms, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [303] * 6
    names = portal.read(lambda: set(db.session.scalars(select(Job.name))))
    assert names == {"plain", *(f"plain-{number}" for number in range(2, 7))}


# the form's own buttons


@pytest.mark.parametrize(
    ("step", "field", "before", "after"),
    [
        ("gpus+1", "gpus", "1", "2"),
        ("gpus-1", "gpus", "1", "0"),
        ("gpus-1", "gpus", "0", "0"),
        ("nodes-1", "nodes", "1", "1"),
        ("nodes+1", "nodes", "", "1"),
        ("gpus+1", "gpus", "abc", "1"),
        ("gpus+9", "gpus", "1", "1"),
        ("remove-env-²", "gpus", "1", "1"),
        ("remove-env-" + "9" * 5000, "gpus", "1", "1"),
        ("", "gpus", "1", "1"),
    ],
)
def test_a_press_on_a_stepper(portal: Portal, bob: Browser, step: str, field: str, before: str, after: str) -> None:
    answer = bob.post(f"{FORM}/draft", filled(bob, **{"command": "kept", field: before, "step": step}))
    assert answer.status_code == 200
    shown = bob.form("/new-job")
    assert shown[field] == after
    assert shown["command"] == "kept"
    assert how_many(portal) == 0


def rows(browser: Browser) -> list[tuple[str, str]]:
    names = browser.page.find_all("input", {"name": "env-name"})
    values = browser.page.find_all("input", {"name": "env-value"})
    return [(str(n.get("value", "")), str(v.get("value", ""))) for n, v in zip(names, values, strict=True)]


def test_variables_are_added_and_removed(bob: Browser) -> None:
    fields = {**filled(bob), "env-name": ["A", "B"], "env-value": ["1", "2"]}
    bob.post(f"{FORM}/draft", {**fields, "step": "add-env"})
    assert rows(bob) == [("A", "1"), ("B", "2"), ("", "")]
    bob.post(f"{FORM}/draft", {**fields, "step": "remove-env-0"})
    assert rows(bob) == [("B", "2"), ("", "")]


def test_another_preset_brings_its_defaults_where_nothing_was_typed(bob: Browser, world: World) -> None:
    world.machine(gpus=2)
    bob.post(f"{FORM}/draft", filled(bob, preset="plain") | {"preset": "digits"})
    shown = bob.form("/new-job")
    assert shown["preset"] == shown["shown"] == "digits"
    assert (shown["command"], shown["gpus"], shown["max_runtime"]) == ("python train.py", "1", "10m")
    assert shown["name"] == "digits"


def test_another_preset_leaves_what_was_typed(bob: Browser) -> None:
    fields = filled(bob, preset="plain", command="mine", name="my-name", max_runtime="7m")
    bob.post(f"{FORM}/draft", {**fields, "preset": "digits", "env-name": ["A"], "env-value": ["1"]})
    shown = bob.form("/new-job")
    assert (shown["command"], shown["name"], shown["max_runtime"]) == ("mine", "my-name", "7m")
    assert shown["gpus"] == "1"  # nobody touched it
    assert rows(bob)[0] == ("A", "1")


def test_a_draft_tells_what_is_wrong_but_not_that_the_command_is_still_empty(portal: Portal, bob: Browser) -> None:
    portal.launch("taken")
    bob.post(f"{FORM}/draft", filled(bob, name="taken", nodes="7"))
    assert wrong_fields(bob) == {"name", "nodes"}
    assert sentence(bob, "name") == "The name taken is taken in this org. taken-2 is free."


def test_the_fragment_is_the_inside_of_the_form(bob: Browser) -> None:
    fields = filled(bob, command="true", gpus="x")
    page = bob.post(f"{FORM}/draft", fields)
    inside = bob.page.find(id="launch-form")
    fragment = bob.post(f"{FORM}/draft-fragment", fields)
    assert fragment.status_code == 200
    assert "<html" not in fragment.text
    assert bob.page.find(id="launch-form") == inside
    assert page.status_code == 200


def test_the_summary_says_what_will_run_and_whether_it_starts_now(portal: Portal, bob: Browser, world: World) -> None:
    bob.post(f"{FORM}/draft", filled(bob, command="true"))
    assert "Starts now on this-machine" in bob.text()
    portal.launch("first")
    bob.post(f"{FORM}/draft", filled(bob, command="true"))
    assert "1 job waits before it for the same" in bob.text()


# once more


def test_run_again_makes_the_same_job_under_a_new_name(portal: Portal, bob: Browser) -> None:
    portal.launch("old", command="echo 'a  b'", nodes=2, env={"A": "1"}, max_runtime="7m")
    bob.get("/orgs/lab/jobs/old")
    fields = bob.form("/again")
    answer = bob.post("/orgs/lab/jobs/old/again", fields)
    assert answer.status_code == 303
    new = portal.job(answer.location.rsplit("/", 1)[1])
    old = portal.job("old")
    assert new.name != "old"
    assert new.spec == old.spec
    assert (new.cluster_id, new.preset_version_id) == (old.cluster_id, old.preset_version_id)
    assert bob.post("/orgs/lab/jobs/old/again", fields).location == answer.location  # a double click
    assert how_many(portal) == 2


def test_run_again_keeps_an_argv_exactly(portal: Portal, bob: Browser) -> None:
    argv = ("python", "-c", "print('a b')\n", "", '--x="$HOME"', "é\t")
    portal.launch("argv", command=argv)
    place = bob.post("/orgs/lab/jobs/argv/again").location
    assert portal.job(place.rsplit("/", 1)[1]).spec["command"] == list(argv)


def test_run_again_of_what_is_not_allowed_any_more_opens_the_form_with_the_sentence(
    portal: Portal, bob: Browser, world: World
) -> None:
    portal.launch("big", nodes=4)
    world.import_presets("{name: plain, image: x, nodes: {default: 1, max: 2}}")
    assert bob.post("/orgs/lab/jobs/big/again").status_code == 422
    assert sentence(bob, "nodes") == "The preset plain allows up to 2 nodes. Take fewer, or ask an owner."
    assert bob.form("/new-job")["nodes"] == "4"


def test_edit_and_run_opens_filled_in_with_the_job(portal: Portal, bob: Browser, world: World) -> None:
    portal.launch("old", command="echo hi", nodes=2, env={"A": "1"}, max_runtime="7m")
    bob.get(f"{FORM}?from=old")
    shown = bob.form("/new-job")
    assert (shown["command"], shown["nodes"], shown["max_runtime"]) == ("echo hi", "2", "7m")
    assert shown["name"] == "old-2"
    assert rows(bob)[0] == ("A", "1")
    assert "filled in from old" in bob.text()
    assert bob.post(FORM, shown | {"env-name": ["A"], "env-value": ["1"]}).status_code == 303
    assert portal.job("old-2").spec == portal.job("old").spec


def test_edit_and_run_shows_an_argv_as_the_shell_line_that_gives_it(portal: Portal, bob: Browser) -> None:
    portal.launch("argv", command=("echo", "a b", "$X"))
    bob.get(f"{FORM}?from=argv")
    assert bob.form("/new-job")["command"] == "echo 'a b' '$X'"


def test_edit_and_run_of_a_job_that_is_not_there_or_not_ours_is_not_found(portal: Portal, bob: Browser) -> None:
    portal.launch("theirs", "mallory")
    assert bob.get(f"{FORM}?from=theirs").status_code == 404
    assert bob.get(f"{FORM}?from=nothing").status_code == 404
    assert bob.post("/orgs/lab/jobs/theirs/again").status_code == 404
