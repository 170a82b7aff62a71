"""The console's pages, rendered here and nowhere else: escaped by default, put into the shell by its own script."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from agentkeys_core.errors import KeyServiceError
from agentkeys_core.evidence import Assurance, Evidence
from agentkeys_core.k11 import SOFTWARE_ORIGIN, origin_hash
from agentkeys_core.registry import DeviceRecord, OperatorState, Role
from device.agents import agents_of, device_name
from device.audit_trail import Export, Verdict
from device.console.job import Job
from device.console.trail import kinds_of, trail_rows
from device.errors import DeviceError
from device.intent import moment
from device.local_web import Reply
from device.pairing import shown
from device.pairing_desk import Claimed, fingerprint

#: Rows on one page; the export has all.
MAX_ROWS: Final = 200
_TEMPLATES: Final = Environment(
    loader=PackageLoader("device.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ROLES: Final = (
    (Role.CAP_MINT, "uses credentials"),
    (Role.RECOVERY, "recovers"),
    (Role.SCOPE_MGMT, "manages agents"),
)
_EVIDENCE: Final = {
    Evidence.WALLET: "your wallet",
    Evidence.OIDC: "your sign-in at a provider",
    Evidence.PASSKEY: "your passkey",
    Evidence.EMAIL: "an e-mail address",
    Evidence.MASTER: "a master",
}
_ASSURANCE: Final = {Assurance.HIGH: "high assurance", Assurance.LOW: "low assurance: the broker's word alone"}


def _k11(record: DeviceRecord) -> str:
    """What backs a master's approvals, as far as the registry tells."""
    if record.k11 is None:
        return "none"
    if record.k11.origin_hash == origin_hash(SOFTWARE_ORIGIN):
        return "software, for development only"
    return "a security key, or the authenticator built into its machine"


def _device(record: DeviceRecord, own: bytes) -> dict[str, object]:
    return {
        "evidence": f"{_EVIDENCE[record.evidence]}, {_ASSURANCE[record.assurance]}",
        "fell": record.counter_fell,
        "hash": record.device_key_hash.hex(),
        "k11": _k11(record),
        "name": device_name(record),
        "own": record.device_key_hash == own,
        "revoked": record.revoked,
        "roles": [words for role, words in _ROLES if record.holds(role)],
        "since": moment(record.registered_at),
    }


def devices_page(state: OperatorState, own: bytes, said: Sequence[str]) -> Reply:
    """All devices, the freeze, and who this operator is."""
    records = sorted(state.devices.values(), key=lambda found: (found.revoked, found.tier, found.registered_at))
    return _page(
        "devices.html",
        devices=[_device(record, own) for record in records],
        frozen=state.frozen,
        operator=fingerprint(state.operator_omni),
        omni=state.operator_omni.hex(),
        said=said,
    )


def agents_page(state: OperatorState, own: bytes, said: Sequence[str]) -> Reply:
    """All agents with what they may use."""
    agents = [
        {
            "actor": agent.actor_omni.hex(),
            "devices": [_device(record, own) for record in agent.devices],
            "name": agent.name,
            "scope": agent.scope,
        }
        for agent in agents_of(state)
    ]
    return _page("agents.html", agents=agents, said=said)


def pair_page(claimed: Claimed | None, *, compared: bool) -> Reply:
    """Asks for a code, or shows the machine that was claimed by one."""
    if claimed is None:
        return _page("code.html")
    return _page(
        "claimed.html",
        compared=compared,
        hash=shown(claimed.hash),
        id=claimed.id,
        label=claimed.label or "",
        services=" ".join(claimed.services),
    )


def trail_page(export: Export, verdict: Verdict, *, kind: str, part: str, said: Sequence[str]) -> Reply:
    """This device's own audit trail, each row with what was found out about it."""
    rows = trail_rows(export, verdict)
    fitting = [row for row in rows if row.fits(kind, part)]
    return _page(
        "audit.html",
        count=len(rows),
        findings=verdict.lines(),
        fitting=len(fitting),
        kind=kind,
        kinds=kinds_of(rows),
        missing=verdict.missing,
        ok=verdict.ok,
        part=part,
        rows=fitting[:MAX_ROWS],
        said=said,
    )


def job_page(job: Job | None) -> Reply:
    """What was started: a question, what is waited for, or how it ended."""
    if job is None:
        return _page("nothing.html")
    question = job.question
    if question is not None:
        return _page("question.html", task=question.task, window=job.window, said=job.said)
    if not job.ended:
        return _page("waiting.html", words=job.waiting or "Broker and worker are asked …", code=job.compare)
    if job.error is not None:
        return refused_page(job.error)
    return _page("done.html", lines=job.result or (), said=job.said)


def refused_page(error: DeviceError | KeyServiceError, status: HTTPStatus = HTTPStatus.OK) -> Reply:
    """Says by name why something did not work."""
    page = _page("refused.html", reason=str(error.reason), detail=error.detail)
    return Reply(status=status, body=page.body, kind=page.kind)


def _page(template: str, **given: object) -> Reply:
    html = _TEMPLATES.get_template(template).render(**given)
    return Reply(body=html.encode(), kind="text/html; charset=utf-8")
