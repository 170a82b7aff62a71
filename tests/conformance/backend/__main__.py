"""`python -m tests.conformance.backend --config FILE [--break NAME …]`: serves until its standard input ends; each line there is
a command of the host (see `Built.turn`), answered with `done`.

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
import jwt

from agentkeys.signer.v1 import registry_pb2, signer_pb2
from agentkeys_core.keys import ES256PublicKey
from tests.conformance.backend.attest import Attester, Issuer
from tests.conformance.backend.breakages import BREAKAGES
from tests.conformance.backend.checks import Buckets, Checks
from tests.conformance.backend.keys import Keys
from tests.conformance.backend.memory import Memory
from tests.conformance.backend.operators import Operators
from tests.conformance.backend.peers import Peers
from tests.conformance.backend.registry import Registry
from tests.conformance.backend.rewrap import Rewrapper
from tests.conformance.backend.server import Door, serve
from tests.conformance.backend.signer import Signer
from tests.conformance.backend.sts import Sts, StsFacts
from tests.conformance.backend.tree import Tree
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
    issuers: dict[str, dict[str, Any]] = field(default_factory=dict)
    siwe: dict[str, dict[str, Any]] = field(default_factory=dict)
    typed: dict[str, dict[str, Any]] = field(default_factory=dict)


def _policy(config: Config) -> Policy:
    hosts = {name: Host(**facts) for name, facts in config.siwe.items()}
    return Policy(siwe=hosts, typed={name: Rule(**facts) for name, facts in config.typed.items()})


def _issuers(config: Config) -> dict[str, Issuer]:
    return {
        name: Issuer(
            client_id=facts["client_id"], keys={jwk["kid"]: jwt.PyJWK.from_dict(jwk).key for jwk in facts["keys"]}
        )
        for name, facts in config.issuers.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The door, and what the host can turn behind it."""

    door: Door
    keys: Keys
    operators: Operators
    rewrapper: Rewrapper
    broken: set[str]

    def turn(self, words: list[str]) -> None:
        """One command of the host: `rotate`, `window open`, `window close`, `publish FOLDER` (the public keys), `break NAME …`."""
        with self.door.lock:
            if words == ["rotate"]:
                self.keys.advance()
                self.operators.rules.epoch = self.keys.current
            elif words[0] == "window":
                self.rewrapper.window = words[1] == "open"
            elif words[0] == "break":
                self.broken.clear()
                self.broken.update(words[1:])
            elif words[0] == "publish":
                self._publish(Path(words[1]) / ".well-known")

    def _publish(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name, purpose in (("jwks.json", "oidc"), ("agentkeys-audit-jwks.json", "audit")):
            keys = [self.keys.public(epoch, purpose).jwk() for epoch in range(1, self.keys.current + 1)]
            (folder / name).write_text(json.dumps({"keys": keys}))


def build(config: Config, broken: set[str]) -> Built:
    """Everything behind the port."""
    keys = Keys(config.k3, broken)
    memory = Memory(keys, broken)
    operators = Operators(secrets.token_hex(32), keys.current, memory.append, broken)
    cosigners = {key.kid: key for key in map(ES256PublicKey.from_jwk, config.cosigners)}
    buckets = Buckets(config.device_burst, config.device_per_s)
    checks = Checks(keys=keys, operators=operators, cosigners=cosigners, buckets=buckets, broken=broken)
    rewrapper = Rewrapper(keys, memory, operators, broken)
    registry = Registry(operators, memory, keys, config.streams_per_caller)
    signer = Signer(
        keys=keys,
        memory=memory,
        checks=checks,
        verdicts=Verdicts(operators, broken),
        wallets=Wallets(
            keys=keys,
            memory=memory,
            operators=operators,
            checks=checks,
            policy=_policy(config),
            broken=broken,
        ),
        rewrapper=rewrapper,
        tree=Tree(keys, memory, operators.registry_id, broken),
        attester=Attester(keys, operators, _issuers(config), broken),
        sts=Sts(keys, None if config.sts is None else StsFacts(**config.sts)),
        broken=broken,
    )
    peers = Peers(config.trust_domain, config.server_name, frozenset(config.revoked), broken)
    door = Door(peers, lambda: registry.sealed, broken)
    door.serve(signer_pb2.DESCRIPTOR.services_by_name["Signer"], signer)
    door.serve(registry_pb2.DESCRIPTOR.services_by_name["Registry"], registry)
    return Built(door=door, keys=keys, operators=operators, rewrapper=rewrapper, broken=broken)


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
    built = build(config, set(asked.broken))
    pair = (config.key.read_bytes(), config.certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], config.client_ca.read_bytes(), require_client_auth=True)
    server, port = serve(built.door, credentials)
    print(f"ready 127.0.0.1:{port}", flush=True)
    for line in sys.stdin:
        built.turn(line.split())
        print("done", flush=True)
    server.stop(0.5).wait()
    built.keys.close()


if __name__ == "__main__":
    main()
