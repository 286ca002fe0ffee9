"""What has to be installed to run the portal, in bytes."""

from __future__ import annotations

import re
from importlib import metadata

from app.config import REPOSITORY
from tests.bench.rows import Row, megabytes


def installed() -> list[Row]:
    names = re.findall(r"^([A-Za-z0-9._-]+)==", (REPOSITORY / "requirements" / "run.txt").read_text(), re.MULTILINE)
    sizes: dict[str, int] = {}
    for name in names:
        try:
            found = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            continue  # for another platform
        sizes[name] = sum(path.lstat().st_size for each in found if (path := each.locate()).is_file())  # type: ignore[attr-defined]
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    said = ", ".join(f"{name} {megabytes(sizes[name])}" for name in largest)
    files = [path for path in (REPOSITORY / "app").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    own = sum(path.stat().st_size for path in files)
    return [
        Row(f"packages that a running portal needs ({len(sizes)})", megabytes(sum(sizes.values())), f"of it {said}"),
        Row("the portal itself, styles and icons included", f"{own / 1e6:.1f} MB"),
    ]
