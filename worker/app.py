"""Wires a worker: the only place where its adapters and its logic meet."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from agentkeys_core.encoding import strict_json
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.keys import ES256PublicKey
from agentkeys_core.ops import OPS, Effect, ObjectClass, Op, WorkerClass
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import read_limited
from agentkeys_runtime.identity import CallerRole
from agentkeys_runtime.logs import log_event
from agentkeys_runtime.mtls import client_channel
from agentkeys_runtime.registry_client import RegistryFollower
from agentkeys_runtime.signer_batches import GatheringSignerClient
from agentkeys_runtime.signer_client import SignerClient
from agentkeys_runtime.web.app import create_app
from agentkeys_runtime.web.endpoints import Endpoint
from agentkeys_runtime.web.own_certificate import check_own_certificate
from agentkeys_runtime.web.registry_routes import registry_endpoints
from agentkeys_runtime.web.registry_source import PinnedRegistry, RegistrySource
from agentkeys_runtime.web.serve import listen_on, serve
from worker.adapters.deletions_local import LocalDeletions
from worker.adapters.objects_local import LocalObjects
from worker.adapters.objects_s3 import Bucket, S3Objects
from worker.adapters.signer import AdmittedSigner, TreeSigner
from worker.adapters.store_local import LocalStore
from worker.adapters.tree_sqlite import SqliteTree
from worker.admission import Admission
from worker.auditlog import AuditLog
from worker.checkpoints import Notary, Periodic
from worker.config import ObjectsConfig, WorkerConfig
from worker.credentials import ObjectService
from worker.ports import ObjectStore, Signer
from worker.rewrap import Report, rewrap_all
from worker.web.checkpoint_routes import checkpoint_endpoints
from worker.web.routes import Operation, operation_endpoints

#: How long a start waits for the registry; after that it serves, and refuses by name until the registry is heard.
FIRST_WORD_S: Final = 5.0
_JWK_LIMIT: Final = 16_384  # bytes
_CA_LIMIT: Final = 262_144  # bytes
_LOG: Final = logging.getLogger("agentkeys.worker")


def run(config: WorkerConfig) -> None:
    """Serve until SIGTERM.

    Raises:
        ConfigError: certificate, keys, folder or address cannot be used.
    """
    check_own_certificate(
        config.tls.certificate,
        trust_domain=config.trust_domain,
        role=CallerRole.WORKER,
        worker_class=config.worker_class,
    )
    with opened(config) as app, listen_on(config.listen) as listener:
        serve(app, listener, config.tls)


@contextmanager
def opened(config: WorkerConfig) -> Iterator[ASGIApp]:
    """Yield the worker's application; afterwards its threads and channel are closed."""
    with ExitStack() as stack:
        cosign_keys = load_cosign_keys(config.cosign_keys)
        tls, signer = config.tls, config.signer
        channel = client_channel(signer.address, tls.certificate, tls.key, tls.ca, signer.server_name)
        follower = stack.enter_context(RegistryFollower(channel))
        client = GatheringSignerClient(channel)
        operations = _operations(config, AdmittedSigner(client))
        stack.callback(channel.close)  # what still waits for the signer ends with it
        checkpoints = _checkpoints(config, client, stack)
        if follower.wait_ready(FIRST_WORD_S):
            check_registry(follower, config.registry_id)
        else:
            log_event(_LOG, "registry_not_heard", level=logging.WARNING)
        registry = PinnedRegistry(follower, config.registry_id)
        admission = Admission(
            worker_class=config.worker_class,
            aud=config.registry_id,
            cosign_keys=cosign_keys,
            registry=registry,
            clock=time.time,
        )
        endpoints = (*operation_endpoints(admission, operations), *checkpoints, *registry_endpoints(registry))
        yield create_app(f"AgentKeys {config.worker_class} worker", endpoints, addresses=config.addresses)


