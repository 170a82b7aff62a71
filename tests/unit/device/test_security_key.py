"""K11 on a security key: a real authenticator's firmware, the library's own framing and PIN protocol."""

import hashlib
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fido2 import cbor
from fido2.hid import CTAPHID
from fido2.hid.base import CtapHidConnection

from agentkeys_core.errors import Reason
from agentkeys_core.k11 import origin_hash
from agentkeys_core.webauthn_check import verify_assertion
from device.errors import DeviceError, Trouble
from device.home import Home
from device.k11.port import K11Kind, K11Record
from device.k11.usb import unreadable
from tests.fakes.security_key import PIN, U2F_ONLY, SecurityKey, SocketKey, at, lying
from tests.unit.device.key_kit import WRONG, Hands, Signed, browsing, made_on, refused, using

# --- what works -----------------------------------------------------------------------------------------------------


def test_a_key_is_made_and_approves(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    assert record.kind is K11Kind.SECURITY_KEY
    assert K11Record.parse(record.encode()) == record
    assert record.public.origin_hash == origin_hash("http://localhost:8722")
    key.do("away")
    hands = Hands(PIN, on_touch=lambda: key.do("once"))
    assertion = using(hands, key).approve(record, *signed)
    assert verify_assertion(assertion, challenge=signed[0].challenge, public=record.public)
    # What is approved is shown first, and the key is touched last.
    assert hands.said[0] == f"intent {signed[0].name.hex()}"
    assert hands.said[1] == "PIN of Testkey: "
    assert hands.said[2:] == ["Touch your security key now: Testkey"]


def test_nothing_that_k10_did_not_sign_or_nobody_is_shown_reaches_the_key(
    home: Home, signed: Signed, key: SecurityKey
) -> None:
    record = made_on(home, key)
    while key.asked:
        pass
    hands = Hands(PIN)
    with refused(Trouble.INTERNAL):
        using(hands, key).approve(record, replace(signed[0], digest=bytes(32), challenge=bytes(32)), signed[1])
    with refused(Trouble.INTERNAL):
        using(hands, key).approve(record, signed[0], replace(signed[1], digest=bytes(32)))
    assert not hands.said
    assert not key.asked


def test_browser_and_usb_ask_for_each_others_keys(home: Home, signed: Signed, key: SecurityKey) -> None:
    page, usb = browsing(key), using(Hands(PIN, PIN), key)
    for maker, asker in ((page, usb), (usb, page)):
        record = maker.create(home, device_key_hash=bytes(32))
        assertion = asker.approve(record, *signed)
        assert verify_assertion(assertion, challenge=signed[0].challenge, public=record.public)


# --- PIN and finger -------------------------------------------------------------------------------------------------


def test_a_wrong_pin_is_said_with_the_tries_that_are_left(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    hands = Hands(WRONG, PIN)
    using(hands, key).approve(record, *signed)
    assert "Wrong PIN; 7 tries left before the key blocks it. PIN of Testkey: " in hands.said
    assert key.tries_left() == 8


def test_what_cannot_be_a_pin_uses_up_no_try(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    with refused(Trouble.DECLINED):
        using(Hands("123", "x" * 64), key).approve(record, *signed)
    assert key.tries_left() == 8


def test_pins_are_the_same_however_they_are_typed(home: Home, fresh_key: Callable[..., SecurityKey]) -> None:
    key = fresh_key()
    key.set_pin("caf\u00e9s")  # composed, as CTAP wants it
    made_on(home, key, "cafe\u0301s")
    assert key.tries_left() == 8


def test_three_wrong_pins_need_a_new_start_and_eight_are_the_end(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    with refused(Trouble.K11_PIN_BLOCKED, saying="plug it in again"):
        using(Hands(*[WRONG] * 5), key).approve(record, *signed)
    with refused(Trouble.K11_PIN_BLOCKED, saying="plug it in again"):  # the right one does not help either
        using(Hands(PIN), key).approve(record, *signed)
    for _ in range(2):
        key.do("unplug")
        key.do("plug")
        with refused(Trouble.K11_PIN_BLOCKED):
            using(Hands(*[WRONG] * 5), key).approve(record, *signed)
    with refused(Trouble.K11_PIN_BLOCKED, saying="for good"):
        using(Hands(PIN), key).approve(record, *signed)


def test_a_key_without_a_pin_says_how_to_go_on(home: Home, fresh_key: Callable[..., SecurityKey]) -> None:
    hands = Hands(PIN)
    with refused(Trouble.K11_PIN_NOT_SET, saying="Testkey"):
        using(hands, fresh_key()).create(home, device_key_hash=bytes(32))
    assert "PIN of" not in hands.text


def test_a_key_whose_pin_must_be_changed_first_says_so(home: Home, key: SecurityKey) -> None:
    def must_change(cmd: int, request: bytes, answer: bytes) -> bytes:
        if cmd != CTAPHID.CBOR or request != b"\x04":
            return answer
        told: Any = cbor.decode(answer[1:])
        return answer[:1] + cbor.encode({**told, 12: True})

    with refused(Trouble.K11_PIN_NOT_SET):
        using(Hands(PIN), lying(key, must_change)).create(home, device_key_hash=bytes(32))
    assert key.tries_left() == 8


def test_a_finger_stands_for_the_pin(home: Home, signed: Signed, fresh_key: Callable[..., SecurityKey]) -> None:
    key = fresh_key("Testkey", "--finger")
    key.set_pin()
    hands = Hands()
    record = using(hands, key).create(home, device_key_hash=bytes(32))
    assert verify_assertion(
        using(hands, key).approve(record, *signed), challenge=signed[0].challenge, public=record.public
    )
    assert "PIN of" not in hands.text


def test_a_strangers_finger_is_asked_for_again_and_then_for_the_pin(
    home: Home, signed: Signed, fresh_key: Callable[..., SecurityKey]
) -> None:
    key = fresh_key("Testkey", "--finger")
    key.set_pin()
    record = made_on(home, key)
    key.do("stranger")
    hands = Hands(PIN)
    using(hands, key).approve(record, *signed)
    assert "Not recognised. Put your finger" in hands.text
    assert "PIN of Testkey" in hands.text


def test_the_pin_is_nowhere(
    home: Home, signed: Signed, key: SecurityKey, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(0)
    logging.getLogger("fido2").setLevel(1)  # packets and all
    try:
        record = made_on(home, key)
        hands = Hands(WRONG, WRONG, WRONG)
        with pytest.raises(DeviceError) as caught:
            using(hands, key).approve(record, *signed)
    finally:
        logging.getLogger("fido2").setLevel(0)
    assert "SEND" in caplog.text  # it was listened to
    out, err = capfd.readouterr()
    said = [caplog.text, hands.text, out, err, repr(caught.value), str(caught.value)]
    for pin in (PIN, WRONG):
        for text in (pin, pin.encode().hex(), hashlib.sha256(pin.encode()).hexdigest()[:32]):
            assert not [words for words in said if text in words]


# --- which key ------------------------------------------------------------------------------------------------------


def test_a_key_that_does_not_hold_it_is_told_before_anybody_types(
    home: Home, signed: Signed, key: SecurityKey, fresh_key: Callable[..., SecurityKey]
) -> None:
    record = made_on(home, key)
    other = fresh_key("Other")
    other.set_pin()
    hands = Hands(PIN)
    with refused(Trouble.K11_MISSING, saying="Other"):
        using(hands, other).approve(record, *signed)
    assert len(hands.said) == 1  # the intent
    assert not other.asked


def test_of_two_keys_the_one_that_holds_it_is_asked(
    home: Home, signed: Signed, key: SecurityKey, fresh_key: Callable[..., SecurityKey]
) -> None:
    record = made_on(home, key)
    other = fresh_key("Other")
    other.set_pin("000000")
    hands = Hands(PIN)
    using(hands, other, key).approve(record, *signed)
    assert not other.asked
    assert "Other" not in hands.text


def test_a_key_that_talks_nonsense_does_not_hide_the_right_one(
    home: Home, signed: Signed, key: SecurityKey, fresh_key: Callable[..., SecurityKey]
) -> None:
    record = made_on(home, key)
    other = fresh_key("Testkey2")
    other.set_pin()

    def nonsense(cmd: int, request: bytes, answer: bytes) -> bytes:
        return b"\0\xff" if cmd == CTAPHID.CBOR and request[:1] == b"\x02" else answer

    using(Hands(PIN), lying(other, nonsense), key).approve(record, *signed)
    with refused(Reason.K11_INVALID):
        using(Hands(PIN), lying(other, nonsense)).approve(record, *signed)


def test_keys_of_one_name_are_told_apart(home: Home, key: SecurityKey, fresh_key: Callable[..., SecurityKey]) -> None:
    twin = replace(fresh_key("Twin").plugged, name=key.name)  # without a PIN
    for plugged in ((twin, key), (key, twin)):
        using(Hands(PIN), *plugged).create(home, device_key_hash=bytes(32))


def older(cmd: int, request: bytes, answer: bytes) -> bytes:
    """As a key of CTAP 2.0, which can be selected by a dummy request only."""
    if cmd == CTAPHID.CBOR and request == b"\x04":
        told: Any = cbor.decode(answer[1:])
        return answer[:1] + cbor.encode({**told, 1: ["U2F_V2", "FIDO_2_0"]})
    return answer


@pytest.mark.parametrize("old", [False, True])
def test_of_two_keys_a_new_one_is_made_on_the_one_that_is_touched(
    home: Home, fresh_key: Callable[..., SecurityKey], *, old: bool
) -> None:
    keys = [fresh_key("Left"), fresh_key("Right")]
    for made in keys:
        made.set_pin()
        made.do("away")
    plugged = [lying(made, older) if old else made.plugged for made in keys]
    hands = Hands(PIN, on_touch=lambda: keys[1].do("once"))

    def touch() -> None:
        for made in keys:
            made.wait_until_asked()
        keys[1].do("once")

    toucher = threading.Thread(target=touch)
    toucher.start()
    record = using(hands, *plugged).create(home, device_key_hash=bytes(32))
    toucher.join()
    assert "Touch the one to use: Left, Right." in hands.text
    assert "PIN of Right" in hands.text
    assert [made.holds(record.credential_id) for made in keys] == [False, True]


def test_a_key_that_cannot_serve_is_left_out(
    home: Home, key: SecurityKey, fresh_key: Callable[..., SecurityKey]
) -> None:
    hands = Hands(PIN)
    using(hands, fresh_key("NoPin"), key).create(home, device_key_hash=bytes(32))
    assert "Touch the one to use" not in hands.text


def test_a_key_of_u2f_alone_is_refused(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    plugged = lying(key, capabilities=U2F_ONLY)
    for run in (
        lambda it: it.create(home, device_key_hash=bytes(32)),
        lambda it: it.approve(record, *signed),
    ):
        with refused(Trouble.K11_KEY_UNSUITABLE, saying="U2F"):
            run(using(Hands(PIN), plugged))


FIDO_REPORT = bytes.fromhex("06d0f10901a1010920150026ff0075089540810209211500 26ff00750895409102c0".replace(" ", ""))


@pytest.mark.parametrize("report", [FIDO_REPORT, bytes.fromhex("05010902a1010901a100c0c0"), b""])
def test_a_key_that_this_user_may_not_open_is_named(
    tmp_path: Path, report: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = tmp_path / "sysfs" / "hidraw3" / "device"
    entry.mkdir(parents=True)
    (entry / "report_descriptor").write_bytes(report)
    opened = Path.open

    def guarded(path: Path, *args: Any, **words: Any) -> Any:  # root may open everything
        if path.name == "hidraw3":
            raise PermissionError(path)
        return opened(path, *args, **words)

    monkeypatch.setattr(Path, "open", guarded)
    found = list(unreadable(tmp_path / "sysfs", tmp_path / "dev"))
    assert found == ([str(tmp_path / "dev" / "hidraw3")] if report is FIDO_REPORT else [])
    assert list(unreadable(tmp_path / "nothing", tmp_path / "dev")) == []


# --- what goes wrong meanwhile --------------------------------------------------------------------------------------


def test_a_key_that_is_pulled_out(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    key.do("away")
    with refused(Trouble.K11_KEY_LOST):
        using(Hands(PIN, on_touch=lambda: key.do("unplug")), key).approve(record, *signed)
    with refused(Trouble.K11_KEY_LOST):
        using(Hands(PIN), key).approve(record, *signed)


def test_a_key_that_nobody_touches(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    key.do("away")
    with refused(Trouble.K11_TIMEOUT):  # the key gives up
        using(Hands(PIN, on_touch=lambda: key.do("later")), key).approve(record, *signed)
    with refused(Trouble.K11_TIMEOUT):  # this program does
        using(Hands(PIN), key, timeout_s=0.5).approve(record, *signed)
    key.do("ready")  # and it has told the key
    using(Hands(PIN), key).approve(record, *signed)


def test_declining_on_the_key(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    key.do("decline")
    with refused(Trouble.DECLINED):
        using(Hands(PIN), key).approve(record, *signed)


def test_ctrl_c_ends_it_and_frees_the_key(home: Home, signed: Signed, key: SecurityKey) -> None:
    record = made_on(home, key)
    key.do("away")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        using(Hands(PIN, on_touch=interrupt), key).approve(record, *signed)
    key.do("ready")
    using(Hands(PIN), key).approve(record, *signed)


def test_a_key_that_may_be_seen_but_not_opened(home: Home, tmp_path: Path) -> None:
    class Locked(SocketKey):
        def connect(self) -> CtapHidConnection:
            raise PermissionError(self.descriptor.path)

    locked = Locked(name="Locked", descriptor=at(tmp_path / "locked", "Locked").descriptor)
    with refused(Trouble.K11_KEY_NOT_FOUND, saying="may not open"):
        using(Hands(PIN), locked).create(home, device_key_hash=bytes(32))


def test_a_key_that_does_not_answer(home: Home, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        with refused(Trouble.K11_KEY_LOST, saying="does not answer"):
            using(Hands(PIN), at(tmp_path / "mute", "Mute"), answer_s=0.2).create(home, device_key_hash=bytes(32))
