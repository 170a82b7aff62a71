"""The same signatures verified by bare coincurve: what a batch of VerifyK10Sig is held against.

    python -m tests.perf.libsecp

Each line of standard input names a file of VerifyK10SigRequest; the answer is the CPU time of all, in microseconds.
"""

import sys
import time
from pathlib import Path

from coincurve import PublicKey
from coincurve.ecdsa import cdata_to_der, deserialize_compact

from agentkeys.signer.v1 import signer_pb2
from agentkeys_core.proof import k10_digest
from tests.perf.load import read_payloads

_NS_PER_US = 1000


def main() -> None:
    """Do what each line says, until there are no more."""
    print("ready", flush=True)
    for line in sys.stdin:
        requests = [signer_pb2.VerifyK10SigRequest.FromString(data) for data in read_payloads(Path(line.strip()))]
        prepared = [
            (
                PublicKey(request.public_key),
                cdata_to_der(deserialize_compact(request.signature)),
                k10_digest("cap", request.payload),
            )
            for request in requests
        ]
        before = time.process_time_ns()
        valid = [key.verify(signature, digest, hasher=None) for key, signature, digest in prepared]
        used = (time.process_time_ns() - before) / _NS_PER_US
        assert all(valid)
        print(used, flush=True)


if __name__ == "__main__":
    main()
