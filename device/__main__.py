"""`python -m device` is `agentkeys`."""

from device.cli import main

main()
