"""Mail on its way out: its answers depend on no address, it ends in time, and it leaves nothing behind."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.hashes import sha256
from broker import outbox
from broker.adapters import mail
from broker.adapters.mail import SmtpMailer
from broker.adapters.store.engine import database_url
from broker.outbox import MAX_AGE_S, PAUSE_S, Outbox
from broker.turns import MAX_OF_NETWORK, MAX_WAITING
from tests.fakes.mail_server import MailServer
from tests.unit.broker.identity_world import IdentityWorld, identity_world, mail_settings
from tests.unit.broker.test_email import ADDRESS, begin
from tests.unit.broker.visitor import reason


class Slow:
    """A mailer that waits to be let go on, and may fail."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.failing: Exception | None = None
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def send(self, *, to: str, subject: str, text: str) -> None:
        self.began.release()
        assert self.go.acquire(timeout=30)
        if self.failing is not None:
            raise self.failing
        self.sent.append(to)


class Now:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def box(slow: Slow, now: Now) -> Iterator[Outbox]:
    made = Outbox(slow, connections=1, monotonic=now)
    yield made
    slow.go.release(MAX_WAITING + 2)
    made.close()


def take(box: Outbox, to: str = ADDRESS, client: str = "192.0.2.1") -> Reason | None:
    try:
        box.send(to=to, subject="s", text="t", client=client)
    except KeyServiceError as error:
        return error.reason
    return None


def test_an_answer_waits_for_no_mail_server(world: IdentityWorld, server: MailServer) -> None:
    server.mailbox.held.clear()
    assert begin(world.visit()).status_code == 200
    assert server.mailbox.asked.acquire(timeout=20)  # the server still holds it
    assert server.mailbox.messages == []
    assert begin(world.visit(), "grace@people.test").status_code == 200
    server.mailbox.held.set()
    server.mailbox.link(2)
    assert server.mailbox.recipients == [ADDRESS, "grace@people.test"]


def test_whoever_the_server_does_not_know_is_answered_alike(world: IdentityWorld, server: MailServer) -> None:
    server.mailbox.refuse = True
    for _ in range(3):
        unknown = begin(world.visit(), "nobody@people.test")
        world.settle()
        assert unknown.status_code == 200
    server.mailbox.refuse = False
    known = begin(world.visit())
    assert known.status_code == 200
    assert set(known.json()) == set(unknown.json())
    assert server.mailbox.link()


def test_a_server_out_of_reach_is_told_to_everybody_alike(slow: Slow, now: Now, box: Outbox) -> None:
    slow.failing = KeyServiceError(Reason.MAIL_UNREACHABLE)
    slow.go.release()
    assert take(box) is None
    box.settle()
    assert [take(box, to) for to in (ADDRESS, "a@b.test")] == [Reason.MAIL_UNREACHABLE] * 2
    now.at += PAUSE_S
    slow.failing = None
    slow.go.release()
    assert take(box) is None
    box.settle()
    assert slow.sent == [ADDRESS]


def test_what_depends_on_an_address_is_told_to_nobody(slow: Slow, box: Outbox) -> None:
    for error in (KeyServiceError(Reason.POLICY_REFUSED), RuntimeError("of the library")):
        slow.failing = error
        slow.go.release()
        assert take(box) is None
        box.settle()
    assert take(box) is None


def test_a_network_that_floods_is_refused_and_no_other(slow: Slow, box: Outbox) -> None:
    assert take(box) is None
    assert slow.began.acquire(timeout=20)  # that one is no longer waiting
    assert [take(box) for _ in range(MAX_OF_NETWORK)] == [None] * MAX_OF_NETWORK
    assert take(box) is Reason.OVERLOADED
    assert take(box, "grace@people.test", "192.0.2.2") is None
    slow.go.release(MAX_OF_NETWORK + 2)
    box.settle()
    assert slow.sent.index("grace@people.test") == 2  # it waited for one mail of the flood
    assert len(slow.sent) == MAX_OF_NETWORK + 2
    assert take(box) is None


def test_a_full_outbox_refuses_everybody(slow: Slow, box: Outbox) -> None:
    assert take(box) is None
    assert slow.began.acquire(timeout=20)
    taken = [take(box, client=f"198.51.100.{number}") for number in range(MAX_WAITING)]
    assert taken == [None] * MAX_WAITING
    assert take(box, client="203.0.113.1") is Reason.OVERLOADED
    slow.go.release(MAX_WAITING + 1)
    box.settle()
    assert len(slow.sent) == MAX_WAITING + 1
    assert take(box) is None


def flood(world: IdentityWorld, address: str, mails: int = 1) -> None:
    """Somebody there has mails sent to a domain that answers nothing."""
    with world.visit_from(address) as visit:
        for number in range(mails):
            assert begin(visit, f"{sha256(address.encode()).hex()[:8]}-{number}@slow.test").status_code == 200


def arrives_meanwhile(world: IdentityWorld, server: MailServer, stalled: int) -> None:
    """Ada's mail, while that domain still keeps so many exchanges waiting."""
    for _ in range(stalled):
        assert server.mailbox.asked.acquire(timeout=20)
    with world.visit_from("203.0.113.9") as visit:
        assert begin(visit).status_code == 200
    server.mailbox.link()
    assert server.mailbox.recipients == [ADDRESS]


