"""Promise 9: the object store itself refuses a worker gone bad. A real MinIO verifies tokens and session policies.

The thief here holds the worker's certificate, so it gets the sessions of every request that passes by. What a session
opens is tried from a second S3 client.
"""

import hmac
import io
import json
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from minio import Minio
from minio.credentials.providers import AssumeRoleProvider
from minio.error import S3Error

from agentkeys_core.audit import AuditRow
from agentkeys_core.encoding import b64u_decode, b64u_encode
from agentkeys_core.errors import KeyServiceError
from agentkeys_core.keys import ES256PublicKey, es256_sign
from agentkeys_core.ops import Effect, ObjectClass, Op, Service, object_path
from agentkeys_runtime.signer_client import CloudSession
from device.credentials import get, put
from signer.adapters.sts import StsClient
from signer.adapters.unseal_keyfile import KeyFileUnsealer
from signer.clock import SystemClock
from signer.keyring import Keyring
from signer.tokens import VERBS, session_policy, web_identity_token
from signer.vault import Vault
from tests.adversarial.sessions import VERB, client_of, delete, exchange, read, refused, write
from tests.adversarial.town import Member, Town, eventually, reason, town_in
from tests.minio import AUDIENCE, BUCKET, OTHER_BUCKET, MinioServer, claims_of

OPS = {Effect.READ: Op.CRED_FETCH, Effect.WRITE: Op.CRED_STORE, Effect.DELETE: Op.CRED_DELETE}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town_in(tmp_path_factory.mktemp("town9") / "stack", bucket=True) as made:
        yield made


@pytest.fixture(scope="module")
def store(town: Town) -> MinioServer:
    assert town.stack.minio is not None
    return town.stack.minio


@pytest.fixture(scope="module")
def alice(town: Town) -> Member:
    return owner_of_two(town)


@pytest.fixture(scope="module")
def bob(town: Town) -> Member:
    return owner_of_two(town)


@pytest.fixture(scope="module")
def keyring(town: Town) -> Iterator[Keyring]:
    """The signer's own keys: what tokens its issuer could sign, and must not be taken for more than they say."""
    root = town.stack.root
    with Keyring(Vault(root / "vault.bin").open(KeyFileUnsealer(root / "vault.key"))) as opened:
        yield opened


def owner_of_two(town: Town) -> Member:
    master = town.master()
    for name in ("first", "second"):
        put(master.device, name, name.encode())
    return master


def path_of(member: Member, name: str) -> str:
    service = Service.parse(f"cred:{name}", Op.CRED_FETCH)
    return object_path(member.who.operator, service, ObjectClass.CREDENTIALS)


def session(town: Town, store: MinioServer, member: Member, op: Op, name: str) -> CloudSession:
    cap = member.cap(op, f"cred:{name}", k11=True)
    return town.signer("credentials").sts_credentials(cap.encode(), role_arn=store.role_arn)


def opened(store: MinioServer, found: CloudSession) -> Minio:
    return store.client(found.access_key_id, found.secret_access_key, found.session_token)


