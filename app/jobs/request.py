"""What somebody asks to run, checked against a preset and the clusters: one set of rules for the form and the API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app import durations
from app.cluster.protocol import JobSpec, Volume
from app.clusters import service as clusters
from app.clusters.service import ClusterKind, ClusterRow, GpuPool
from app.presets.content import ENV_NAME, NAME, NAME_RULE
from app.presets.service import PresetView

COMMAND_LIMIT = 131_071  # bytes of one argument: Linux's MAX_ARG_STRLEN less the closing NUL
ENV_LIMIT = 262_144  # bytes of all variables: what a Kubernetes object and an execve still take with ease


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """None means: as the preset says, or as the portal chooses."""

    preset: str
    command: str | tuple[str, ...] | None = None
    gpus: int | None = None
    nodes: int | None = None
    name: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cluster: str | None = None
    max_runtime: str | None = None
    gpu_type: str | None = None

    def digest(self) -> bytes:
        """The same for requests that ask for the same."""
        asked = {
            "preset": self.preset,
            "command": self.command,
            "gpus": self.gpus,
            "nodes": self.nodes,
            "name": self.name,
            "env": dict(self.env),
            "cluster": self.cluster,
            "max_runtime": self.max_runtime,
            "gpu_type": self.gpu_type,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8", "surrogatepass")).digest()


class LaunchRefused(Exception):
    """What was asked cannot run. `errors` has a sentence for each field that is wrong; nothing was kept."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in errors.items()))
        self.errors = dict(errors)


def resolve(asked: LaunchRequest, preset: PresetView | None, usable: list[ClusterRow]) -> tuple[JobSpec, ClusterRow]:
    """The exact thing that will run, and where. Raises LaunchRefused with every error at once."""
    if preset is None:
        raise LaunchRefused({"preset": f"There is no preset {_short(asked.preset)} in this org. Pick one of the list."})
    errors: dict[str, str] = {}
    content = preset.content

    command = _command(asked.command, content.command, errors)
    gpus = _count("gpus", asked.gpus, content.gpus.default, 0, content.gpus.max, preset.name, errors)
    nodes = _count("nodes", asked.nodes, content.nodes.default, 1, content.nodes.max, preset.name, errors)
    env = _env(asked.env, content.env, errors)
    limit = _max_runtime(asked.max_runtime, content.max_seconds, preset.name, errors)
    if asked.name and not NAME.fullmatch(asked.name):
        errors["name"] = f"A name is {NAME_RULE}."
    where = _clusters(asked.cluster, content.clusters, usable, preset.name, errors)
    types = _gpu_types(asked.gpu_type, content.gpu_types, preset.name, errors)
    if where and not errors.keys() & {"gpus", "nodes", "gpu_type"}:
        where = _that_could_fit(where, gpus, nodes, types, errors)
    if errors:
        raise LaunchRefused(errors)
    spec = JobSpec(
        image=content.image,
        command=command,
        gpus=gpus,
        nodes=nodes,
        max_runtime=limit,
        cpu=content.cpu,
        memory=content.memory,
        shm=content.shm,
        gpu_types=types,
        env=env,
        volumes=tuple(Volume(each.claim, each.path, each.read_only) for each in content.volumes),
    )
    # this machine last: a preset is about an image, which is not used there
    return spec, min(where, key=lambda row: (not fits_now(row, spec), row.kind is ClusterKind.LOCAL, row.id))


def allowed_clusters(preset: PresetView, usable: list[ClusterRow]) -> list[ClusterRow]:
    """Those that take jobs and that the preset allows."""
    wanted = preset.content.clusters
    return [row for row in usable if not row.refused and (not wanted or row.name in wanted)]


def fits_now(row: ClusterRow, spec: JobSpec) -> bool:
    """Whether a job would start at once, as far as the worker's last look tells."""
    seen = clusters.capacity(row)
    if seen is None or clusters.silent_since(row):
        return False
    if spec.gpus == 0:
        return seen.cpu_slots_free is None or seen.cpu_slots_free > 0
    return any(
        pool.free >= spec.gpus * spec.nodes and pool.most_free_on_one_node >= spec.gpus
        for pool in _of_types(seen.gpus, spec.gpu_types)
    )


def _of_types(pools: Iterable[GpuPool], types: Collection[str]) -> list[GpuPool]:
    return [pool for pool in pools if not types or pool.type in types]


def _that_could_fit(
    where: list[ClusterRow], gpus: int, nodes: int, types: tuple[str, ...], errors: dict[str, str]
) -> list[ClusterRow]:
    """Leave out clusters that could never run it: waiting for what cannot come is worse than a clear no."""
    possible = []
    most = 0
    for row in where:
        seen = clusters.capacity(row)
        total = max((pool.total for pool in _of_types(seen.gpus, types)), default=0) if seen else None
        if total is None or gpus * nodes <= total or gpus == 0:
            possible.append(row)
        else:
            most = max(most, total)
    if not possible:
        place = f"The cluster {where[0].name} has" if len(where) == 1 else "The clusters of this preset have at most"
        kind = f" of type {' or '.join(types)}" if types else ""
        has = f"{most} GPU{'s' if most != 1 else ''}{kind} in all" if most else f"no GPU{kind}"
        asks = f"{gpus * nodes} in all" if nodes > 1 else f"{gpus}"
        errors["gpus"] = f"{place} {has}, and this asks for {asks}. Take fewer, or 0 to run without a GPU."
    return possible


