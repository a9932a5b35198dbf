"""Builds a third-party repository for CapRover: `python deploy/caprover/repository.py OUT [IMAGE]`.

OUT gets `public/`, which has the layout of https://github.com/caprover/one-click-apps for its validator and its build,
and `dist/v4/`, which is what that build makes of it: serve `dist/` as static files. IMAGE is the default in the form.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
NAMES = ("backupd", "backupd-gate")


def build(out: Path, image: str = "") -> None:
    """Write both trees below `out`; earlier files of the same names are replaced."""
    listing = []
    for name in NAMES:
        text = (HERE / f"{name}.yml").read_text(encoding="utf-8")
        default = next(v["defaultValue"] for v in _app(text)["variables"] if v["id"] == "$$cap_image")
        text = text.replace(f"defaultValue: {default}\n", f"defaultValue: {image or default}\n")
        _write(out / "public" / "v4" / "apps" / f"{name}.yml", text)
        _write(out / "dist" / "v4" / "apps" / name, json.dumps(yaml.safe_load(text), ensure_ascii=False) + "\n")
        listed = {key: _app(text)[key] for key in ("displayName", "description", "isOfficial")}
        listing.append({"name": name, **listed, "logoUrl": f"{name}.png"})
        for tree in ("public", "dist"):
            logo = out / tree / "v4" / "logos" / f"{name}.png"
            logo.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HERE / "logo.png", logo)
    _write(out / "dist" / "v4" / "list", json.dumps({"oneClickApps": listing}, ensure_ascii=False) + "\n")


def _app(text: str) -> dict[str, Any]:
    app: dict[str, Any] = yaml.safe_load(text)["caproverOneClickApp"]
    return app


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]), *sys.argv[2:3])
