import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkeys_runtime.config import ConfigError, load_config, named, parse_config


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    certificate: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    name: str
    tls: Tls
    kind: Literal["credentials", "memory"] = named("class", default="memory")
    colour: Colour = Colour.RED
    count: int = 1
    rate: float = 1.0
    open: bool = False
    files: tuple[Path, ...] = ()
    arns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count is below zero")


LEAST = 'name = "x"\n[tls]\ncertificate = "c.pem"\n'


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "a.toml"
    path.write_text(text)
    return load_config(path, Settings)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'a.toml'}: ")
    return str(caught.value)


def test_fills_every_type(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        'name = "x"\nclass = "credentials"\ncolour = "blue"\ncount = 3\nrate = 2\nopen = true\n'
        'files = ["a", "/b"]\nlimit = 5\n[arns]\ncredentials = ["arn:1"]\n[tls]\ncertificate = "sub/c.pem"\nca = "/ca"\n',
    )
    assert found == Settings(
        name="x",
        kind="credentials",
        colour=Colour.BLUE,
        count=3,
        rate=2.0,
        open=True,
        files=(tmp_path / "a", Path("/b")),
        arns={"credentials": ("arn:1",)},
        limit=5,
        tls=Tls(certificate=tmp_path / "sub/c.pem", ca=Path("/ca")),
    )
    assert type(found.rate) is float


def test_takes_defaults(tmp_path: Path) -> None:
    found = load(tmp_path, LEAST)
    assert (found.kind, found.limit, found.tls.ca) == ("memory", None, None)


def test_paths_start_at_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.toml").write_text(LEAST)
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("a.toml"), Settings).tls.certificate == tmp_path / "c.pem"


@pytest.mark.parametrize(
    ("line", "named_key"),
    [
        ("nmae = 1\n", "unknown key nmae"),
        ("kind = 'memory'\n", "unknown key kind"),
        ("count = '3'\n", "count must be a whole number"),
        ("count = true\n", "count must be a whole number"),
        ("count = 1.0\n", "count must be a whole number"),
        ("rate = true\n", "rate must be a number"),
        ("rate = nan\n", "rate must be a number"),
        ("rate = inf\n", "rate must be a number"),
        ("open = 1\n", "open must be true or false"),
        ("files = 'a'\n", "files must be a list"),
        ("files = ['a', 3]\n", "files[1] must be a path"),
        ("files = ['']\n", "files[0] must be a path"),
        ('files = ["\\u0000"]\n', "files[0] must be a path"),
        ("colour = 'green'\n", "colour must be one of: red, blue"),
        ("class = 'audit'\n", "class must be one of: credentials, memory"),
        ("class = []\n", "class must be one of"),
        ("arns = []\n", "arns must be a table"),
        ("arns.memory = 'x'\n", "arns.memory must be a list"),
        ("limit = 'x'\n", "limit must be a whole number"),
        ("count = -1\n", "count is below zero"),
        ("count = 1\ncount = 2\n", "not TOML"),
        ("=\n", "not TOML"),
    ],
)
def test_names_the_wrong_key(tmp_path: Path, line: str, named_key: str) -> None:
    assert named_key in refused(tmp_path, line + LEAST)


def test_names_missing_and_nested_keys(tmp_path: Path) -> None:
    assert "missing key name" in refused(tmp_path, "[tls]\ncertificate = 'c'\n")
    assert "missing key tls.certificate" in refused(tmp_path, "name = 'x'\n[tls]\n")
    assert "unknown key tls.cart" in refused(tmp_path, LEAST + "cart = 1\n")
    assert "tls must be a table" in refused(tmp_path, "name = 'x'\ntls = 'y'\n")
    assert "missing key tls" in refused(tmp_path, "name = 'x'\n")


def test_refuses_nul_in_text(tmp_path: Path) -> None:
    assert "NUL" in refused(tmp_path, LEAST.replace('"x"', '"\\u0000"'))


def test_never_shows_values(tmp_path: Path) -> None:
    assert "hunter2" not in refused(tmp_path, "count = 'hunter2'\n" + LEAST)


def test_refuses_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path, Path("a\0b")):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path, Settings)
    large = tmp_path / "large.toml"
    large.write_text("#" * 300_000)
    with pytest.raises(ConfigError, match="larger"):
        load_config(large, Settings)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(binary, Settings)


def test_survives_deep_nesting(tmp_path: Path) -> None:
    assert "not TOML" in refused(tmp_path, "count = " + "[" * 50_000)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["certificate", "ca", "x"]), inner),
    ).flatmap(
        lambda value: st.dictionaries(
            st.sampled_from([entry.metadata.get("key", entry.name) for entry in dataclasses.fields(Settings)]),
            st.just(value) | st.just("x") | st.just({"certificate": "c"}),
        )
    )
)
@settings(max_examples=300, deadline=None)
def test_any_table_gives_settings_or_a_config_error(table: dict[str, Any]) -> None:
    try:
        found = parse_config(table, Settings, folder=Path("/f"))
    except ConfigError:
        return
    assert isinstance(found, Settings)


def test_mistakes_in_the_program_are_no_config_errors() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: int | str = 1

    @dataclass(frozen=True)
    class Stranger:
        value: bytes = b""

    for cls in (Odd, Stranger):
        with pytest.raises(TypeError):
            parse_config({"value": "x"}, cls, folder=Path("/f"))
