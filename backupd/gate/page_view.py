"""What the gate's page shows, as values: each gate with its settings and last deploys, and what to do; pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import join
from typing import Final

from backupd.formatting import human_duration
from backupd.gate.model import CapRover, Deploy, Gate, Step, StepState
from backupd.gate.outcome import (
    SEVERITIES,
    commit_url,
    current,
    deployed_before,
    duration_s,
    newest_first,
    public_url,
    repository_url,
    shown_output,
    way_back,
    without_backticks,
)
from backupd.model import Severity
from backupd.web.hints import translate_hint
from backupd.web.localizer import Localizer
from backupd.web.verdict import ToDo

MOST_DEPLOYS: Final = 20
MOST_GATES: Final = 20
_WORST_FIRST: Final = ("unhealthy", "interrupted", "stopped", "running", "waiting")
_FAILED: Final = _WORST_FIRST[:3]
_MOST_NAME: Final = 80
_MOST_REF: Final = 200
_STEP_SEVERITIES: Final[Mapping[StepState, Severity]] = {"running": "info", "passed": "success", "failed": "failure"}


@dataclass(frozen=True, slots=True)
class StepView:
    """One step; `detail` is in the words of the log, as is `hint` where it has no translation."""

    name: str
    severity: Severity
    word: str
    at: datetime
    took: str
    detail: str
    advice: str
    hint: str


@dataclass(frozen=True, slots=True)
class DeployView:
    """One deploy; `back` says how to go back from it, with commands between backticks."""

    id: str
    version: str
    severity: Severity
    word: str
    commit: str
    commit_url: str
    pushed: str
    facts: tuple[str, ...]
    steps: tuple[StepView, ...]
    output: tuple[str, ...]
    generations: tuple[str, ...]
    back: tuple[str, ...]
    ended: bool


@dataclass(frozen=True, slots=True)
class GateView:
    """One gate; `settings` are pairs of name and value, the address of the first in `repository_url`."""

    name: str
    settings: tuple[tuple[str, str], ...]
    repository_url: str
    deploys: tuple[DeployView, ...]
    more: int
    connect: tuple[str, ...]  # how to connect its webhook, until the first push


def gate_view(
    gate: Gate, deploys: Sequence[Deploy], outputs: Mapping[str, str], localizer: Localizer, now: datetime
) -> GateView:
    """Return the view of one gate; `deploys` may be those of others as well."""
    own = newest_first(deploys, gate.name)
    shown = own[:MOST_DEPLOYS]
    return GateView(
        name=localizer.quote(gate.name, _MOST_NAME),
        settings=tuple(_settings(gate, localizer)),
        repository_url=repository_url(gate),
        deploys=tuple(
            _deploy_view(
                one, gate, deployed_before(one, own), shown_output(one, outputs, newest=one is own[0]), localizer, now
            )
            for one in shown
        ),
        more=len(own) - len(shown),
        connect=() if own else _connect(gate, localizer),
    )


def verdict(gates: Sequence[Gate], deploys: Sequence[Deploy], localizer: Localizer) -> tuple[Severity, str]:
    """Return how the gates are, and that in one sentence: the worst of their current deploys first."""
    states = [one for gate in gates if (one := current(newest_first(deploys, gate.name)))]
    worst = min(
        (one for one in states if one.state in _WORST_FIRST),
        key=lambda one: _WORST_FIRST.index(one.state),
        default=None,
    )
    if worst is None:
        if not states:
            return "info", localizer.translate("gate.none")
        heading = localizer.translate("gate.all-deployed") if len(states) > 1 else _sentence(states[0], localizer)
        return "success", heading
    more = sum(one.state in _FAILED for one in states) - 1
    heading = _sentence(worst, localizer)
    return SEVERITIES[
        worst.state
    ], f"{heading} {localizer.translate('state.more', count=more)}" if more > 0 else heading


def to_dos(gates: Sequence[Gate], deploys: Sequence[Deploy], localizer: Localizer) -> tuple[ToDo, ...]:
    """Return what to do about the current deploy of each gate."""
    found = [one for gate in gates if (one := current(newest_first(deploys, gate.name))) and one.state in _FAILED]
    return tuple(_to_do(one, localizer) for one in sorted(found, key=lambda one: _WORST_FIRST.index(one.state)))


def _to_do(deploy: Deploy, localizer: Localizer) -> ToDo:
    step = deploy.failure or (deploy.steps[-1] if deploy.steps else None)
    hint = translate_hint(step.hint, localizer.language) if step else ""
    advice = localizer.translate(f"gate.advice.{deploy.state}")
    name = f"{localizer.translate(f'step.{step.name}')}: " if step else ""
    return ToDo(
        what=f"{_sentence(deploy, localizer)}.",
        advice=f"{localizer.translate('to-do.says', hint=without_backticks(hint))} {advice}" if hint else advice,
        quoted=localizer.quote(f"{name}{step.detail}") if step and step.detail else "",
        topic="deploy",
        hint="" if hint or not step else localizer.quote(step.hint),
    )


def _sentence(deploy: Deploy, localizer: Localizer) -> str:
    gate, version = (localizer.quote(without_backticks(one), _MOST_NAME) for one in (deploy.gate, deploy.push.version))
    return localizer.translate(f"gate.state.{deploy.state}", gate=gate, version=version)


def _deploy_view(
    deploy: Deploy, gate: Gate, before: Deploy | None, output: tuple[str, ...], localizer: Localizer, now: datetime
) -> DeployView:
    push, translate = deploy.push, localizer.translate
    took = human_duration(duration_s(deploy, now))
    facts = [translate("deploy.took" if deploy.ended else "deploy.since", duration=took)]
    if deploy.version_before:
        facts.append(translate("deploy.before", version=localizer.quote(deploy.version_before, _MOST_NAME)))
    pusher, ref = localizer.quote(push.pusher, _MOST_NAME), localizer.quote(push.ref, _MOST_REF)
    return DeployView(
        id=localizer.quote(deploy.id, _MOST_NAME),
        version=localizer.quote(push.version, _MOST_NAME),
        severity=SEVERITIES[deploy.state],
        word=translate(f"deploy.{deploy.state}"),
        commit=localizer.quote(push.commit[:10]),
        commit_url=commit_url(gate, push),
        pushed=translate("deploy.pushed", pusher=pusher, ref=ref, at=localizer.second(deploy.received_at)),
        facts=tuple(facts),
        steps=tuple(_step_view(step, localizer, now) for step in deploy.steps),
        output=output,
        generations=tuple(localizer.quote(one, _MOST_REF) for one in deploy.generations),
        back=way_back(deploy, gate, before, localizer),
        ended=deploy.ended,
    )


def _step_view(step: Step, localizer: Localizer, now: datetime) -> StepView:
    hint = translate_hint(step.hint, localizer.language)
    return StepView(
        name=localizer.translate(f"step.{step.name}"),
        severity=_STEP_SEVERITIES[step.state],
        word=localizer.translate(f"step.state.{step.state}"),
        at=step.began_at,
        took=human_duration(duration_s(step, now)),
        detail=localizer.quote(step.detail),
        advice=localizer.translate("deploy.hint", hint=without_backticks(hint)) if hint else "",
        hint="" if hint else localizer.quote(step.hint),
    )


def _settings(gate: Gate, localizer: Localizer) -> Iterator[tuple[str, str]]:
    """Yield name and value of what is set, without secrets."""
    translate = localizer.translate
    yield translate("set.repository"), localizer.quote(gate.repository)
    yield translate("set.refs"), localizer.quote(", ".join(gate.refs))
    yield translate("set.webhook"), localizer.quote(f"POST /hooks/{gate.name}")
    if gate.sidecar is None:
        backup = translate("set.backup.none")
    elif gate.sidecar.sources:
        backup = translate("set.backup.some", sources=", ".join(gate.sidecar.sources), url=public_url(gate.sidecar.url))
    else:
        backup = translate("set.backup.all", url=public_url(gate.sidecar.url))
    yield translate("set.backup"), backup
    yield from _checks(gate, localizer)
    target = translate("set.target.webhook")
    if isinstance(gate.target, CapRover):
        target = translate("set.target.app", app=gate.target.app, url=public_url(gate.target.url))
    yield translate("set.target"), target
    health = translate("set.app.none")
    if gate.app is not None:
        url, limit = public_url(gate.app.health_url), human_duration(gate.app.timeout_s)
        health = translate("set.app.url", url=url, field=gate.app.version_field, limit=limit)
    yield translate("set.app"), health


def _checks(gate: Gate, localizer: Localizer) -> Iterator[tuple[str, str]]:
    translate = localizer.translate
    if gate.status is not None:
        limit, contexts = human_duration(gate.status.timeout_s), ", ".join(gate.status.contexts)
        key = "set.status.some" if contexts else "set.status.all"
        yield translate("set.status"), translate(key, contexts=contexts, limit=limit)
    if gate.tests is not None:
        command, tests = f"`{without_backticks(localizer.quote(join(gate.tests.command)))}`", gate.tests
        how = [translate("set.tests.as", user=tests.user, limit=human_duration(tests.timeout_s))]
        how += [translate("set.tests.rehearse")] if tests.rehearse else []
        yield translate("set.tests"), ", ".join((command, *how))
    if gate.status is None and gate.tests is None:
        yield translate("set.tests"), translate("set.tests.none")


def _connect(gate: Gate, localizer: Localizer) -> tuple[str, ...]:
    values = {
        "gate": gate.name,
        "repository": gate.repository,
        "path": f"/hooks/{gate.name}",
        "refs": ", ".join(gate.refs),
    }
    return tuple(
        localizer.translate(f"connect.{step}", **{name: without_backticks(value) for name, value in values.items()})
        for step in ("add", "url", "secret", "hosts", "push")
    )
