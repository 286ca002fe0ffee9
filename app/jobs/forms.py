"""The launch form: what was typed, kept exactly as typed, and read as a request."""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass, field, replace

from werkzeug.datastructures import MultiDict

from app.jobs.request import LaunchRequest
from app.presets.service import PresetView

ENV_ROWS = 200  # variables that the form takes


@dataclass(frozen=True, slots=True)
class LaunchForm:
    preset: str = ""
    shown: str = ""  # the preset whose defaults the form shows
    command: str = ""
    gpus: str = ""
    nodes: str = ""
    max_runtime: str = ""
    cluster: str = ""
    name: str = ""
    gpu_type: str = ""
    env: tuple[tuple[str, str], ...] = ()
    once: str = ""  # makes a double click or a reload one job
    source: str = ""  # name of the job that it was filled in from
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, posted: MultiDict[str, str]) -> LaunchForm:
        rows = 5 * ENV_ROWS  # what is above the limit is kept too, to be shown with the error, but not without end
        names, values = posted.getlist("env-name")[:rows], posted.getlist("env-value")[:rows]
        return cls(
            preset=posted.get("preset", ""),
            shown=posted.get("shown", ""),
            command=posted.get("command", "").replace("\r\n", "\n"),
            gpus=posted.get("gpus", "").strip(),
            nodes=posted.get("nodes", "").strip(),
            max_runtime=posted.get("max_runtime", "").strip(),
            cluster=posted.get("cluster", ""),
            name=posted.get("name", "").strip(),
            gpu_type=posted.get("gpu_type", ""),
            env=tuple(
                (name.strip(), value) for name, value in zip(names, values, strict=False) if name.strip() or value
            ),
            once=posted.get("once", "").replace("\0", "")[:64],
            source=posted.get("source", "")[:63],
        )

    @classmethod
    def for_preset(cls, preset: PresetView, name: str) -> LaunchForm:
        content = preset.content
        return cls(
            preset=preset.name,
            shown=preset.name,
            command=_text(content.command),
            gpus=str(content.gpus.default),
            nodes=str(content.nodes.default),
            max_runtime=content.max_runtime,
            name=name,
            once=secrets.token_urlsafe(18),
        )

    @classmethod
    def for_request(cls, asked: LaunchRequest, name: str, source: str) -> LaunchForm:
        return cls(
            preset=asked.preset,
            shown=asked.preset,
            command=_text(asked.command or ""),
            gpus=str(asked.gpus if asked.gpus is not None else ""),
            nodes=str(asked.nodes if asked.nodes is not None else ""),
            max_runtime=asked.max_runtime or "",
            cluster=asked.cluster or "",
            name=name,
            gpu_type=asked.gpu_type or "",
            env=tuple(asked.env.items()),
            once=secrets.token_urlsafe(18),
            source=source,
        )

    def stepped(self, step: str) -> LaunchForm:
        """After a press on one of its own buttons: `gpus+1`, `nodes-1`, `remove-env-3`; others change nothing."""
        if step in ("gpus+1", "gpus-1", "nodes+1", "nodes-1"):
            name, change = step[:-2], int(step[-2:])
            typed = getattr(self, name)
            value = int(typed) if typed.isdigit() and typed.isascii() and len(typed) < 6 else 0
            text = str(max(1 if name == "nodes" else 0, value + change))
            return replace(self, gpus=text) if name == "gpus" else replace(self, nodes=text)
        if step.startswith("remove-env-"):
            gone = step.removeprefix("remove-env-")
            return replace(self, env=tuple(row for index, row in enumerate(self.env) if str(index) != gone))
        return self

    def with_preset(self, old: PresetView | None, new: PresetView, free_name: str, old_name: str) -> LaunchForm:
        """After another preset was picked: what nobody touched takes the new defaults, what was typed stays."""
        fresh = LaunchForm.for_preset(new, free_name)
        before = LaunchForm.for_preset(old, old_name) if old is not None else LaunchForm()
        taken = {
            name: getattr(fresh, name)
            for name in ("command", "gpus", "nodes", "max_runtime", "name")
            if getattr(self, name) in ("", getattr(before, name))
        }
        return replace(self, shown=new.name, **taken)

    def request(self) -> tuple[LaunchRequest, dict[str, str]]:
        """What it asks for, and the errors of fields that cannot even be read."""
        errors: dict[str, str] = {}
        env: dict[str, str] = {}
        if len(self.env) > ENV_ROWS:
            errors["env"] = f"The form takes {ENV_ROWS} variables. Take some out, or launch by the API."
        for name, value in self.env:
            if not name:
                errors["env"] = f"Give the variable with the value {value[:40]!r} a name, or take it out."
            elif name in env:
                errors["env"] = f"The variable {name[:60]} stands here twice."
            env[name] = value
        return (
            LaunchRequest(
                preset=self.preset,
                command=self.command,
                gpus=_number("gpus", self.gpus, errors),
                nodes=_number("nodes", self.nodes, errors),
                name=self.name or None,
                env=env,
                cluster=self.cluster or None,
                max_runtime=self.max_runtime or None,
                gpu_type=self.gpu_type or None,
            ),
            errors,
        )


def _text(command: str | tuple[str, ...] | list[str]) -> str:
    """A command for the text field. An argv becomes the shell line that gives the same argv."""
    if isinstance(command, str):
        return command
    return shlex.join(command)


def _number(name: str, typed: str, errors: dict[str, str]) -> int | None:
    if not typed:
        return None
    if not (typed.isascii() and typed.removeprefix("-").isdigit() and len(typed) < 10):
        errors[name] = "Write a whole number."
        return None
    return int(typed)
