"""Importing presets: the same file changes nothing, a bad one changes nothing and says where it is bad."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import select

from app.database import db
from app.orgs.models import Org
from app.presets.models import Preset, PresetVersion
from tests.conftest import PRESETS, Portal

GOOD = """
name: pytorch
kind: training
image: registry.example/pytorch:2.9
command: python train.py
cpu: "4"
memory: 16Gi
shm: 2Gi
gpus: {default: 1, max: 8}
nodes: {default: 1, max: 4}
gpu_types: [H100]
env: {OMP_NUM_THREADS: "4"}
volumes: [{claim: datasets, path: /data, read_only: true}]
clusters: [berlin]
max_runtime: 24h
description: One sentence for the form.
"""


@pytest.fixture
def load(portal: Portal, tmp_path: Path) -> Any:
    def with_text(text: str | bytes, org: str = "lab") -> Result:
        file = tmp_path / "presets.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return portal.command("presets", "import", str(file), "--org", org)

    return with_text


def versions(portal: Portal, org: str = "lab") -> dict[str, list[int]]:
    rows = portal.read(
        lambda: db.session.execute(
            select(Preset.name, PresetVersion.number)
            .join(PresetVersion, PresetVersion.preset_id == Preset.id)
            .join(Org, Org.id == Preset.org_id)
            .where(Org.slug == org)
            .order_by(Preset.name, PresetVersion.number)
        ).all()
    )
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row.name, []).append(row.number)
    return found


def test_the_preset_of_the_design_is_taken_whole(portal: Portal, load: Any) -> None:
    said = load(GOOD)
    assert said.exit_code == 0, said.output
    assert said.stdout == "pytorch: made\n"
    listed = portal.api("bob").get("/api/presets").get_json()["presets"]
    (seen,) = [each for each in listed if each["name"] == "pytorch"]
    assert seen == {
        "name": "pytorch",
        "kind": "training",
        "image": "registry.example/pytorch:2.9",
        "command": "python train.py",
        "cpu": "4",
        "memory": "16Gi",
        "shm": "2Gi",
        "gpus": {"default": 1, "max": 8},
        "nodes": {"default": 1, "max": 4},
        "gpu_types": ["H100"],
        "env": {"OMP_NUM_THREADS": "4"},
        "volumes": [{"claim": "datasets", "path": "/data", "read_only": True}],
        "clusters": ["berlin"],
        "max_runtime": "24h",
        "description": "One sentence for the form.",
        "version": 1,
    }


def test_the_same_file_again_changes_nothing(portal: Portal, load: Any) -> None:
    before = versions(portal)
    said = load(PRESETS)
    assert said.stdout == "plain: unchanged\ndigits: unchanged\n"
    assert versions(portal) == before == {"plain": [1], "digits": [1]}


def test_a_changed_preset_gets_a_version_and_jobs_keep_theirs(portal: Portal, load: Any) -> None:
    job = portal.launch("before")
    said = load(PRESETS.replace("plain:1", "plain:2"))
    assert said.stdout == "plain: now at version 2\ndigits: unchanged\n"
    assert versions(portal)["plain"] == [1, 2]
    api = portal.api("bob")
    assert api.get("/api/jobs/before").get_json()["preset_version"] == 1
    assert portal.job("before").preset_version_id == job.preset_version_id
    portal.launch("after")
    assert api.get("/api/jobs/after").get_json()["preset_version"] == 2
    # and back again is a third one
    assert "now at version 3" in load(PRESETS).stdout


def test_an_import_touches_no_other_org(portal: Portal, load: Any) -> None:
    load(PRESETS.replace("plain:1", "plain:2"))
    load(GOOD)
    assert versions(portal, "rivals") == {"plain": [1], "digits": [1]}


def test_one_bad_preset_leaves_the_whole_file_out(portal: Portal, load: Any) -> None:
    before = versions(portal)
    said = load(f"{GOOD}\n---\n{PRESETS.replace('plain:1', 'plain:2')}\n---\nname: bad\n")
    assert said.exit_code == 1
    assert versions(portal) == before


def changed(**fields: str) -> str:
    """GOOD with some lines replaced, or taken out where the text is empty."""
    text = GOOD
    for name, value in fields.items():
        line = f"{name}: {value}\n" if value else ""
        text = re.sub(rf"(?m)^{name}:.*\n", lambda _, line=line: line, text)  # type: ignore[misc]
    return text


BAD = {
    "not a mapping": ("- a\n- b\n", "Document 1 is not a preset"),
    "a scalar": ("hello", "Document 1 is not a preset"),
    "nothing": ("# nothing\n---\n", "The file holds no preset"),
    "no name": (changed(name=""), "name"),
    "no image": (changed(image=""), "Preset pytorch, image"),
    "an empty image": (changed(image='""'), "Preset pytorch, image"),
    "a service": (changed(kind="service"), "Preset pytorch, kind: presets of kind service are not built yet"),
    "another kind": (changed(kind="batch"), "Preset pytorch, kind"),
    "an unknown field": (GOOD + "prority: 3\n", "Preset pytorch, prority"),
    "an unknown field inside": (changed(gpus="{default: 1, max: 8, min: 0}"), "Preset pytorch, gpus.min"),
    "a bool as a number": (changed(gpus="{default: true, max: 8}"), "Preset pytorch, gpus.default"),
    "a text as a number": (changed(gpus='{default: "1", max: 8}'), "Preset pytorch, gpus.default"),
    "a fraction": (changed(gpus="{default: 1.5, max: 8}"), "Preset pytorch, gpus.default"),
    "a negative number": (changed(gpus="{default: -1, max: 8}"), "Preset pytorch, gpus.default"),
    "too large a number": (changed(gpus="{default: 1, max: 1000000000}"), "Preset pytorch, gpus.max"),
    "a default above the maximum": (changed(gpus="{default: 9, max: 8}"), "Preset pytorch, gpus: the default is above"),
    "no node": (changed(nodes="{default: 0, max: 4}"), "Preset pytorch, nodes: a job has at least one node"),
    "a number as a quantity": (changed(cpu="4"), "Preset pytorch, cpu"),
    "a wrong unit": (changed(memory="16GB"), "Preset pytorch, memory: write a Kubernetes quantity"),
    "a negative quantity": (changed(memory='"-1Gi"'), "Preset pytorch, memory"),
    "an exponent": (changed(cpu='"1e2"'), "Preset pytorch, cpu"),
    "wide digits": (changed(cpu='"１"'), "Preset pytorch, cpu"),
    "an empty quantity": (changed(cpu='""'), "Preset pytorch, cpu"),
    "a quantity with a line": (changed(cpu='"1\\n"'), "Preset pytorch, cpu"),
    "a number as a variable": (changed(env="{A: 4}"), "Preset pytorch, env.A"),
    "a variable that cannot be": (changed(env='{1A: "4"}'), "Preset pytorch, env: '1A' cannot be the name"),
    "NUL in a variable": (changed(env='{A: "a\\0b"}'), "Preset pytorch, env.A: the character NUL"),
    "NUL in a command": (changed(command='"a\\0b"'), "NUL"),
    "numbers in a command": (changed(command="[python, 1]"), "Preset pytorch, command: write a string for /bin/sh -c"),
    "a mapping as a command": (changed(command="{a: b}"), "Preset pytorch, command: write a string for /bin/sh -c"),
    "NUL in an argument": (changed(command='[python, "a\\0b"]'), "Preset pytorch, command: the character NUL"),
    "a long argument": (changed(command=f"[python, {'x' * 100_001}]"), "command: write at most 100,000 characters"),
    "a number as GPUs": (changed(gpus="8"), "Preset pytorch, gpus: write {default: 1, max: 8}"),
    "a path as volumes": (changed(volumes="/data"), "Preset pytorch, volumes: write a list"),
    "paths as volumes": (changed(volumes="[/data]"), "Preset pytorch, volumes.0: write {claim: datasets"),
    "a list as variables": (changed(env="[A, B]"), "Preset pytorch, env: write names with values"),
    "a word as read_only": (
        changed(volumes='[{claim: a, path: /a, read_only: "1"}]'),
        "read_only: write true or false",
    ),
    "a date as a description": (changed(description="2026-01-02"), "only in quotes"),
    "half a character": (changed(description='"\\ud800"'), "Preset pytorch, description"),
    "half a character in a path": (changed(volumes='[{claim: a, path: "/\\ud800"}]'), "volumes.0.path"),
    "a relative path": (changed(volumes="[{claim: a, path: data}]"), "Preset pytorch, volumes.0.path"),
    "a claim with a line": (changed(volumes='[{claim: "a\\n", path: /data}]'), "Preset pytorch, volumes.0.claim"),
    "no limit": (changed(max_runtime="forever"), "Preset pytorch, max_runtime: Write a number with its unit"),
    "a limit of nothing": (changed(max_runtime="0s"), "Preset pytorch, max_runtime"),
    "a bare number as a limit": (changed(max_runtime="24"), "Preset pytorch, max_runtime"),
    "an upper-case name": (changed(name="PyTorch"), "Preset PyTorch, name: a name is 1 to 63 lower-case"),
    "a name with a line": (changed(name='"pytorch\\n"'), "name: a name is"),
    "a long description": (changed(description="x" * 301), "Preset pytorch, description"),
    "a name twice": (f"{GOOD}\n---\n{GOOD}", "The preset pytorch stands in the file more than once"),
    "a key twice": (GOOD + "image: other\n", "the key 'image' stands twice"),
    "a key twice inside": (changed(env='{A: "1", A: "2"}'), "the key 'A' stands twice"),
    "an alias": ("name: &a x\nimage: *a\n", "aliases"),
    "a python object": ("name: !!python/object/apply:os.system [id]\nimage: x\n", "not YAML that can be used"),
    "an open bracket": ("name: [a\n", "not YAML that can be used"),
    "a tab": ("name:\tx\n\tb: c\n", "not YAML that can be used"),
    "an empty whole number": ('name: x\ngpus: !!int ""\n', "not YAML that can be used"),
    "an empty fraction": ('name: x\ngpus: !!float ""\n', "not YAML that can be used"),
    "no bool": ("name: x\ngpus: !!bool maybe\n", "not YAML that can be used"),
    "no time": ("name: x\ngpus: !!timestamp never\n", "not YAML that can be used"),
    "a day that is not": ("name: x\ndescription: 2026-13-45\n", "not YAML that can be used"),
    "a list as a key": ("? [a, b]\n: c\n", "not YAML that can be used"),
    "a number as a key": ("1: a\nname: x\nimage: y\n", "Preset x, 1"),
    "a thousand brackets": ("name: " + "[" * 3000, "not YAML that can be used"),
    "more than 1 MiB": ("# " + "x" * (1 << 20), "larger than 1 MiB"),
    "NUL": ("name: a\0b\n", "not YAML that can be used"),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_with_a_sentence_that_names_the_field(
    portal: Portal, load: Any, text: tuple[str, str]
) -> None:
    before = versions(portal)
    said = load(text[0])
    assert said.exit_code == 1
    assert text[1] in said.stderr
    assert said.stdout == ""
    # a sentence of ours, and not what a library says to programmers
    assert not re.search(r"Traceback|0x[0-9a-f]+|Input should|not permitted|should match|\.\.$", said.output, re.M)
    assert isinstance(said.exception, SystemExit)
    assert versions(portal) == before


def test_a_file_that_is_not_text_is_refused(load: Any) -> None:
    said = load(b"name: \xff\xfe\n")
    assert said.exit_code == 1
    assert isinstance(said.exception, SystemExit)


def test_an_alias_bomb_is_refused_at_once(portal: Portal, load: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    began = time.process_time()
    said = load("name: bomb\nimage: x\n" + "\n".join(lines))
    assert said.exit_code == 1
    assert "aliases" in said.stderr
    assert time.process_time() - began < 2


def test_an_unknown_org_or_file_is_named(portal: Portal, load: Any, tmp_path: Path) -> None:
    said = load(GOOD, org="nowhere")
    assert said.exit_code == 1
    assert "There is no org nowhere." in said.stderr
    missing = portal.command("presets", "import", str(tmp_path / "missing.yaml"), "--org", "lab")
    assert missing.exit_code == 2
    assert "missing.yaml" in missing.stderr


def test_a_retired_preset_comes_back_with_the_same_file(portal: Portal, load: Any) -> None:
    from app.database import now

    with portal.app.app_context():
        db.session.query(Preset).filter_by(name="plain").update({"retired_at": now()})
        db.session.commit()
    api = portal.api("bob")
    assert api.post("/api/jobs", json={"preset": "plain", "command": "true"}).status_code == 422
    assert load(PRESETS).exit_code == 0
    assert api.post("/api/jobs", json={"preset": "plain", "command": "true"}).status_code == 201


def test_the_example_is_a_preset_that_can_be_imported(portal: Portal) -> None:
    from app.firstrun import EXAMPLE

    said = portal.command("presets", "import", str(EXAMPLE), "--org", "lab")
    assert said.exit_code == 0, said.output
