"""Confirming an e-mail address, with a real mail server."""

import json
import re
import socket
import stat
import threading
from pathlib import Path

import httpx
import pytest

from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_runtime.config import ConfigError
from broker.adapters.mail import SmtpMailer
from broker.ceremonies.email import PER_ADDRESS, PER_CLIENT, PER_SITE
from broker.ceremonies.steps import LIFETIME_S
from tests.fakes.mail_server import MailServer
from tests.fakes.services_kit import BROKER_ORIGIN
from tests.unit.broker.identity_world import IdentityWorld, mail_settings
from tests.unit.broker.visitor import Visit, reason, typed

ADDRESS = "Ada.Lovelace@people.test"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def begin(visit: Visit, address: str = ADDRESS) -> httpx.Response:
    return visit.begin("/v1/identity/email", json.dumps({"address": address}).encode())


def status(visit: Visit, ceremony: str) -> httpx.Response:
    return visit.ask("request", "GET", f"/v1/identity/ceremonies/{ceremony}", b"")


def path_of(link: str) -> str:
    assert link.startswith(BROKER_ORIGIN + "/identity/email/")
    return link.removeprefix(BROKER_ORIGIN)


def page_reason(answer: httpx.Response) -> str:
    found = re.search(r"Reason: <code>([a-z_]+)</code>", answer.text)
    assert found is not None, answer.text
    return found[1]


def test_a_link_confirms_the_address_for_the_device_that_asked(world: IdentityWorld, server: MailServer) -> None:
    visit = world.visit()
    begun = begin(visit)
    assert begun.status_code == 200
    ceremony = begun.json()["id"]
    assert status(visit, ceremony).json()["state"] == "pending"
    path = path_of(server.mailbox.link())
    shown = world.client.get(path)
    assert shown.status_code == 200
    assert ADDRESS in shown.text
    assert begun.json()["device"] in shown.text
    done = world.client.post(path, content=typed(begun), headers=FORM)
    assert done.status_code == 200
    assert status(visit, ceremony).json()["state"] == "confirmed"
    assert server.mailbox.recipients == [ADDRESS]


def test_the_mail_says_which_device_asks_and_what_to_do_otherwise(world: IdentityWorld, server: MailServer) -> None:
    device = begin(world.visit()).json()["device"]
    world.settle()
    message = server.mailbox.messages[0]
    text = str(message.get_payload())
    assert device in text
    assert (message["From"], message["To"], message["Auto-Submitted"]) == (
        "keys@broker.test",
        ADDRESS,
        "auto-generated",
    )


def test_a_scanner_that_opens_the_link_confirms_nothing(world: IdentityWorld, server: MailServer) -> None:
    visit = world.visit()
    begun = begin(visit)
    ceremony = begun.json()["id"]
    path = path_of(server.mailbox.link())
    for method in ("GET", "GET", "HEAD", "OPTIONS"):
        world.client.request(method, path)
    assert status(visit, ceremony).json()["state"] == "pending"
    assert world.client.post(path, content=typed(begun), headers=FORM).status_code == 200


def test_a_link_is_good_once(world: IdentityWorld, server: MailServer) -> None:
    begun = begin(world.visit())
    path = path_of(server.mailbox.link())
    answers: list[int] = []
    start = threading.Barrier(4)

    def click() -> None:
        start.wait()
        answers.append(world.client.post(path, content=typed(begun), headers=FORM).status_code)

    threads = [threading.Thread(target=click) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 409, 409, 409]
    assert page_reason(world.client.get(path)) == "ceremony_ended"


def test_a_link_grows_old(world: IdentityWorld, server: MailServer) -> None:
    visit = world.visit()
    begun = begin(visit)
    ceremony = begun.json()["id"]
    path = path_of(server.mailbox.link())
    world.clock.forward(LIFETIME_S)
    assert page_reason(world.client.get(path)) == "ceremony_ended"
    assert page_reason(world.client.post(path, content=typed(begun), headers=FORM)) == "ceremony_ended"
    assert reason(status(visit, ceremony)) == "ceremony_ended"