@pytest.mark.parametrize("effect", [Effect.READ, Effect.WRITE, Effect.DELETE])
def test_a_session_does_its_verb_to_its_object_and_nothing_else(
    town: Town, store: MinioServer, alice: Member, bob: Member, effect: Effect
) -> None:
    name = f"mine-{effect.name.lower()}"
    mine = path_of(alice, name)
    store.owner.put_object(BUCKET, mine, io.BytesIO(b"mine"), 4)
    store.owner.put_object(OTHER_BUCKET, mine, io.BytesIO(b"mine"), 4)
    found = session(town, store, alice, OPS[effect], name)
    client = opened(store, found)
    elsewhere = [
        (path_of(bob, "first"), BUCKET),
        (path_of(alice, "first"), BUCKET),
        (path_of(alice, "second"), BUCKET),
        (mine.replace("/credentials/", "/memory/"), BUCKET),
        (mine + "x", BUCKET),
        (mine.removesuffix(".enc"), BUCKET),
        (mine, OTHER_BUCKET),
    ]
    for verb, call in VERB.items():
        for path, bucket in elsewhere:
            assert refused(lambda c=call, p=path, b=bucket: c(client, p, b)) == "AccessDenied"  # type: ignore[misc]
        if verb is not effect:
            assert refused(lambda c=call: c(client, mine)) == "AccessDenied"  # type: ignore[misc]
    for call in (
        lambda: list(client.list_objects(BUCKET)),
        lambda: list(client.list_objects(BUCKET, prefix=mine)),
        lambda: list(client.list_objects(BUCKET, prefix=mine, include_version=True)),
        lambda: client.get_bucket_policy(BUCKET),
        lambda: client.set_bucket_policy(BUCKET, json.dumps({"Version": "2012-10-17", "Statement": []})),
        lambda: client.make_bucket("a-third-bucket"),
        lambda: client.remove_bucket(OTHER_BUCKET),
        lambda: client.get_object_tags(BUCKET, mine),
        client.list_buckets,
    ):
        assert refused(call) == "AccessDenied"
    VERB[effect](client, mine)  # and all the while it does what it is for
    assert get(bob.device, "first").value == b"first"
    assert get(alice.device, "second").value == b"second"


def test_a_session_lasts_as_long_as_it_must_and_says_whose_and_which_request_it_is(
    town: Town, store: MinioServer, alice: Member
) -> None:
    before = time.time()
    cap = alice.cap(Op.CRED_FETCH, "cred:first", k11=True)
    found = town.signer("credentials").sts_credentials(cap.encode(), role_arn=store.role_arn)
    assert before < found.expires_at <= time.time() + 900
    claims = claims_of(found.session_token)
    assert claims["exp"] == found.expires_at
    assert claims["sub"] == alice.who.operator.hex()
    assert claims["jti"].partition(".")[0] == cap.digest.hex()  # the store's log joins the audit trail
    assert AuditRow.parse(found.row).content().op_body.cap == cap.digest


def test_a_session_opens_no_other_session(town: Town, store: MinioServer, alice: Member) -> None:
    found = session(town, store, alice, Op.CRED_FETCH, "first")
    provider = AssumeRoleProvider(
        sts_endpoint=store.url,
        access_key=found.access_key_id,
        secret_key=found.secret_access_key,
        http_client=store._http(),
    )
    with pytest.raises(ValueError, match="403"):
        provider.retrieve()


def test_a_changed_session_is_none(town: Town, store: MinioServer, alice: Member) -> None:
    found = session(town, store, alice, Op.CRED_FETCH, "first")
    head, body, signature = found.session_token.split(".")
    claims = json.loads(b64u_decode(body))
    claims.pop("sessionPolicy")
    wider = f"{head}.{b64u_encode(json.dumps(claims).encode())}.{signature}"
    for token in (wider, "", None):
        client = store.client(found.access_key_id, found.secret_access_key, token)
        assert refused(lambda c=client: read(c, path_of(alice, "first"))) != ""  # type: ignore[misc]


def test_without_a_session_the_bucket_is_closed(store: MinioServer, alice: Member) -> None:
    stranger = store.client()
    path = path_of(alice, "first")
    for call in (
        lambda: read(stranger, path),
        lambda: write(stranger, path),
        lambda: delete(stranger, path),
        lambda: list(stranger.list_objects(BUCKET)),
        lambda: stranger.get_bucket_policy(BUCKET),
    ):
        assert refused(call) == "AccessDenied"


# Tokens: each is tried at the object store itself, as somebody who stole or made it would.


def token_of(keyring: Keyring, owner: bytes, *, issuer: str, **changed: Any) -> str:
    given: dict[str, Any] = {
        "issuer": issuer,
        "audience": AUDIENCE,
        "owner": owner,
        "token_id": "ab",
        "now": int(time.time()) - 30,
        "kid": keyring.oidc_kid(1),
        "sign": lambda message: keyring.oidc_sign(1, message),
    }
    return web_identity_token(**given | changed)


