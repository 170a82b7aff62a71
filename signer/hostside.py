"""The side of a running signer that its host talks to, in the one process that holds the socket."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from agentkeys_core.audit import AuditRow
from agentkeys_core.encoding import hex_decode, hex_encode
from agentkeys_core.errors import Reason
from agentkeys_core.keys import ES256PublicKey
from signer.adapters.committer import Committer
from signer.adapters.database import Database, read_meta
from signer.adapters.epoch_store import EpochStore
from signer.adapters.ledger import SqlLedger
from signer.adapters.registry_embedded import EmbeddedRegistry
from signer.adapters.registry_stamp import SharedStamp
from signer.clock import SystemClock
from signer.config import SignerConfig
from signer.epoch_board import EpochBoard, EpochKeeper
from signer.gate import Gate
from signer.hostactions import HostActions
from signer.hostsocket import Handler, HostSocket
from signer.journal import read_head
from signer.keyring import Keyring
from signer.prefork import StopFlag
from signer.rotation import Rotation
from signer.vault import Vault, VaultKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What every process of one signer shares, made before any fork."""

    config: SignerConfig
    keyring: Keyring
    vault_key: VaultKey
    gate: Gate
    board: EpochBoard
    allow_software_k11: bool
    stop: StopFlag

    def keeper(self, process: int) -> EpochKeeper:
        """What takes up new epochs in serving process number `process`."""
        return EpochKeeper(self.keyring, Vault(self.config.vault), self.vault_key, self.board, process)


@contextmanager
def host_side(opened: Opened, database: Database, committer: Committer) -> Iterator[HostSocket]:
    """The socket with every host command, made and not started yet; removed at the end."""
    config, started_at = opened.config, int(time.time())

    def facts() -> Mapping[str, object]:
        with database.reading() as conn:
            meta, head = read_meta(conn), read_head(conn)
            salts = SqlLedger(conn).salts_by_epoch()
        return {
            "registry_id": meta.registry_id,
            "k3_epoch": meta.k3_epoch,
            "incarnation": meta.incarnation,
            "journal": f"{head.sequence}:{head.hash.hex()}",
            "processes": config.processes,
            "started_at": started_at,
            "salts_by_epoch": salts,
        }

    with database.reading() as conn:
        registry_id = read_meta(conn).registry_id
    stamp = SharedStamp.beside(config.database, registry_id)
    epochs = EpochStore(database, committer, stamp)
    rotation = Rotation(
        keyring=opened.keyring,
        vault=Vault(config.vault),
        key=opened.vault_key,
        board=opened.board,
        registry=epochs,
        served=partial(_served, config),
        gate=opened.gate,
        clock=SystemClock(),
    )

    def backup() -> Mapping[str, object]:
        epochs.note("backup")
        return {}

    registry = EmbeddedRegistry(
        database, committer, opened.keyring, SystemClock(), opened.allow_software_k11, seal_all=opened.gate.seal
    )

    def annul(operator: str) -> Mapping[str, object]:
        omni = hex_decode(operator, length=32, reason=Reason.INVALID_OMNI)
        row = AuditRow.parse(registry.annul(omni))
        return {"operator_omni": hex_encode(omni), "row_hash": hex_encode(row.row_hash)}

    actions = HostActions(keyring=opened.keyring, journal=committer, gate=opened.gate, facts=facts)
    more: Mapping[str, Handler] = {
        "rotate-prepare": rotation.prepare,
        "rotate-commit": rotation.commit,
        "backup": backup,
        "annul": annul,
    }
    host = HostSocket(config.host_socket, {**actions.handlers(), **more})
    try:
        yield host
    finally:
        host.close()
        actions.close()
        registry.close()
        stamp.close()


def _served(config: SignerConfig, path: str) -> Mapping[str, ES256PublicKey]:
    """The key set that the issuer's origin serves at `path`; raises as `IssuerReader.keys`."""
    from signer.adapters.issuer import IssuerReader  # noqa: PLC0415  # memory that only a rotation needs

    return IssuerReader(config.issuer_origin, config.issuer.ca).keys(path)
