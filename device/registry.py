"""The registry as the device sees it: what broker and workers say, side by side, since neither is believed alone."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from agentkeys_core.encoding import canonical_json, hex_encode
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.ops import WorkerClass
from agentkeys_core.registry import OperatorState
from agentkeys_core.shapes import integer
from device.errors import DeviceError, Trouble
from device.problems import check_refusal
from device.transport import Answer, Channel

#: Registry calls are small; a part that hangs must not hold up a revocation.
TIMEOUT_S: Final = 10.0
BROKER: Final = "broker"
CREDENTIALS: Final = "credentials worker"
AUDIT: Final = "audit worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The state of an operator as one part tells it. Nothing of it is signed."""

    source: str
    state: OperatorState

    @property
    def counters(self) -> tuple[int, int, int]:
        """What a change must carry: incarnation, nonce, freeze nonce."""
        return self.state.incarnation, self.state.nonce, self.state.freeze_nonce


class Routes:
    """The parts that read the registry and relay changes to it, by name."""

    __slots__ = ("_open", "names")

    def __init__(self, channel: Callable[[WorkerClass | None], Channel]) -> None:
        self._open: Mapping[str, Callable[[], Channel]] = {
            BROKER: lambda: channel(None),
            CREDENTIALS: lambda: channel(WorkerClass.CREDENTIALS),
            AUDIT: lambda: channel(WorkerClass.AUDIT),
        }
        self.names = tuple(self._open)

    def each(self, names: Sequence[str], call: Callable[[Channel], Answer]) -> dict[str, Answer | DeviceError]:
        """Call several parts at once and return what each answered, or why not."""

        def one(channel: Channel) -> Answer | DeviceError:
            try:
                return call(channel)
            except DeviceError as exc:
                return exc

        channels = [self._open[name]() for name in names]
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            return dict(zip(names, pool.map(one, channels), strict=True))

    def read(self, path: str, names: Sequence[str]) -> dict[str, object | Exception]:
        """GET a registry path at several parts; parsed JSON or the error of each."""
        found: dict[str, object | Exception] = {}
        for name, answer in self.each(names, lambda channel: channel.get(path, timeout_s=TIMEOUT_S)).items():
            try:
                found[name] = answer if isinstance(answer, DeviceError) else check_refusal(answer).json()
            except (DeviceError, KeyServiceError) as exc:
                found[name] = exc
        return found

    def told(self, path: str, parse: Callable[[object], OperatorState | None]) -> list[OperatorState]:
        """What every part says that answers and knows the operator; an answer that cannot be read counts as none."""
        states: list[OperatorState] = []
        for found in self.read(path, self.names).values():
            with suppress(DeviceError, KeyServiceError):
                state = None if isinstance(found, Exception) else parse(found)
                if state is not None:
                    states.append(state)
        return states

    def agreed(self, path: str, parse: Callable[[object], OperatorState | None]) -> list[View]:
        """Return the views of broker and credentials worker, or of the audit worker where neither answers.

        Raises:
            DeviceError, KeyServiceError: nobody answered; the first part's error.
        """
        failed: list[Exception] = []
        for names in ((BROKER, CREDENTIALS), (AUDIT,)):
            views: list[View] = []
            heard = False
            for name, found in self.read(path, names).items():
                try:
                    if isinstance(found, Exception):
                        raise found
                    state = parse(found)
                except (DeviceError, KeyServiceError) as exc:
                    failed.append(_distrust(exc))
                    continue
                heard = True
                if state is not None:
                    views.append(View(source=name, state=state))
            if heard:
                return views
        raise failed[0]


def _distrust(exc: Exception) -> Exception:
    """An answer that cannot be parsed is not trusted; a refusal stays what it is."""
    if isinstance(exc, KeyServiceError) and exc.reason in (Reason.INVALID_ENCODING, Reason.UNKNOWN_FIELDS):
        return DeviceError(Trouble.ANSWER_NOT_TRUSTED, f"a registry answer is malformed: {exc}")
    return exc


def operator_path(operator: bytes) -> str:
    """Where an operator's state is read."""
    return f"/v1/registry/operators/{hex_encode(operator)}"


def device_path(device_key_hash: bytes) -> str:
    """Where the state of a device's operator is read."""
    return f"/v1/registry/devices/{hex_encode(device_key_hash)}"


def state_of(operator: bytes) -> Callable[[object], OperatorState | None]:
    """Return a parser of this operator's state; None where the registry knows no such operator."""

    def parse(obj: object) -> OperatorState | None:
        if isinstance(obj, dict) and obj.get("devices") == []:
            return None
        state = OperatorState.from_json(obj)
        if state.operator_omni != operator:
            raise DeviceError(Trouble.ANSWER_NOT_TRUSTED, "the state of another operator")
        return state

    return parse


def same_view(views: Sequence[View]) -> bool:
    """Whether all parts tell the very same; a broker that has swallowed a change differs from a worker that has not."""
    return len({canonical_json(view.state.to_json()) for view in views}) <= 1


def lowest_incarnation(routes: Routes, operator: bytes) -> int:
    """Return the registry's incarnation as a first change needs it.

    It is the lowest told: a change signed for a later one could be kept and played then.

    Raises:
        DeviceError, KeyServiceError: nobody answered.
    """
    told: list[int] = []
    failed: list[Exception] = []
    for found in routes.read(operator_path(operator), (BROKER, CREDENTIALS)).values():
        if isinstance(found, dict):
            told.append(integer(found.get("incarnation"), "incarnation", reason=Reason.INVALID_ENCODING))
        else:
            failed.append(
                found if isinstance(found, Exception) else DeviceError(Trouble.ANSWER_NOT_TRUSTED, "no object")
            )
    if not told:
        raise failed[0]
    return min(told)