def _gpu_types(asked: str | None, allowed: list[str], preset: str, errors: dict[str, str]) -> tuple[str, ...]:
    if not asked:
        return tuple(allowed)
    if allowed and asked not in allowed:
        errors["gpu_type"] = f"The preset {preset} runs on {' or '.join(allowed)}, not on {_short(asked)}."
    elif not asked.isprintable() or len(asked) > 63:
        errors["gpu_type"] = "There is no such type of GPU."
    return (asked,)


def _command(
    asked: str | tuple[str, ...] | None, default: str | list[str], errors: dict[str, str]
) -> str | tuple[str, ...]:
    if asked is None:
        asked = default if isinstance(default, str) else tuple(default)
    command = asked
    parts = (command,) if isinstance(command, str) else command
    if not parts or not parts[0].strip():
        errors["command"] = "Write the command to run."
        return ""
    for part in parts:
        if "\0" in part:
            errors["command"] = "The character NUL is in the command, and no program can be given one. Take it out."
            return ""
        try:
            size = len(part.encode())
        except UnicodeEncodeError:
            errors["command"] = "The command holds half a character (a lone surrogate). Take it out."
            return ""
        if size > COMMAND_LIMIT:
            errors["command"] = (
                f"The command has {size:,} bytes; {COMMAND_LIMIT:,} is the most that Linux takes. "
                "Put it into a script and run that."
            )
            return ""
    if sum(len(part.encode()) for part in parts) > ENV_LIMIT:
        errors["command"] = f"All arguments together may have {ENV_LIMIT:,} bytes."
    return command


def _count(
    name: str, asked: int | None, default: int, least: int, most: int, preset: str, errors: dict[str, str]
) -> int:
    value = default if asked is None else asked
    things = {"gpus": "GPUs per node", "nodes": "nodes"}[name]
    if value < least:
        errors[name] = f"It must be at least {least}."
    elif value > most:
        allows = f"up to {most} {things}" if most > 0 else "no GPUs"
        errors[name] = f"The preset {preset} allows {allows}. Take fewer, or ask an owner."
    return value


def _env(asked: Mapping[str, str], default: Mapping[str, str], errors: dict[str, str]) -> dict[str, str]:
    env = {**default, **asked}
    for name, value in env.items():
        if not ENV_NAME.fullmatch(name):
            errors["env"] = (
                f"{_short(name) or 'An empty text'} cannot be a name: letters, digits and _ only, and no digit first."
            )
        elif "\0" in value:
            errors["env"] = f"The value of {name} holds the character NUL. Take it out."
    try:
        if sum(len(name.encode()) + len(value.encode()) for name, value in env.items()) > ENV_LIMIT:
            errors["env"] = f"All variables together may have {ENV_LIMIT:,} bytes."
    except UnicodeEncodeError:
        errors["env"] = "A variable holds half a character (a lone surrogate). Take it out."
    return env


def _max_runtime(asked: str | None, most: int, preset: str, errors: dict[str, str]) -> int:
    if not asked:
        return most
    try:
        value = durations.seconds(asked)
    except ValueError as error:
        errors["max_runtime"] = str(error)
        return most
    if value > most:
        allowed = durations.written(most)
        errors["max_runtime"] = (
            f"The preset {preset} allows {durations.spoken(most)}. Write {allowed}, or ask an owner."
        )
    return value


def _clusters(
    asked: str | None, allowed: list[str], usable: list[ClusterRow], preset: str, errors: dict[str, str]
) -> list[ClusterRow]:
    if asked:
        row = next((row for row in usable if row.name == asked), None)
        if row is None:
            errors["cluster"] = f"There is no cluster {_short(asked)} that this org may use."
        elif allowed and asked not in allowed:
            errors["cluster"] = f"The preset {preset} does not run on {asked}. It runs on {', '.join(allowed)}."
        elif row.refused:
            errors["cluster"] = row.refused
        else:
            return [row]
        return []
    rows = [row for row in usable if not allowed or row.name in allowed]
    open_rows = [row for row in rows if not row.refused]
    if open_rows:
        return open_rows
    if rows:
        errors["cluster"] = rows[0].refused
    else:
        errors["cluster"] = (
            f"The preset {preset} runs on {', '.join(allowed)}, which this org has not got."
            if allowed
            else "This org has no cluster yet. The operator adds one."
        )
    return []


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"


def as_api_body(preset: str, cluster: str, spec: JobSpec) -> dict[str, Any]:
    """The body of the API call that launches the same again."""
    return {
        "preset": preset,
        "command": spec.command if isinstance(spec.command, str) else list(spec.command),
        "gpus": spec.gpus,
        "nodes": spec.nodes,
        "env": dict(spec.env),
        "cluster": cluster,
        "max_runtime": durations.written(spec.max_runtime),
        **({"gpu_type": spec.gpu_types[0]} if len(spec.gpu_types) == 1 else {}),
    }
