"""The operator's commands for orgs."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from app.database import db
from app.orgs.models import Org
from tests.conftest import Portal


def orgs(portal: Portal) -> dict[str, str]:
    return {row.slug: row.name for row in portal.read(lambda: db.session.execute(select(Org.slug, Org.name)).all())}


def test_an_org_is_made_and_says_what_to_do_next(portal: Portal) -> None:
    said = portal.command("orgs", "create", "vision-2", "--name", "Vision Group")
    assert said.exit_code == 0
    assert "users create EMAIL --org vision-2" in said.stdout
    assert orgs(portal)["vision-2"] == "Vision Group"
    portal.command("users", "create", "zoe@example.org", "--org", "vision-2")
    zoe = portal.browser("zoe")
    assert zoe.get("/").location == "/orgs/vision-2/"
    assert zoe.get("/orgs/vision-2/jobs").status_code == 200


def test_an_org_without_a_name_is_called_like_its_slug(portal: Portal) -> None:
    for slug, name in (("a", ""), ("bb", "   ")):
        assert portal.command("orgs", "create", slug, "--name", name).exit_code == 0
        assert orgs(portal)[slug] == slug


def test_an_org_is_not_made_twice(portal: Portal) -> None:
    said = portal.command("orgs", "create", "lab", "--name", "Another")
    assert said.exit_code == 1
    assert "There is an org lab already." in said.stderr
    assert orgs(portal)["lab"] == "lab"


@pytest.mark.parametrize(
    "slug", ["", "Lab", "1st", "-a", "a-", "a_b", "a.b", "a/b", "a b", "ä", "lab\n", "x" * 41, "..", "\udcff", "ａ"]
)
def test_a_slug_that_cannot_be_is_refused_with_a_sentence(portal: Portal, slug: str) -> None:
    before = orgs(portal)
    said = portal.command("orgs", "create", "--", slug)
    assert said.exit_code == 1
    assert "A slug is 1 to 40" in said.stderr
    assert orgs(portal) == before


def test_a_name_that_is_too_long_is_refused(portal: Portal) -> None:
    said = portal.command("orgs", "create", "long", "--name", "x" * 101)
    assert said.exit_code == 1
    assert "100 characters" in said.stderr
    assert "long" not in orgs(portal)


@pytest.mark.parametrize("name", ["two\nlines", "a bell\a", "\x1b[31mred"])
def test_the_name_of_an_org_is_one_line_to_read(portal: Portal, name: str) -> None:
    said = portal.command("orgs", "create", "new", "--name", name)
    assert said.exit_code == 1
    assert "one line" in said.stderr
    assert "new" not in orgs(portal)
