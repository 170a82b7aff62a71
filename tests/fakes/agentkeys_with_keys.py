"""`agentkeys` on a machine where the keys at the sockets of AGENTKEYS_TEST_KEYS are plugged in."""

import os
from pathlib import Path

from device.cli import main
from device.k11 import usb
from tests.fakes.security_key import finder

PATHS = [Path(path) for path in os.environ.get("AGENTKEYS_TEST_KEYS", "").split(os.pathsep) if path]
usb.plugged_in = finder(PATHS, [path.stem for path in PATHS])
main()
