from typing import Any

import pytest

from agentkeys_runtime.config import ConfigError, load_config
from signer.config import SignerConfig

BASE = {
    "": 'trust_domain = "t"\nlisten = "127.0.0.1:0"\nstate_dir = "state"\nvault = "v.bin"\n',
    "tls": 'certificate = "c"\nkey = "k"\nclient_ca = "a"\nrevocation_list = "r"\n',
}
STS = {
    "endpoint": '"https://sts.example.org"',
    "audience": '"sts"',
    "issuer": '"https://issuer.example.org"',
    "bucket": '"bucket"',
}


def load(tmp_path: Any, **tables: Any) -> Any:
    text = "".join(
        (f"[{name}]\n" if name else "") + BASE.get(name, "") + tables.get(name or "top", "")
        for name in ["", *sorted({"tls", *tables} - {"top"})]
    )
    (tmp_path / "signer.toml").write_text(text)
    return load_config(tmp_path / "signer.toml", SignerConfig)


def sts(**changes: Any) -> Any:
    return "".join(f"{name} = {value}\n" for name, value in {**STS, **changes}.items())


def test_paths_start_at_the_files_folder(tmp_path: Any) -> None:
    config = load(tmp_path)
    assert config.database == tmp_path / "state" / "state.db"
    assert config.vault == tmp_path / "v.bin"
    assert (config.host, config.port, config.threads, config.processes) == ("127.0.0.1", 0, 16, 1)
    assert config.reflection
    assert not config.registry.allow_software_k11


def test_reads_every_table(tmp_path: Any) -> None:
    config = load(
        tmp_path,
        top="processes = 2\nreflection = false\n",
        sts=sts() + '[sts.role_arns]\ncredentials = ["arn:a"]\n',
        limits="device_per_s = 5\n",
        unseal='method = "key-file"\nkey_file = "key"\n',
        profile='broker = "https://b"\nworkers = {audit = "https://a"}\n',
    )
    assert config.sts.role_arns.credentials == ("arn:a",)
    assert config.limits.device_per_s == 5.0
    assert config.unseal.key_file == tmp_path / "key"
    assert config.profile.workers == {"audit": "https://a"}


@pytest.mark.parametrize(
    "tables",
    [
        {"top": 'listn = "x"\n'},
        {"top": "processes = 0\n"},
        {"top": "threads = 1000\n"},
        {"top": 'threads = "8"\n'},
        {"limits": "device_per_s = 0\n"},
        {"limits": "max_in_flight = -1\n"},
        {"unseal": 'method = "none"\n'},
        {"unseal": 'method = "key-file"\n'},
        {"unseal": 'key_file = "k"\n'},
        {"unseal": 'method = "key-file"\nkey_file = "k"\npassphrase_file = "p"\n'},
        {"sts": sts(endpoint='"http://sts.example.org"')},
        {"sts": sts(endpoint='"https://sts.example.org/path"')},
        {"sts": sts(bucket='"b*"')},
        {"sts": sts(audience='""')},
        {"sts": sts(issuer='"https://issuer.example.org/"')},
    ],
)
def test_refuses_what_it_does_not_understand(tmp_path: Any, tables: Any) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, **tables)


@pytest.mark.parametrize("listen", ["", "8443", "host:", "host:70000", ":1", "a b:1", "::1:80"])
def test_refuses_an_address_that_is_none(tmp_path: Any, listen: Any) -> None:
    (tmp_path / "signer.toml").write_text(BASE[""].replace("127.0.0.1:0", listen) + "[tls]\n" + BASE["tls"])
    with pytest.raises(ConfigError):
        load_config(tmp_path / "signer.toml", SignerConfig)


def test_takes_plain_http_only_on_loopback(tmp_path: Any) -> None:
    assert load(tmp_path, sts=sts(endpoint='"http://127.0.0.1:9000"')).sts.endpoint == "http://127.0.0.1:9000"


ISSUER_ENTRY = '[[evidence.oidc]]\nissuer = "https://i.example"\nclient_id = "c"\njwks = "i.json"\n'


def test_takes_no_evidence_that_is_not_named(tmp_path: Any) -> None:
    evidence = load(tmp_path).evidence
    assert (evidence.oidc, evidence.passkey, evidence.email) == ((), None, False)


def test_reads_which_evidence_counts(tmp_path: Any) -> None:
    passkey = '[evidence.passkey]\nrp_id = "b.example"\norigins = ["https://b.example"]\n'
    evidence = load(tmp_path, evidence="email = true\n" + passkey + ISSUER_ENTRY).evidence
    assert evidence.email
    assert evidence.passkey.origins == ("https://b.example",)
    assert [(entry.jwks, entry.identity) for entry in evidence.oidc] == [(tmp_path / "i.json", "oidc")]


@pytest.mark.parametrize(
    "table",
    [
        ISSUER_ENTRY * 2,
        ISSUER_ENTRY.replace("i.example", "i|example"),
        ISSUER_ENTRY.replace('"c"', '""'),
        ISSUER_ENTRY + 'identity = "evm"\n',
        ISSUER_ENTRY
        + 'identity = "oauth2_google"\n'
        + ISSUER_ENTRY.replace("i.e", "j.e")
        + 'identity = "oauth2_google"\n',
        '[evidence.passkey]\nrp_id = "b.example"\norigins = []\n',
        '[evidence.passkey]\nrp_id = ""\norigins = ["https://b.example"]\n',
    ],
)
def test_refuses_evidence_that_would_mix_people_up(tmp_path: Any, table: str) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, evidence=table)
