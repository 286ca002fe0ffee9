from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from app.audit import service as audit
from app.audit.service import Action
from app.database import db
from app.presets.content import NAME, NAME_RULE, PresetContent, PresetError, parse
from app.presets.models import Preset, PresetVersion

__all__ = ["NAME", "NAME_RULE", "PresetContent", "PresetError", "PresetView", "import_presets", "of_org", "version"]


@dataclass(frozen=True, slots=True)
class PresetView:
    """A preset in one of its versions."""

    version_id: int
    number: int
    content: PresetContent

    @property
    def name(self) -> str:
        return self.content.name


def of_org(org_id: int) -> list[PresetView]:
    """The presets that may be launched in an org, in their newest versions, by name."""
    rows = db.session.execute(
        select(PresetVersion.id, PresetVersion.number, PresetVersion.content)
        .join(Preset, (Preset.id == PresetVersion.preset_id) & (Preset.number == PresetVersion.number))
        .where(Preset.org_id == org_id, Preset.retired_at.is_(None))
        .order_by(Preset.name)
    )
    return [PresetView(row.id, row.number, PresetContent.model_validate(row.content)) for row in rows]


def version(version_id: int) -> PresetView:
    """One exact version, also of a preset that is newer or retired by now."""
    row = db.session.get_one(PresetVersion, version_id)
    return PresetView(row.id, row.number, PresetContent.model_validate(row.content))


def import_presets(org_id: int, text: str) -> list[tuple[str, str]]:
    """Make or renew presets from an import file; the same file again changes nothing. Call inside a transaction.

    Returns each preset's name with what happened to it. Raises PresetError before anything is changed.
    """
    done = []
    for content in parse(text):
        preset = db.session.scalar(
            select(Preset).where(Preset.org_id == org_id, Preset.name == content.name).with_for_update()
        )
        stored = content.model_dump(mode="json")
        if preset is None:
            preset = Preset(org_id=org_id, name=content.name, number=1)
            db.session.add(preset)
            db.session.flush()
            what = "made"
        else:
            newest = db.session.scalars(
                select(PresetVersion).where(PresetVersion.preset_id == preset.id, PresetVersion.number == preset.number)
            ).one()
            if newest.content == stored and preset.retired_at is None:
                done.append((content.name, "unchanged"))
                continue
            preset.number += 1
            preset.retired_at = None
            what = f"now at version {preset.number}"
        db.session.add(PresetVersion(preset_id=preset.id, number=preset.number, content=stored))
        done.append((content.name, what))
        audit.record(Action.PRESET_IMPORTED, content.name, what, org_id=org_id)
    return done
