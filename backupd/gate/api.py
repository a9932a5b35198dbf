"""`/api/deploys`: what the gate's page shows, as JSON for scripts."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

from backupd import __version__
from backupd.formatting import printable
from backupd.gate.model import CapRover, Deploy, Gate, Step
from backupd.gate.outcome import commit_url, duration_s, newest_first, public_url, shown_output
from backupd.web.responses import WebResponse


def deploys_response(
    gates: Sequence[Gate], deploys: Sequence[Deploy], now: datetime, *, outputs: Mapping[str, str] | None = None
) -> WebResponse:
    """Return each gate with its settings, without secrets, and its deploys, newest first.

    `outputs` has by the id of a deploy the end of what its tests printed.
    """
    facts = {
        "version": __version__,
        "taken_at": now.isoformat(),
        "gates": [
            _gate(gate)
            | {
                "deploys": [
                    _deploy(one, gate, now) | {"test_output": shown_output(one, outputs or {}, newest=number == 0)}
                    for number, one in enumerate(newest_first(deploys, gate.name))
                ]
            }
            for gate in gates
        ],
    }
    return WebResponse(HTTPStatus.OK, "application/json", json.dumps(facts).encode() + b"\n")


def _gate(gate: Gate) -> dict[str, Any]:
    target = gate.target
    return {
        "gate": gate.name,
        "repository": gate.repository,
        "refs": gate.refs,
        "webhook_path": f"/hooks/{gate.name}",
        "sidecar_url": public_url(gate.sidecar.url) if gate.sidecar else None,
        "sources": gate.sidecar.sources if gate.sidecar else None,
        "forgejo_url": public_url(gate.forgejo.url) if gate.forgejo else None,
        "waits_for_status": gate.status is not None,
        "test_command": gate.tests.command if gate.tests else None,
        "rehearse": gate.tests.rehearse if gate.tests else None,
        "caprover_url": public_url(target.url) if isinstance(target, CapRover) else None,
        "caprover_app": target.app if isinstance(target, CapRover) else None,
        "health_url": public_url(gate.app.health_url) if gate.app else None,
    }


def _deploy(deploy: Deploy, gate: Gate, now: datetime) -> dict[str, Any]:
    push = deploy.push
    return {
        "id": deploy.id,
        "state": deploy.state,
        "version": printable(push.version),
        "commit": printable(push.commit),
        "commit_url": commit_url(gate, push) or None,
        "ref": printable(push.ref),
        "pusher": printable(push.pusher),
        "received_at": deploy.received_at.isoformat(),
        "ended_at": _iso(deploy.ended_at),
        "duration_s": round(duration_s(deploy, now), 3),
        "generations": deploy.generations,
        "version_before": None if deploy.version_before is None else printable(deploy.version_before),
        "steps": [_step(step, now) for step in deploy.steps],
    }


def _step(step: Step, now: datetime) -> dict[str, Any]:
    return {
        "step": step.name,
        "state": step.state,
        "began_at": step.began_at.isoformat(),
        "ended_at": _iso(step.ended_at),
        "duration_s": round(duration_s(step, now), 3),
        "detail": printable(step.detail),
        "hint": printable(step.hint),
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
