"""docs/openapi.json is valid, served, and true: it describes every route, and each answer is as it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from backupd.web.door import read_wanted
from support.door import BACKUP_TOKEN, DOWNLOAD_TOKEN, PAGE_TOKEN, FakeBackups, bearer, door_site
from support.web_site import Reply, WebSite

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_bytes())
JSON = {"Content_Type": "application/json"}
HTTP_METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def door() -> Iterator[tuple[WebSite, FakeBackups]]:
    with door_site() as found:
        yield found


def check(reply: Reply, path: str, method: str = "get") -> None:
    """Compare a response with what the document says of its status."""
    described = DOCUMENT["paths"][path][method]["responses"][str(reply.status)]
    (media_type,) = described["content"]
    assert reply.headers["content-type"].partition(";")[0] == media_type
    assert {name.lower() for name in described.get("headers", {})} <= set(reply.headers)
    if media_type == "application/json":
        schema = {**described["content"][media_type]["schema"], "components": DOCUMENT["components"]}
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(reply.json)


def test_document_is_valid_and_served() -> None:
    from openapi_spec_validator import validate  # a tool of development only

    validate(DOCUMENT)
    with door_site() as (site, _):
        assert site.ask("/api/openapi.json").json == DOCUMENT


def test_document_names_every_route(door: tuple[WebSite, FakeBackups]) -> None:
    site, _ = door
    for path, item in DOCUMENT["paths"].items():
        (method,) = item
        assert site.ask(path, method.upper()).status not in (404, 405), path
        assert site.ask(path, "DELETE").status == 405, path
    routes = {route.path for route in _routes(site)}
    assert routes == set(DOCUMENT["paths"])


def _routes(site: WebSite) -> list[Any]:
    closure = site.server._app.__closure__  # type: ignore[union-attr]
    apps = [cell.cell_contents for cell in closure or () if hasattr(cell.cell_contents, "router")]
    return list(apps[0].routes)


@pytest.mark.parametrize(
    ("path", "token"),
    [("/livez", ""), ("/health", ""), ("/metrics", PAGE_TOKEN), ("/", PAGE_TOKEN), ("/api/status", PAGE_TOKEN)],
)
def test_answers_of_monitoring_are_as_described(door: tuple[WebSite, FakeBackups], path: str, token: str) -> None:
    site, _ = door
    check(site.ask(path, **(bearer(token) if token else {})), path)
    if token:
        check(site.ask(path), path)


def test_answers_of_actions_are_as_described() -> None:
    with door_site() as (site, backups):
        run, archive = "/api/runs/{run_id}", "/api/generations/{generation}/archive"
        post = {**bearer(BACKUP_TOKEN), **JSON}
        for body, headers in (
            (b'{"sources": ["tasks"], "label": "v2"}', post),
            (b"{}", {}),
            (b"x" * (17 << 10), post),
            (b"{}", {**post, "Content_Type": "text/plain"}),
            (b'{"x": 1}', post),
        ):
            check(site.ask("/api/backups", "POST", body=body, **headers), "/api/backups", "post")
        check(site.ask("/api/runs/run-1", **bearer(BACKUP_TOKEN)), run)
        backups.end("run-1")
        check(site.ask("/api/runs/run-1?wait=1", **bearer(BACKUP_TOKEN)), run)
        for path in ("/api/runs/run-1?wait=x", "/api/runs/run-9"):
            check(site.ask(path, **bearer(BACKUP_TOKEN)), run)
        check(site.ask("/api/runs/run-1"), run)
        check(site.ask("/api/generations/tasks-20261123-0400/archive", **bearer(DOWNLOAD_TOKEN)), archive)
        check(site.ask("/api/generations/tasks-20261123-0400/archive"), archive)


@pytest.mark.parametrize(
    ("body", "is_valid"),
    [
        ({"sources": ["tasks"], "label": "v2", "pin": "30d"}, True),
        ({"sources": None, "pin": False}, True),
        ({"pin": True}, True),
        ({"pin": "for ever"}, False),
        ({"pin": 7}, False),
        ({"sources": []}, False),
        ({"label": "x" * 201}, False),
        ({"other": 1}, False),
    ],
)
def test_described_request_is_what_the_server_accepts(body: dict[str, Any], is_valid: bool) -> None:
    schema = {"$ref": "#/components/schemas/BackupRequest", "components": DOCUMENT["components"]}
    assert Draft202012Validator(schema).is_valid(body) is is_valid
    try:
        read_wanted(json.dumps(body).encode())
    except Exception:  # noqa: BLE001 - whatever refuses it
        assert not is_valid
    else:
        assert is_valid


def test_every_field_of_a_run_is_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for name in ("Run", "RunSource", "Error"):
        assert schemas[name]["additionalProperties"] is False
        assert set(schemas[name]["required"]) == set(schemas[name]["properties"])