@pytest.mark.parametrize("secret", ["x", "A" * 43, "%2e%2e", "A" * 4000, "\u00e4"])
def test_a_link_that_never_was_looks_like_one_that_is_over(world: IdentityWorld, secret: str) -> None:
    assert page_reason(world.client.get(f"/identity/email/{secret}")) == "ceremony_ended"


def test_only_the_device_that_began_hears_of_it(world: IdentityWorld) -> None:
    ceremony = begin(world.visit()).json()["id"]
    assert reason(status(world.visit(), ceremony)) == "not_found"
    assert reason(status(world.visit(), "00" * 16)) == "not_found"
    assert reason(status(world.visit(), "zz")) == "not_found"
    answer = world.client.get(f"/v1/identity/ceremonies/{ceremony}")
    assert answer.json()["reason"] == "proof_invalid"


def test_a_challenge_serves_one_mail(world: IdentityWorld, server: MailServer) -> None:
    visit = world.visit()
    nonce = visit.nonce()
    body = json.dumps({"address": ADDRESS}).encode()
    assert visit.begin("/v1/identity/email", body, {"nonce": nonce}).status_code == 200
    assert reason(visit.begin("/v1/identity/email", body, {"nonce": nonce})) == "proof_invalid"
    world.settle()
    assert len(server.mailbox.messages) == 1


