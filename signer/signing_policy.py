"""What wallets may sign: one TOML file that the host writes. What it does not name is refused.

`[siwe."<host name>"]` allows sign-ins to a host, `[[sign.<policy id>.allow]]` typed data under `sign:<policy id>`. The
decisions are pure; only `load_signing_policy` reads a file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from agentkeys_core.checksum import checksum_decode
from agentkeys_core.encoding import address_decode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import Op, Service
from agentkeys_core.siwe import SiweMessage
from agentkeys_core.typed_data import TypedData, Value, kind_at
from agentkeys_core.typed_data_types import TypeSet
from agentkeys_core.uri import scheme_of
from agentkeys_runtime.config import load_config

#: A sign-in is believed by others until it expires, whatever is revoked meanwhile.
MAX_LIFETIME_S: Final = 86_400
CLOCK_SKEW_S: Final = 60
_OWN_SCHEME: Final = "agentkeys"
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,77}")
_BAD: Final = Reason.INVALID_TYPED_DATA


def _refused(what: str) -> KeyServiceError:
    return KeyServiceError(Reason.POLICY_REFUSED, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiweHost:
    """Sign-ins to one host: on which chains, and how many seconds from now they may last at most."""

    chain_ids: tuple[int, ...]
    max_lifetime_s: int = 3600

    def __post_init__(self) -> None:
        if not self.chain_ids or min(self.chain_ids) < 1:
            raise ValueError("chain_ids names no chain")
        if not 1 <= self.max_lifetime_s <= MAX_LIFETIME_S:
            raise ValueError(f"max_lifetime_s is 1 to {MAX_LIFETIME_S}")

    def check(self, message: SiweMessage, *, now: float) -> None:
        """Return when the message may be signed now. Raises policy_refused."""
        if message.chain_id not in self.chain_ids:
            raise _refused("a sign-in on that chain is not allowed")
        expires = message.expiration_time
        if expires is None:
            raise _refused("a sign-in without Expiration Time would outlive every revocation")
        if expires.unix <= now:
            raise _refused("the sign-in has expired")
        if expires.unix > now + self.max_lifetime_s:
            raise _refused(f"a sign-in lasts at most {self.max_lifetime_s} s here")
        if message.not_before is not None and message.not_before.unix > now:
            raise _refused("the sign-in is for a later time")
        if message.issued_at.unix > now + CLOCK_SKEW_S:
            raise _refused("the sign-in was issued in the future")
        if any(scheme_of(uri) == _OWN_SCHEME for uri in (message.uri, *(message.resources or ()))):
            raise _refused("nothing of AgentKeys is granted by a sign-in")


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedRule:
    """One kind of typed data that a policy id allows, as the file has it.

    `type`: EIP-712 encodeType of the primary type, so that not only its name is fixed. `only`: path → the values that
    may stand there. `ends_within_s`: path of a time → how many seconds ahead it may be at most. `k11_above`: path of a
    number → the largest that needs no K11; without any bound every signature needs K11.
    """

    type: str
    chain_ids: tuple[int, ...]
    verifying_contracts: tuple[str, ...]
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ends_within_s: Mapping[str, int] = field(default_factory=dict)
    k11_above: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            types = TypeSet.of_text(self.type)
            _ = [_address(text) for text in self.verifying_contracts]
        except KeyServiceError as exc:
            raise ValueError(exc.detail) from exc
        if not self.chain_ids or min(self.chain_ids) < 1 or not self.verifying_contracts:
            raise ValueError("a rule names its chains and its contracts")
        for path in (*self.k11_above, *self.ends_within_s):
            kind = kind_at(types, path)
            if kind is None or not kind.is_integer:
                raise ValueError(f"{path} is no number of that type")
        for path, values in self.only.items():
            kind = kind_at(types, path)
            if kind is None or kind.sizes or kind.base in types.structs or not values:
                raise ValueError(f"{path} is no single value of that type, or nothing is allowed there")
        if any(_DECIMAL.fullmatch(bound) is None for bound in self.k11_above.values()):
            raise ValueError("a bound is a decimal number, written as text")
        if any(seconds < 1 for seconds in self.ends_within_s.values()):
            raise ValueError("ends_within_s is at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedPolicy:
    """Everything that one policy id allows."""

    allow: tuple[TypedRule, ...]

    def __post_init__(self) -> None:
        if not self.allow:
            raise ValueError("allow names nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningPolicyFile:
    """The file: host name → sign-ins, policy id → typed data."""

    siwe: Mapping[str, SiweHost] = field(default_factory=dict)
    sign: Mapping[str, TypedPolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for op, names in ((Op.SIWE_SIGN, self.siwe), (Op.TYPED_DATA_SIGN, self.sign)):
            prefix = "siwe" if op is Op.SIWE_SIGN else "sign"
            for name in names:
                try:
                    Service.parse(f"{prefix}:{name}", op)
                except KeyServiceError as exc:
                    raise ValueError(f"{name!r} cannot be a service") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the policy says of typed data: whether K11 is needed, or why it is refused."""

    k11: bool = True
    refusal: KeyServiceError | None = None


