from pathlib import Path

import pytest

from certs.ca import Authority

TRUST_DOMAIN = "keys.example.org"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A fresh authority in a folder of its own."""
    return Authority.create(tmp_path / "ca", TRUST_DOMAIN)
