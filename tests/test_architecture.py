"""Who may import whom. Each rule is a sentence of docs/decisions or design.md, read off the syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from app.config import REPOSITORY

APP = REPOSITORY / "app"
FILES = sorted(APP.rglob("*.py"))
FEATURES = sorted(path.parent.name for path in APP.glob("*/service.py"))


@dataclass(frozen=True)
class Import:
    importer: str  # app.jobs.routes
    imported: str  # app.jobs.service, or sqlalchemy.orm
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def name_of(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file) for file in FILES}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(file: Path) -> list[Import]:
    """Every import of a file, inside functions too. `from app.jobs import service` is one of app.jobs.service."""
    importer, found = name_of(file), []
    package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found += [Import(importer, alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append(Import(importer, inner if inner in MODULES else base, node.lineno))
    return found


ALL = [each for file in FILES for each in imports(file)]


def below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def told(found: list[Import]) -> str:
    return "\n" + "\n".join(map(str, found))


def test_the_files_are_read() -> None:
    assert len(FILES) > 60
    assert {"accounts", "orgs", "presets", "jobs", "clusters", "logs", "installation"} <= set(FEATURES)
    assert any(each.imported == "app.jobs.service" and each.importer == "app.jobs.routes" for each in ALL)
    assert any(each.importer == "app.cluster.local.shim.main" and below(each.imported, "app") for each in ALL)


# the border to the clusters


OPERATOR = "app.clusters.cli"  # the operator's command tries a cluster before it is used, with the worker's means


def test_only_the_worker_imports_cluster_implementations() -> None:
    """Web and services see the protocol. Pure manifests are for pages too: they talk to no cluster."""
    pure = ("app.cluster.kubernetes.manifests",)
    found = [
        each
        for each in ALL
        if below(each.imported, "app.cluster.local", "app.cluster.kubernetes")
        and not below(each.importer, "app.worker", "app.cluster", OPERATOR)
        and each.imported not in pure
    ]
    assert not found, told(found)


def test_the_manifests_that_pages_show_talk_to_no_cluster() -> None:
    """What a page imports must not bring a client, a thread or a socket along."""
    seen: set[str] = set()
    waiting = ["app.cluster.kubernetes.manifests"] if "app.cluster.kubernetes.manifests" in MODULES else []
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting += [each.imported for each in ALL if each.importer == name and each.imported in MODULES - seen]
    outside = [
        each for each in ALL if each.importer in seen and below(each.imported, "kubernetes", "socket", "urllib3")
    ]
    assert not outside, told(outside)
    assert seen <= {f"app.cluster.{name}" for name in ("kubernetes.manifests", "kubernetes.names", "protocol")}


def test_only_the_kubernetes_cluster_imports_kubernetes() -> None:
    found = [
        each
        for each in ALL
        if below(each.imported, "kubernetes", "urllib3", "ssl") and not below(each.importer, "app.cluster.kubernetes")
    ]
    assert not found, told(found)


def test_clusters_know_no_web_no_database_and_no_feature() -> None:
    found = [
        each
        for each in ALL
        if below(each.importer, "app.cluster")
        and (
            below(each.imported, "flask", "werkzeug", "jinja2", "sqlalchemy", "flask_sqlalchemy", "alembic")
            or (below(each.imported, "app") and not below(each.imported, "app.cluster"))
        )
    ]
    assert not found, told(found)


def test_the_two_kinds_of_cluster_know_nothing_of_each_other() -> None:
    found = [
        each
        for each in ALL
        if (below(each.importer, "app.cluster.kubernetes") and below(each.imported, "app.cluster.local"))
        or (below(each.importer, "app.cluster.local") and below(each.imported, "app.cluster.kubernetes"))
    ]
    assert not found, told(found)


def test_nothing_but_the_command_imports_the_worker() -> None:
    found = [
        each
        for each in ALL
        if below(each.imported, "app.worker")
        and not below(each.importer, "app.worker")
        and each.importer not in ("app.commands", OPERATOR)
    ]
    assert not found, told(found)


WEB = """
import sys
from app import create_app
from app.config import Config
from pathlib import Path
app = create_app(Config(data_dir=Path(sys.argv[1])))
assert app.test_client().get("/healthz").status_code == 200
print(*sorted(sys.modules))
"""


def test_the_web_process_loads_no_cluster_and_no_worker(tmp_path: Path) -> None:
    """Whatever a command imports, it imports when it is run: the web stays small and holds no client."""
    run = subprocess.run(
        [sys.executable, "-c", WEB, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(run.stdout.split())
    assert "app.jobs.routes" in loaded
    heavy = ("kubernetes", "urllib3", "pynvml", "nacl", "app.worker", "app.cluster.local", "app.firstrun")
    assert not {name for name in loaded if below(name, *heavy)}
    kept = {"app.cluster.kubernetes", "app.cluster.kubernetes.manifests", "app.cluster.kubernetes.names"}
    assert {name for name in loaded if below(name, "app.cluster.kubernetes")} <= kept


# features

# What a feature shows to the rest of app/. Everything has a service; beside it:
OPEN = {
    "accounts": {"access"},  # the gate: who is asking, and the mark `public`
    "orgs": {"access", "models"},  # the gate, and Org and Role, which signatures speak of
    "clusters": {"settings"},  # what a row of a cluster says to its implementation; pure
    "logs": {"view"},  # how a log is drawn; the page of a job shows it
    "presets": {"content"},  # what a preset says; pure, checked in the form as in the file
}
# The worker writes the rows of these; nobody else does. Epoch and kinds are its own business.
WORKER = {
    "jobs": {"models", "states", "spec"},
    "accounts": {"models"},
    "installation": {"models"},
    "clusters": {"models"},
}
# create_app() puts everything together on one screen, commands the groups of all features.
ASSEMBLY = {
    "app": {"accounts": {"routes"}, "jobs": {"routes", "api"}, "installation": {"keys"}},
    "app.commands": {feature: {"cli"} for feature in FEATURES},
    "app.components": {"jobs": {"view", "preview"}},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_is_reached_through_its_service(feature: str) -> None:
    found = []
    for each in ALL:
        if not below(each.imported, f"app.{feature}") or below(each.importer, f"app.{feature}"):
            continue
        part = each.imported.removeprefix(f"app.{feature}").removeprefix(".")
        allowed = {"service"} | OPEN.get(feature, set()) | ASSEMBLY.get(each.importer, {}).get(feature, set())
        if below(each.importer, "app.worker"):
            allowed |= WORKER.get(feature, set())
        if part not in allowed:
            found.append(each)
    assert not found, told(found)


def test_no_exception_is_kept_that_nobody_needs() -> None:
    used = {each.imported for each in ALL}
    for feature, parts in [
        *OPEN.items(),
        *WORKER.items(),
        *ASSEMBLY["app"].items(),
        *ASSEMBLY["app.components"].items(),
    ]:
        for part in parts:
            assert f"app.{feature}.{part}" in used


ORDER = ["installation", "audit", "accounts", "orgs", "presets", "clusters", "logs", "jobs", "retention"]


def test_features_depend_on_each_other_in_one_direction() -> None:
    """A feature imports only those that stand before it: no circle, and the product can be read in this order.

    Left out are the commands, which are the operator's hands and reach for whatever they need, and the page of one's
    account, which lists the orgs that one is in.
    """
    assert sorted(ORDER) == FEATURES
    found = []
    for each in ALL:
        importer, imported = each.importer.split(".")[1:2], each.imported.split(".")[1:2]
        if below(each.imported, "app") and importer and imported and importer != imported:
            first, second = importer[0], imported[0]
            if not {first, second} <= set(ORDER) or each.importer.endswith(".cli"):
                continue
            if ORDER.index(second) > ORDER.index(first) and each.importer != "app.accounts.routes":
                found.append(each)
    assert not found, told(found)


def test_services_and_models_know_no_pages() -> None:
    """Routes call services, never the other way round; so commands, the API and the worker can call them too."""
    found = [
        each
        for each in ALL
        if each.importer.rpartition(".")[2] in ("service", "models", "content", "states", "spec", "secrets")
        and (
            below(each.imported, "wtforms", "flask_wtf", "jinja2", "werkzeug")
            or each.imported.rpartition(".")[2] in ("routes", "forms", "api", "view", "cli")
        )
    ]
    assert not found, told(found)


def test_only_the_researchers_command_line_could_be_taken_out_alone() -> None:
    """cli/ speaks HTTP and imports nothing of app/; app/ imports nothing of cli/, tests/ or migrations/."""
    found = [each for each in ALL if below(each.imported, "cli", "tests", "migrations", "wsgi")]
    for file in sorted((REPOSITORY / "cli").rglob("*.py")):
        found += [each for each in imports(file) if below(each.imported, "app")]
    assert not found, told(found)


# processes that must stay small, or work on any Python


@pytest.mark.parametrize("package", ["app.supervisor", "app.cluster.local.shim"])
def test_what_outlives_the_portal_needs_the_standard_library_alone(package: str) -> None:
    mine = [each for each in ALL if below(each.importer, package)]
    assert mine
    found = [
        each
        for each in mine
        if each.imported.split(".")[0] not in sys.stdlib_module_names and not below(each.imported, package)
    ]
    assert not found, told(found)


# the environment

READERS = {
    "app.config": "the settings, all of them",
    "app.commands": "hands the whole environment on to the process that it becomes",
    "app.supervisor": "hands it on to its children; it imports nothing of the portal",
    "app.installation.programs": "hands it on to PostgreSQL's own programs, with where the database is",
    "app.cluster.faults": "where a test has the process killed; no setting",
    "app.cluster.local.cluster": "takes from it what a job may see",
    "app.cluster.kubernetes.kubeconfig": "where the cluster is whose pod this runs in, which Kubernetes says so",
}


def test_only_the_settings_read_the_environment() -> None:
    readers = set()
    for file in FILES:
        for node in ast.walk(tree(file)):
            attribute = isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv")
            imported = (
                isinstance(node, ast.ImportFrom)
                and node.module == "os"
                and {a.name for a in node.names}
                & {
                    "environ",
                    "getenv",
                }
            )
            if attribute or imported:
                readers.add(name_of(file))
    assert readers <= set(READERS), readers - set(READERS)
    assert set(READERS) - readers <= {"app.cluster.kubernetes.kubeconfig"}


# names and first lines


def test_no_module_is_named_for_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc", "base", "lib", "tools"}
    assert not {name for name in MODULES if name.rpartition(".")[2].strip("_") in vague}


USUAL = {"routes", "api", "forms", "service", "models", "cli"}  # of a feature, whose folder says what it is for


def test_every_module_says_what_it_is_for() -> None:
    silent = []
    for file in FILES:
        text = ast.get_docstring(tree(file))
        usual = file.stem in USUAL and file.parent.name in FEATURES
        if text is None and not usual:
            silent.append(name_of(file))
        assert text is None or text.strip().splitlines()[0].rstrip().endswith((".", ":", "…", "?")), f"{file}: {text}"
    assert not silent


def test_modules_are_small_enough_to_be_read_at_once() -> None:
    assert not {name_of(file): n for file in FILES if (n := len(file.read_text().splitlines())) > 600}
