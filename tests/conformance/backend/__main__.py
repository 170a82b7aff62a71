"""`python -m tests.conformance.backend --config FILE [--break NAME …]`: serves until its standard input ends.

FILE is JSON: see `Config`. Prints `ready HOST:PORT` once it answers.
"""

import argparse
import json
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkeys_runtime import tls13  # isort: split

import grpc

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.keys import ES256PublicKey
from tests.conformance.backend.breakages import BREAKAGES
from tests.conformance.backend.checks import Buckets, Checks
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.memory import Memory
from tests.conformance.backend.operators import Operators
from tests.conformance.backend.peers import Peers
from tests.conformance.backend.registry import Registry
from tests.conformance.backend.server import Door, serve
from tests.conformance.backend.signer import Signer
from tests.conformance.backend.sts import Sts, StsFacts
from tests.conformance.backend.verdicts import Verdicts
from tests.conformance.backend.wallets import Host, Policy, Rule, Wallets


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the backend is told: files of its port, epochs with their secrets, who may co-sign, limits, the cloud."""

    certificate: Path
    key: Path
    client_ca: Path
    server_name: str
    trust_domain: str
    revoked: list[int]
    k3: dict[str, str]
    cosigners: list[dict[str, Any]]
    device_burst: float
    device_per_s: float
    streams_per_caller: int
    sts: dict[str, Any] | None = None
    siwe: dict[str, dict[str, Any]] = field(default_factory=dict)
    typed: dict[str, dict[str, Any]] = field(default_factory=dict)


def _policy(config: Config) -> Policy:
    hosts = {name: Host(**facts) for name, facts in config.siwe.items()}
    return Policy(siwe=hosts, typed={name: Rule(**facts) for name, facts in config.typed.items()})


def build(config: Config, broken: frozenset[str]) -> tuple[Door, Keys]:
    """Everything behind the port."""
    keys = Keys(config.k3, broken)
    memory = Memory(keys, broken)
    operators = Operators(secrets.token_hex(32), memory.append, broken)
    cosigners = {key.kid: key for key in map(ES256PublicKey.from_jwk, config.cosigners)}
    buckets = Buckets(config.device_burst, config.device_per_s)
    checks = Checks(keys=keys, operators=operators, cosigners=cosigners, buckets=buckets, broken=broken)
    registry = Registry(operators, keys, config.streams_per_caller)
    signer = Signer(
        keys=keys,
        memory=memory,
        checks=checks,
        verdicts=Verdicts(operators, broken),
        wallets=Wallets(keys, memory, checks, _policy(config), broken),
        sts=Sts(keys, None if config.sts is None else StsFacts(**config.sts)),
        broken=broken,
    )
    peers = Peers(config.trust_domain, config.server_name, frozenset(config.revoked), broken)
    door = Door(peers, lambda: registry.sealed, broken)
    door.serve(signer_pb2.DESCRIPTOR.services_by_name["Signer"], signer)
    door.serve(registry_pb2.DESCRIPTOR.services_by_name["Registry"], registry)
    return door, keys


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.backend", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--break", action="append", default=[], dest="broken", choices=sorted(BREAKAGES))
    asked = parser.parse_args()
    members = json.loads(asked.config.read_text())
    paths = {name: Path(members[name]) for name in ("certificate", "key", "client_ca")}
    config = Config(**{**members, **paths})
    assert tls13.ENFORCED
    door, keys = build(config, frozenset(asked.broken))
    pair = (config.key.read_bytes(), config.certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], config.client_ca.read_bytes(), require_client_auth=True)
    server, port = serve(door, credentials)
    print(f"ready 127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(0.5).wait()
    keys.close()


if __name__ == "__main__":
    main()
