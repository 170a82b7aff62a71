"""The checks of DeriveCredKek without a wire: the service called by 8 threads on the state of a signer that is idle.

    python -m tests.perf.inprocess CONFIG CERTIFICATE_FOLDER

Each line of standard input names a file of requests; the answer is the CPU time of all its calls, in microseconds.
"""

import sys
import threading
import time
from pathlib import Path

from agentkeys.signer.v1 import signer_pb2
from agentkeys_runtime.config import load_config
from agentkeys_runtime.identity import identify
from signer.adapters.committer import Committer
from signer.adapters.database import free_bytes_of, open_state
from signer.adapters.registry_embedded import EmbeddedRegistry
from signer.clock import SystemClock
from signer.config import SignerConfig
from signer.keyring import Keyring
from signer.limits import Limits, Rate
from signer.policy import service_policy
from signer.refusals import Refusals
from signer.service import SignerService
from signer.unsealing import unsealer_of
from signer.vault import Vault
from tests.perf.deployment import TRUST_DOMAIN
from tests.perf.load import read_payloads

_PLENTY = Rate(per_s=1e9, burst=1e9)
_NS_PER_US = 1000


def main(config: SignerConfig, certificates: Path) -> None:
    """Do what each line says, until there are no more."""
    clock = SystemClock()
    with unsealer_of(config.unseal, passphrase_file=None, passphrase_fd=None) as unsealer:
        secrets = Vault(config.vault).open(unsealer)
    with Keyring(secrets) as keyring:
        database = open_state(config.database, keyring)
        with (
            Committer(database, keyring, clock) as committer,
            EmbeddedRegistry(database, committer, keyring, clock) as registry,
        ):
            service = SignerService(
                keyring=keyring,
                journalist=committer,
                snapshot=database.snapshot,
                glance=database.glance,
                registry=registry,
                clock=clock,
                policy=service_policy(config, registry_id=registry.status().registry_id),
                limits=Limits(certificate=_PLENTY, device=_PLENTY, monotonic=time.monotonic),
                refusals=Refusals(
                    committer, clock, free_bytes=free_bytes_of(config.state_dir), monotonic=time.monotonic
                ),
            )
            leaf, end, _ = (certificates / "cert.pem").read_bytes().partition(b"-----END CERTIFICATE-----\n")
            caller = identify(leaf + end, trust_domain=TRUST_DOMAIN, now=clock.now())

            def derive(requests: list[signer_pb2.DeriveCredKekRequest]) -> None:
                for request in requests:
                    service.derive_cred_kek(caller, request.cap, epoch=request.epoch, salt=request.salt)

            print("ready", flush=True)
            for line in sys.stdin:
                requests = [
                    signer_pb2.DeriveCredKekRequest.FromString(data) for data in read_payloads(Path(line.strip()))
                ]
                shares = [requests[number :: config.threads] for number in range(config.threads)]
                threads = [threading.Thread(target=derive, args=(share,)) for share in shares]
                before = time.process_time_ns()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                print((time.process_time_ns() - before) / _NS_PER_US, flush=True)
        database.close()


if __name__ == "__main__":
    main(load_config(Path(sys.argv[1]), SignerConfig), Path(sys.argv[2]))
