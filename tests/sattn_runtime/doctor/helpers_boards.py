"""Small file trees of machines, a TOML file each: `[files]` path = text, `[links]` path = target, `[folders]` = mode.

They are written from what is known of the releases, not copied from boards.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests.helpers_data import ROOT

BOARDS = ROOT / "tests" / "data" / "boards"
NAMES = sorted(path.stem for path in BOARDS.glob("*.toml"))


def plant(name: str, folder: Path) -> Path:
    """Writes a machine's tree into a folder, and returns the folder."""
    return plant_tree(tomllib.loads((BOARDS / f"{name}.toml").read_text()), folder)


def plant_tree(tree: dict[str, Any], folder: Path) -> Path:
    """The same of a dict with `files`, `links`, `folders`."""
    for path, text in tree.get("files", {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    for path, target in tree.get("links", {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(target)
    for path, mode in tree.get("folders", {}).items():
        (folder / path).mkdir(parents=True, exist_ok=True)
        (folder / path).chmod(int(mode, 8))
    return folder