class _Rule:
    """A rule with its texts read once."""

    __slots__ = ("_bounds", "_chains", "_contracts", "_ends", "_only", "_type")

    def __init__(self, rule: TypedRule) -> None:
        self._type = rule.type
        self._chains = frozenset(rule.chain_ids)
        self._contracts = frozenset(_address(text) for text in rule.verifying_contracts)
        self._only = {path: frozenset(map(_comparable, values)) for path, values in rule.only.items()}
        self._ends = dict(rule.ends_within_s)
        self._bounds = {path: int(bound) for path, bound in rule.k11_above.items()}

    def allows(self, typed: TypedData, *, now: float) -> bool:
        """Whether everything but K11 is as the rule wants it."""
        return (
            typed.types.encode_type() == self._type
            and typed.domain.get("chainId") in self._chains
            and typed.domain.get("verifyingContract") in self._contracts
            and all(_text_of(value) in allowed for path, allowed in self._only.items() for value in typed.at(path))
            and all(_number(value) <= now + ahead for path, ahead in self._ends.items() for value in typed.at(path))
        )

    def needs_k11(self, typed: TypedData) -> bool:
        """Whether a value is above its bound, or there is no bound at all."""
        within = all(_number(value) <= bound for path, bound in self._bounds.items() for value in typed.at(path))
        return not (self._bounds and within)


class SigningPolicy:
    """Decides what a wallet may sign. Without a file it allows nothing."""

    def __init__(self, file: SigningPolicyFile | None = None) -> None:
        file = file or SigningPolicyFile()
        self._siwe = MappingProxyType(dict(file.siwe))
        self._sign = MappingProxyType({name: tuple(map(_Rule, found.allow)) for name, found in file.sign.items()})

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """The policy of a file, the one that allows nothing for None.

        Raises:
            ConfigError: unreadable, unknown or missing keys, a type, path, address or bound that is none.
        """
        return cls(None if path is None else load_config(path, SigningPolicyFile))

    def check_siwe(self, service: Service, message: SiweMessage, *, now: float) -> None:
        """Return when this sign-in may be signed under that service. Raises policy_refused."""
        host = self._siwe.get(service.name)
        if host is None:
            raise _refused("sign-ins to that host are not allowed here")
        if message.domain != service.name:
            raise _refused("the message signs in elsewhere than the request says")
        host.check(message, now=now)

    def judge_typed_data(self, service: Service, typed: TypedData, *, now: float) -> Verdict:
        """What is allowed under that policy id, and whether K11 must stand behind it: by the first rule that fits."""
        rules = self._sign.get(service.name, ())
        rule = next((rule for rule in rules if rule.allows(typed, now=now)), None)
        if rule is None:
            # K11 would not help: let the device hear that instead of asking its user for a touch.
            return Verdict(k11=False, refusal=_refused("no rule of that policy allows this typed data"))
        return Verdict(k11=rule.needs_k11(typed))


def _address(text: str) -> bytes:
    return address_decode(text, reason=_BAD) if text == text.lower() else checksum_decode(text, reason=_BAD)


def _comparable(text: str) -> str:
    """A value of `only` as `_text_of` writes it: 0x-hex in lower case."""
    return text.lower() if text.startswith("0x") else text


def _text_of(value: Value) -> str:
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError("the paths of a rule were checked when it was read")
    return value
