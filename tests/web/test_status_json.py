"""/api/status as the real server sends it: its schema, and its figures."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from page_reader import SCHEMA

from backupd.web.responses import status_facts
from support.page_states import STATES, degraded, healthy
from support.web_site import WebSite


@pytest.mark.parametrize("state", STATES)
def test_json_matches_schema(site: WebSite, state: str) -> None:
    site.service.known_history = STATES[state]()
    reply = site.ask("/api/status")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    Draft202012Validator(SCHEMA, format_checker=FormatChecker()).validate(reply.json)
    assert reply.json["state"] == ("healthy" if state == "whole-app" else state)
    assert reply.json["healthy"] is (reply.json["state"] in ("healthy", "degraded"))


def test_every_field_of_schema_is_explained_and_no_other_is_allowed() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for schema in schemas(SCHEMA):
        assert schema["description"].endswith("."), schema
        if "properties" in schema:
            assert schema["additionalProperties"] is False
            assert set(schema["required"]) == set(schema["properties"])


def schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for one in inner:
        if isinstance(one, dict):
            yield from schemas(one)


def test_json_has_figures_of_page() -> None:
    facts = status_facts(degraded())
    assert facts["warnings"] == (
        "the replication to offsite failed: the replica cannot be reached",
        "generation tasks-20261101-0700 is damaged and no longer counts",
    )
    assert facts["problems"][0]["detail"] == "nas.example:22 does not answer: timed out"
    assert (
        facts["tasks"][2]["hint"]
        == "backupd tries again; if it keeps failing, check the host, its port, and the network between"
    )
    source = facts["sources"][0]
    assert (source["source"], source["generation_count"], source["frozen"]) == ("tasks", 10, False)
    assert {day["state"] for day in source["days"]} == {"verified", "degraded", "failed", "missed"}
    assert facts["drills"][0]["duration_s"] == 23.6


def test_non_finite_number_is_null_in_json(site: WebSite) -> None:
    history = healthy()
    drill = replace(history.drills[0], duration_s=float("inf"), stages={"fetch": float("nan")})
    site.service.known_history = replace(history, drills=(drill,))
    facts = site.ask("/api/status").json["drills"][0]
    assert (facts["duration_s"], facts["stages"]) == (None, {"fetch": None})
    assert site.ask("/").status == 200