def test_the_signers_own_token_is_taken(store: MinioServer, keyring: Keyring, alice: Member) -> None:
    answer = exchange(store, token_of(keyring, alice.who.operator, issuer=store.issuer))
    assert answer.status_code == 200, answer.text


def foreign_key() -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    return {"sign": lambda message: es256_sign(key, message), "kid": ES256PublicKey.of(key.public_key()).kid}


WRONG: dict[str, Callable[[], dict[str, Any]]] = {
    "audience": lambda: {"audience": "sts.amazonaws.com"},
    "key": foreign_key,
    "key under the issuer's name": lambda: {"sign": foreign_key()["sign"]},
    "signature": lambda: {"sign": lambda _: bytes(64)},
    "expired": lambda: {"now": int(time.time()) - 301},
    "not valid yet": lambda: {"now": int(time.time()) + 60},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_token_is_refused(store: MinioServer, keyring: Keyring, alice: Member, wrong: str) -> None:
    token = token_of(keyring, alice.who.operator, issuer=store.issuer, **WRONG[wrong]())
    assert exchange(store, token).status_code in {400, 403}


@pytest.mark.parametrize("kid", ["issuer", "client"])
@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_without_the_issuers_signature_is_refused(
    store: MinioServer, keyring: Keyring, alice: Member, kid: str, algorithm: str
) -> None:
    """MinIO takes the provider's client secret as a key named by the client id: an empty one would be everybody's."""
    _, payload, _ = token_of(keyring, alice.who.operator, issuer=store.issuer).split(".")
    header = {"alg": algorithm, "kid": keyring.oidc_kid(1) if kid == "issuer" else AUDIENCE, "typ": "JWT"}
    signing_input = f"{b64u_encode(json.dumps(header).encode())}.{payload}"
    for secret in (b"", AUDIENCE.encode()):
        signature = hmac.digest(secret, signing_input.encode(), "sha256") if algorithm == "HS256" else b""
        assert exchange(store, f"{signing_input}.{b64u_encode(signature)}").status_code in {400, 403}


def test_a_key_that_is_published_later_is_taken_without_a_restart(
    town: Town, store: MinioServer, keyring: Keyring, alice: Member
) -> None:
    """As after a rotation: the host publishes the new key before the signer uses it."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = ES256PublicKey.of(key.public_key())
    given: dict[str, Any] = {"sign": lambda message: es256_sign(key, message), "kid": public.kid}
    token = token_of(keyring, alice.who.operator, issuer=store.issuer, **given)
    assert exchange(store, token).status_code == 400
    published = town.stack.root / "issuer" / ".well-known" / "jwks.json"
    before = published.read_bytes()
    published.write_bytes(json.dumps({"keys": [*json.loads(before)["keys"], public.jwk()]}).encode())
    try:
        assert exchange(store, token).status_code == 200
    finally:
        published.write_bytes(before)


def test_a_strict_consumer_finds_all_it_demands_at_the_issuers_origin(
    town: Town, store: MinioServer, keyring: Keyring, alice: Member
) -> None:
    context = ssl.create_default_context(cafile=str(store.ca))
    with httpx.Client(verify=context, trust_env=False) as client:
        found = client.get(f"{store.issuer}/.well-known/openid-configuration").json()
        keys = client.get(found["jwks_uri"]).json()
    needed = {
        "authorization_endpoint",
        "id_token_signing_alg_values_supported",
        "issuer",
        "jwks_uri",
        "response_types_supported",
        "subject_types_supported",
    }
    assert needed <= set(found)
    assert found["issuer"] == store.issuer
    assert found["jwks_uri"].startswith(store.issuer + "/")
    assert all({"alg", "crv", "kid", "kty", "use", "x", "y"} == set(key) for key in keys["keys"])
    token = token_of(keyring, alice.who.operator, issuer=store.issuer)
    claims = jwt.decode(
        token,
        jwt.PyJWKClient(found["jwks_uri"], ssl_context=context).get_signing_key_from_jwt(token),
        algorithms=found["id_token_signing_alg_values_supported"],
        audience=AUDIENCE,
        issuer=found["issuer"],
        options={"require": found["claims_supported"], "strict_aud": True},
    )
    assert claims["sub"] == alice.who.operator.hex()
    assert set(found["claims_supported"]) <= set(claims)


def test_a_token_of_another_issuer_opens_nothing(store: MinioServer, keyring: Keyring, alice: Member) -> None:
    """MinIO itself compares no issuer: the role's policy does, so such a session opens no object."""
    answer = exchange(store, token_of(keyring, alice.who.operator, issuer="https://other.example.org"))
    client = client_of(store, answer)
    for call in VERB.values():
        assert refused(lambda c=call: c(client, path_of(alice, "first"))) == "AccessDenied"  # type: ignore[misc]


def test_without_a_session_policy_a_token_opens_its_owners_objects_alone(
    store: MinioServer, keyring: Keyring, alice: Member, bob: Member
) -> None:
    """The role is the second wall: a policy forgotten by the signer would still keep owners apart."""
    client = client_of(store, exchange(store, token_of(keyring, alice.who.operator, issuer=store.issuer)))
    assert read(client, path_of(alice, "first"))
    for call in VERB.values():
        assert refused(lambda c=call: c(client, path_of(bob, "first"))) == "AccessDenied"  # type: ignore[misc]
    assert refused(lambda: list(client.list_objects(BUCKET))) == "AccessDenied"


def test_a_session_that_is_over_opens_nothing(store: MinioServer, keyring: Keyring, alice: Member) -> None:
    """The shortest session that may be asked for lasts 900 s; without a wish MinIO lets it end with the token."""
    now = int(time.time()) - 295
    effect, service = Effect.READ, Service.parse("cred:first", Op.CRED_FETCH)
    policy = session_policy(
        bucket=BUCKET, effect=effect, owner=alice.who.operator, service=service, object_class=ObjectClass.CREDENTIALS
    )
    token = token_of(keyring, alice.who.operator, issuer=store.issuer, now=now)
    client = client_of(store, exchange(store, token, DurationSeconds="", Policy=policy))
    assert read(client, path_of(alice, "first"))
    codes: list[str] = []

    def over() -> bool:
        try:
            read(client, path_of(alice, "first"))
        except S3Error as error:
            codes.append(error.code or "")
        return bool(codes)

    eventually(over)
    assert codes[-1] in {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidTokenId"}
    assert time.time() >= now + 300
    assert VERBS[effect] == "s3:GetObject"


def test_an_endpoint_under_another_root_gets_no_token(town: Town, store: MinioServer) -> None:
    foreign = store.folder / "certs" / "public.crt"  # a leaf is no root
    for ca in (None, foreign):
        client = StsClient(endpoint=store.url, ca=ca, clock=SystemClock())
        assert (
            reason(lambda c=client: c.assume_role(role_arn="r", session_name="s", token="t", policy="{}"))  # type: ignore[misc]
            == "sts_unreachable"
        )


def test_what_the_store_says_of_a_refusal_is_named_and_quotes_nothing(
    store: MinioServer, keyring: Keyring, alice: Member
) -> None:
    client = StsClient(endpoint=store.url, ca=store.ca, clock=SystemClock())
    token = token_of(keyring, alice.who.operator, issuer=store.issuer, audience="another")
    for role, given in ((store.role_arn, token), ("arn:minio:iam:::role/none", token), (store.role_arn, "no token")):
        with pytest.raises(KeyServiceError) as caught:
            client.assume_role(role_arn=role, session_name="s", token=given, policy="{}")
        assert caught.value.reason == "sts_unreachable"
        assert caught.value.detail.startswith("HTTP status 4")
        assert "no code" not in caught.value.detail
        assert given not in caught.value.detail