@pytest.fixture
def stalling(server: MailServer) -> Iterator[MailServer]:
    server.mailbox.slow.add("slow.test")
    server.mailbox.held.clear()
    yield server
    server.mailbox.held.set()


def test_whoever_floods_a_slow_domain_keeps_nobody_elses_mail(world: IdentityWorld, stalling: MailServer) -> None:
    flood(world, "198.51.100.1", mails=MAX_OF_NETWORK)
    arrives_meanwhile(world, stalling, 1)


def test_all_networks_of_one_site_keep_nobody_elses_mail(world: IdentityWorld, stalling: MailServer) -> None:
    for number in range(6):
        flood(world, f"2001:db8:1:{number}::1")
    arrives_meanwhile(world, stalling, 2)


def test_a_mail_that_waited_too_long_is_not_sent(slow: Slow, now: Now, box: Outbox) -> None:
    assert [take(box, f"a{number}@b.test") for number in range(2)] == [None, None]
    assert slow.began.acquire(timeout=20)
    now.at += MAX_AGE_S + 1
    slow.go.release(2)
    box.settle()
    assert slow.sent == ["a0@b.test"]


def test_closing_gives_up_what_waits_and_ends_the_threads(slow: Slow) -> None:
    before = threading.active_count()
    box = Outbox(slow, connections=2)
    assert [take(box) for _ in range(3)] == [None] * 3
    assert slow.began.acquire(timeout=20)
    closing = threading.Thread(target=box.close)
    closing.start()
    while not box._is_closed:
        time.sleep(0.001)
    slow.go.release()
    closing.join(20)
    assert slow.sent == [ADDRESS]
    assert take(box) is Reason.OVERLOADED
    assert threading.active_count() == before


def test_closing_waits_for_no_server_that_stalls(
    world: IdentityWorld, stalling: MailServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "STOP_S", 0.1)
    flood(world, "198.51.100.1", mails=3)
    assert stalling.mailbox.asked.acquire(timeout=20)
    assert world.outbox is not None
    world.outbox.close()
    assert not stalling.mailbox.held.is_set()
    (told,) = [record for record in caplog.records if record.getMessage() == "mails_given_up"]
    assert told.__dict__["agentkeys_fields"] == {"count": 3}


def test_no_line_of_the_log_names_an_address(slow: Slow, box: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for failing in (None, KeyServiceError(Reason.POLICY_REFUSED, "no"), RuntimeError(f"no {ADDRESS}")):
        slow.failing = failing
        slow.go.release()
        assert take(box) is None
        box.settle()
    told = [record for record in caplog.records if record.name == "agentkeys.broker.mail"]
    assert [record.getMessage() for record in told] == ["mail_sent", "mail_not_sent", "mail_not_sent"]
    assert ADDRESS not in "".join(f"{record.__dict__}" for record in told)


def sends(mailer: SmtpMailer, to: str = ADDRESS) -> Reason | None:
    try:
        mailer.send(to=to, subject="s", text="t")
    except KeyServiceError as error:
        return error.reason
    return None


def test_a_refused_recipient_is_no_server_out_of_reach(server: MailServer) -> None:
    server.mailbox.refuse = True
    assert sends(SmtpMailer(mail_settings(server))) is Reason.POLICY_REFUSED


def test_the_mailer_itself_takes_no_address_with_two_readings(server: MailServer) -> None:
    mailer = SmtpMailer(mail_settings(server))
    for to in ("n<victim@people.test>", "a@[", "a@b.test,c@d.test"):
        assert sends(mailer, to) is Reason.INVALID_BODY
    assert server.mailbox.recipients == []


@pytest.mark.parametrize("to", ["n<victim@people.test>", "a@b.test, c@d.test", "group: a@b.test;", "a(b)@c.test"])
def test_a_message_is_for_one_reader_alone(server: MailServer, to: str) -> None:
    """Whatever the grammar of addresses takes, the header that is sent is read once more."""
    with pytest.raises(KeyServiceError) as caught:
        SmtpMailer(mail_settings(server))._message(to, "s", "t")
    assert caught.value.reason is Reason.INVALID_BODY


def drip(listener: socket.socket, words: Callable[[], bytes], over: threading.Event) -> None:
    """Greet each client with one byte after the other, and never end."""
    while not over.is_set():
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            while not over.wait(0.02):
                try:
                    client.sendall(words())
                except OSError:
                    break


def test_a_server_that_drips_is_out_of_reach_in_time(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is of the message, not of each step; the test only makes it sooner."""
    monkeypatch.setattr(mail, "SEND_S", 0.5)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener, lambda: b"2", over))
        thread.start()
        try:
            port = listener.getsockname()[1]
            assert sends(SmtpMailer(mail_settings(server, port=port))) is Reason.MAIL_UNREACHABLE
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_broker_whose_server_is_gone_says_so_to_all(tmp_path: Path, server: MailServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = mail_settings(server, port=probe.getsockname()[1])
        with identity_world(database_url(None, tmp_path), mail=gone) as world:
            assert begin(world.visit()).status_code == 200
            world.settle()
            assert reason(begin(world.visit(), "grace@people.test")) == "mail_unreachable"