def rewrap(config: WorkerConfig) -> Report:
    """Bring every object of this worker's folder under the current epoch, and say what was done.

    Raises:
        ConfigError: certificate or folder cannot be used, or the worker keeps no objects.
        KeyServiceError: window_closed and whatever else ends the walk; run again, it goes on.
    """
    if config.objects is None:
        raise ConfigError(f"a worker of class {config.worker_class} keeps no objects")
    if config.objects.directory is None:
        raise ConfigError(
            "objects: only those of a directory can be walked; a bucket opens for a device's request alone"
        )
    object_class = ObjectClass[config.worker_class.name]
    tls, signer = config.tls, config.signer
    with (
        client_channel(signer.address, tls.certificate, tls.key, tls.ca, signer.server_name) as channel,
        LocalObjects(config.objects.directory) as objects,
    ):
        return rewrap_all(objects, SignerClient(channel), object_class)


def check_registry(registry: RegistrySource, registry_id: str) -> None:
    """Return where the registry that was heard is the pinned one; one that fell silent is refused by each request.

    Raises:
        ConfigError: another registry answers; every cap would be refused.
    """
    with suppress(KeyServiceError):
        found = registry.status().registry_id
        if found != registry_id:
            raise ConfigError(f"registry_id: the signer's registry is another one, {found}")


def _operations(config: WorkerConfig, signer: Signer) -> Mapping[Op, Operation]:
    """What a worker of this class serves. A worker without objects is the audit worker."""
    if config.objects is None:
        return {Op.AUDIT_LIST: AuditLog(signer).list}
    service = ObjectService(signer=signer, objects=_object_store(config.objects, signer))
    return object_operations(service, config.worker_class)


def _checkpoints(config: WorkerConfig, client: SignerClient, stack: ExitStack) -> tuple[Endpoint, ...]:
    """The routes of checkpoints, which are signed now and then from here on; none where they are not configured."""
    if config.checkpoints is None:
        return ()
    tree = SqliteTree(config.checkpoints.directory)
    stack.callback(tree.close)
    notary = Notary(signer=TreeSigner(client), tree=tree, registry_id=config.registry_id)
    periodic = Periodic(notary, config.checkpoints.every_s)
    periodic.start()
    stack.callback(periodic.close)
    return checkpoint_endpoints(notary)


def _object_store(config: ObjectsConfig, signer: Signer) -> ObjectStore:
    """Where the configuration says that objects lie."""
    if config.s3 is not None:
        found = config.s3
        ca = None if found.ca is None else read_limited(found.ca, _CA_LIMIT)
        bucket = Bucket(endpoint=found.endpoint, region=found.region, name=found.bucket, role_arn=found.role_arn, ca=ca)
        return S3Objects(bucket, signer)
    if config.directory is None:  # the configuration has seen to it; this tells the type checker
        raise ConfigError("objects: neither a directory nor a bucket")
    # Not closed before the process ends: a request that outlives the server must not find the descriptor used anew.
    objects = LocalObjects(config.directory)
    return LocalStore(objects, LocalDeletions(objects))


def object_operations(
    service: ObjectService, worker_class: WorkerClass = WorkerClass.CREDENTIALS
) -> Mapping[Op, Operation]:
    """Every operation of a class that keeps objects, by what it does to them."""
    by_effect: Mapping[Effect, Operation] = {
        Effect.WRITE: service.store,
        Effect.READ: service.fetch,
        Effect.LIST: service.list,
        Effect.DELETE: service.delete,
    }
    return {op: by_effect[rule.effect] for op, rule in OPS.items() if rule.worker_class is worker_class}


def load_cosign_keys(paths: Sequence[Path]) -> Mapping[str, ES256PublicKey]:
    """Return the pinned broker keys by kid.

    Raises:
        ConfigError: a file that is no public JWK.
    """
    found: dict[str, ES256PublicKey] = {}
    for path in paths:
        data = read_limited(path, _JWK_LIMIT)
        try:
            key = ES256PublicKey.from_jwk(strict_json(data, limit=_JWK_LIMIT, reason=Reason.INVALID_ENCODING))
        except KeyServiceError as error:
            raise ConfigError(f"{path}: {error}") from error
        found[key.kid] = key
    return found
