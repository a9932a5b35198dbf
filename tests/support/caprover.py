"""What CapRover makes of a one-click template: its form, its substitution, and the service that comes out."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).parents[2] / "deploy" / "caprover" / "backupd.yml"
APP_NAME = "$$cap_appname"
ROOT_DOMAIN = "$$cap_root_domain"


def template_of(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def ids_in_order(template: Any) -> list[str]:
    """List the ids in the order in which they are replaced: CapRover puts its own first and last."""
    return [APP_NAME, *(variable["id"] for variable in template["caproverOneClickApp"]["variables"]), ROOT_DOMAIN]


def form_accepts(variable: Mapping[str, str], value: str) -> bool:
    """Tell whether the form lets `value` pass: /BODY/FLAGS is searched for in it, also where it is blank."""
    if "validRegex" not in variable:
        return True
    parts = re.fullmatch(r"/(.*)/(.*)", variable["validRegex"])
    assert parts is not None, variable["validRegex"]
    assert parts[2] == "", "flags are not the same in JavaScript and Python"
    body = re.sub(r"\$$", r"\\Z", parts[1])  # Python's $ would let a line break pass
    return re.search(body, value) is not None


def defaults(template: Any) -> dict[str, str]:
    """Return what the form holds before anybody types."""
    return {v["id"]: v.get("defaultValue", "") for v in template["caproverOneClickApp"]["variables"]}


def deployed(template: Any, values: Mapping[str, str], app_name: str = "my-backup") -> Any:
    """Replace plain text in the JSON, one variable after the other, blank ones by nothing, and parse the result."""
    text = json.dumps(template)
    values = {**values, APP_NAME: app_name, ROOT_DOMAIN: "example.com"}
    for name in ids_in_order(template):
        text = text.replace(name, values.get(name) or "")
    return json.loads(text)