@pytest.mark.parametrize(
    "address",
    [
        "", "nobody", "@people.test", "ada@", "a da@people.test", "ada@people.test\r\nBcc: eve@evil.test", "ada@people.test\n",
        "ada\u2028@people.test", "a" * 250 + "@people.test", "ada@people.test\u0000", "ada<victim@people.test>", "ada@[",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_nothing_is_sent(
    world: IdentityWorld, server: MailServer, address: str
) -> None:
    assert reason(begin(world.visit(), address)) == "invalid_body"
    world.settle()
    assert server.mailbox.messages == []


def test_one_site_causes_few_mails_to_one_address(world: IdentityWorld, server: MailServer) -> None:
    for _ in range(PER_SITE):
        assert begin(world.visit()).status_code == 200
    refused = begin(world.visit(), ADDRESS.upper())  # most servers do not tell cases apart
    assert reason(refused) == "rate_limited"
    assert int(refused.headers["Retry-After"]) > 0
    assert begin(world.visit(), "grace@people.test").status_code == 200
    world.clock.forward(3600)
    assert begin(world.visit()).status_code == 200
    world.settle()
    assert len(server.mailbox.messages) == PER_SITE + 2


def test_whoever_uses_an_address_up_from_one_site_locks_nobody_out_of_it(world: IdentityWorld) -> None:
    """Neither by many requests, of which only the first few count, nor from many networks of one site."""
    answers = []
    for number in range(PER_ADDRESS):
        with world.visit_from(f"2001:db8:1:{number}::1") as visit:
            answers.append(begin(visit).status_code)
    assert answers == [200] * PER_SITE + [429] * (PER_ADDRESS - PER_SITE)
    with world.visit_from("2001:db8:2::1") as visit:
        assert begin(visit).status_code == 200


def test_one_address_gets_few_mails_in_all(world: IdentityWorld, server: MailServer) -> None:
    for number in range(PER_ADDRESS):
        with world.visit_from(f"198.51.100.{number}") as visit:
            assert begin(visit).status_code == 200
    with world.visit_from("203.0.113.9") as visit:
        assert reason(begin(visit)) == "rate_limited"
        assert begin(visit, "grace@people.test").status_code == 200
    world.settle()
    assert len(server.mailbox.messages) == PER_ADDRESS + 1


def test_tags_of_one_mailbox_are_one_address(world: IdentityWorld, server: MailServer) -> None:
    for number in range(PER_SITE):
        assert begin(world.visit(), f"ada+{number}@people.test").status_code == 200
    assert reason(begin(world.visit(), "Ada@people.test")) == "rate_limited"


def test_one_client_causes_few_mails_in_an_hour(world: IdentityWorld, server: MailServer) -> None:
    for number in range(PER_CLIENT):
        assert begin(world.visit(), f"person{number}@people.test").status_code == 200
        world.settle()
    assert reason(begin(world.visit(), "one-more@people.test")) == "rate_limited"
    world.settle()
    assert len(server.mailbox.messages) == PER_CLIENT


def test_pages_run_nothing_and_cannot_be_framed(world: IdentityWorld, server: MailServer) -> None:
    begin(world.visit(), "ada&amp@people.test")
    answer = world.client.get(path_of(server.mailbox.link()))
    assert "ada&amp;amp@people.test" in answer.text
    assert "<script" not in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (answer.headers["Referrer-Policy"], answer.headers["Cache-Control"]) == ("no-referrer", "no-store")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    style = world.client.get("/identity/style.css")
    assert style.headers["Content-Type"].startswith("text/css")


def test_a_confirmation_that_is_no_form_is_refused(world: IdentityWorld, server: MailServer) -> None:
    visit = world.visit()
    ceremony = begin(visit).json()["id"]
    path = path_of(server.mailbox.link())
    assert page_reason(world.client.post(path, json={})) == "invalid_body"
    assert status(visit, ceremony).json()["state"] == "pending"


def sends(mailer: SmtpMailer) -> Reason | None:
    try:
        mailer.send(to=ADDRESS, subject="s", text="t")
    except KeyServiceError as error:
        return error.reason
    return None


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # the server does not know that TLS from the first byte is TLS
def test_tls_from_the_first_byte(tmp_path: Path) -> None:
    with MailServer(tmp_path, "tls") as server:
        assert sends(SmtpMailer(mail_settings(server, security="tls"))) is None
        assert server.mailbox.recipients == [ADDRESS]


def test_a_server_whose_certificate_is_not_trusted_gets_nothing(server: MailServer) -> None:
    assert sends(SmtpMailer(mail_settings(server, ca=None))) is Reason.MAIL_UNREACHABLE
    assert server.mailbox.messages == []


def test_a_server_without_tls_gets_nothing(tmp_path: Path) -> None:
    with MailServer(tmp_path, "none") as server:
        assert sends(SmtpMailer(mail_settings(server))) is Reason.MAIL_UNREACHABLE
        assert sends(SmtpMailer(mail_settings(server, user=None, password_file=None))) is Reason.MAIL_UNREACHABLE
        assert server.mailbox.messages == []


def test_a_wrong_password_is_named_and_never_shown(server: MailServer, tmp_path: Path) -> None:
    other = tmp_path / "other-password"
    other.write_text("not the password")
    other.chmod(0o600)
    mailer = SmtpMailer(mail_settings(server, password_file=other))
    with pytest.raises(KeyServiceError) as caught:
        mailer.send(to=ADDRESS, subject="s", text="t")
    assert caught.value.reason is Reason.MAIL_UNREACHABLE
    assert "not the password" not in f"{caught.value} {mailer!r}"


def test_a_password_file_that_others_can_read_is_refused(server: MailServer) -> None:
    server.password_file.chmod(0o644)
    assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o644
    with pytest.raises(ConfigError):
        SmtpMailer(mail_settings(server))


def test_nobody_at_that_port(server: MailServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert sends(SmtpMailer(mail_settings(server, port=probe.getsockname()[1]))) is Reason.MAIL_UNREACHABLE


@pytest.mark.parametrize(
    "changed", [{"user": None}, {"password_file": None}, {"sender": "nobody"}, {"sender": "a@b\n"}]
)
def test_settings_that_make_no_sense(server: MailServer, changed: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        mail_settings(server, **changed)
