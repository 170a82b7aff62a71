"""The floor: a gRPC server of 8 threads behind the same mTLS, whose one method does nothing.

python -m tests.perf.noop CERTIFICATE_FOLDER
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentkeys_runtime import tls13  # noqa: F401 - before grpc

# isort: split
import grpc

from agentkeys_runtime.mtls import server_credentials

SERVICE = "bench.Noop"
METHOD = f"/{SERVICE}/Call"
THREADS = 8


def main(folder: Path) -> None:
    """Serve until the process is ended."""
    call: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")
    server = grpc.server(
        ThreadPoolExecutor(THREADS),
        handlers=[grpc.method_handlers_generic_handler(SERVICE, {"Call": call})],
        compression=grpc.Compression.NoCompression,
    )
    credentials = server_credentials(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
