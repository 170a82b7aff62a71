"""`python -m signer` is `agentkeys-signer`."""

from signer.cli import main

if __name__ == "__main__":
    main()
