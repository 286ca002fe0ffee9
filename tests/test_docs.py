"""The README is held to the truth: folders, settings and commands are there, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from app.config import REPOSITORY, settings
from tests.conftest import Portal

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_setting_has_its_row_with_its_default_and_meaning() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", README, re.M))
    assert set(rows) == {name for name, _, _ in settings()}
    for name, default, text in settings():
        assert rows[name].endswith(f"| {text}"), name
        if isinstance(default, int) and not isinstance(default, bool):
            assert rows[name].startswith(f"`{default}`"), name


def test_every_folder_of_the_application_is_named() -> None:
    folders = {path.name for path in (REPOSITORY / "app").iterdir() if path.is_dir() and path.name != "__pycache__"}
    named = set(re.findall(r"`app/([a-z]+)/`", README))
    assert named >= folders


def test_every_file_that_the_documents_name_exists() -> None:
    for document in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:app|tests|docs|migrations|examples|k8s)/[\w/.-]+\.\w+)`", text):
            assert (REPOSITORY / path).exists(), f"{document.name} names {path}"
        for path in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text):
            assert (document.parent / path).exists(), f"{document.name} links to {path}"


def test_every_command_of_the_operator_is_in_the_readme(portal: Portal) -> None:
    def names(group: click.Group, before: str = "") -> list[str]:
        found = []
        for name, command in group.commands.items():
            found += names(command, f"{name} ") if isinstance(command, click.Group) else [before + name]
        return found

    ours = [name for name in names(portal.app.cli) if not name.startswith("db ")]
    for name in ours:
        assert f"`{name}" in README or f", `{name}" in README, name


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docs" / "decisions").glob("0*.md")), ids=lambda path: path.stem)
def test_every_decision_is_in_the_list_of_decisions(path: Path) -> None:
    index = (REPOSITORY / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    assert f"({path.name})" in index
    assert path.read_text(encoding="utf-8").startswith(f"# {path.stem[:4]}: ")


def test_no_document_names_a_package_index() -> None:
    for path in (REPOSITORY / "requirements").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert "://" not in re.sub(r"^\s*#.*$", "", text, flags=re.M)
        assert "--index-url" not in text
