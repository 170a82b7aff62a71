"""Leaves gRPC nothing but TLS 1.3. Import this before anything that imports grpc, first thing in a server's cli.

gRPC for Python has no setting for the least TLS version. It reads this variable once, when grpc is imported, and uses
it for TLS 1.2 and below only. The suite needs an RSA key; our server keys are ECDSA (mtls refuses any other), so a TLS
1.2 handshake finds no shared suite, while TLS 1.3 negotiates as ever. Clients that import this are not affected.
"""

import os
import sys
from typing import Final

VARIABLE: Final = "GRPC_SSL_CIPHER_SUITES"
SUITES: Final = "ECDHE-RSA-AES256-GCM-SHA384"

# Where grpc came first, only a variable that the process was started with, or an earlier import set, has had effect.
ENFORCED: Final = "grpc" not in sys.modules or os.environ.get(VARIABLE) == SUITES
os.environ[VARIABLE] = SUITES  # child processes inherit it: only ours are started from servers
