"""Runs before any test module: gRPC must learn of its cipher suites before it is imported anywhere."""

import agentkeys_runtime.tls13  # noqa: F401 - imported for its effect
