"""A real MinIO on loopback: it fetches the issuer's published keys, verifies tokens and honours session policies."""

import base64
import hashlib
import json
import os
import secrets
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import urllib3
from minio import Minio
from minio.credentials.providers import StaticProvider
from minio.minioadmin import MinioAdmin

from demo.process import free_port
from tests.services import program

BUCKET = "agentkeys-objects"
OTHER_BUCKET = "another-bucket"
AUDIENCE = "agentkeys-object-store"
REGION = "us-east-1"
POLICY = "agentkeys-objects"
START_LIMIT_S = 40.0
STOP_LIMIT_S = 10.0


def role_policy(bucket: str, issuer: str) -> dict[str, Any]:
    """What docs/runbooks/objects.md tells hosts to give the role: the owner's own objects, for this issuer's tokens only."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
                "Resource": [f"arn:aws:s3:::{bucket}/bots/${{jwt:sub}}/*"],
                "Condition": {"StringEquals": {"jwt:iss": issuer}},
            }
        ],
    }


@dataclass(kw_only=True)
class MinioServer:
    """One server; `certificate` is a folder with cert.pem, key.pem and ca.pem, the root that it trusts as well."""

    folder: Path
    certificate: Path
    issuer: str = ""
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    port: int = field(default_factory=free_port)
    root: str = field(default_factory=lambda: secrets.token_hex(8), repr=False)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.certificate / "ca.pem"

    @property
    def role_arn(self) -> str:
        """The role of the OpenID provider: its name comes from the client id."""
        name = base64.urlsafe_b64encode(hashlib.sha1(AUDIENCE.encode(), usedforsecurity=False).digest())
        return f"arn:minio:iam:::role/{name.decode().rstrip('=')}"

    @property
    def log(self) -> str:
        return (self.folder / "minio.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it, and wait until it serves."""
        binary = program("minio")
        self._certificates()
        environment = {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "MINIO_ROOT_USER": self.root,
            "MINIO_ROOT_PASSWORD": self.password,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CI_CD": "1",  # the root disk will do
        }
        if self.issuer:
            environment |= {
                "MINIO_IDENTITY_OPENID_CONFIG_URL": f"{self.issuer}/.well-known/openid-configuration",
                "MINIO_IDENTITY_OPENID_CLIENT_ID": AUDIENCE,
                "MINIO_IDENTITY_OPENID_CLIENT_SECRET": self.client_secret,
                "MINIO_IDENTITY_OPENID_ROLE_POLICY": POLICY,
            }
        command = [binary, "server", "--address", f"127.0.0.1:{self.port}", "--certs-dir", self.folder / "certs"]
        with (self.folder / "minio.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*map(str, command), str(self.folder / "data")],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._await_ready()

    def _certificates(self) -> None:
        certs = self.folder / "certs"
        (certs / "CAs").mkdir(parents=True, exist_ok=True)
        for source, target in (("cert.pem", "public.crt"), ("key.pem", "private.key"), ("ca.pem", "CAs/ca.crt")):
            (certs / target).write_bytes((self.certificate / source).read_bytes())

    def _await_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_LIMIT_S
        with httpx.Client(verify=ssl.create_default_context(cafile=str(self.ca)), trust_env=False) as client:
            while True:
                assert self.process.poll() is None, self.log
                try:
                    if self._is_ready(client):
                        return
                except httpx.TransportError:
                    pass
                assert time.monotonic() < deadline, self.log
                time.sleep(0.05)

    def _is_ready(self, client: httpx.Client) -> bool:
        """Whether it knows already whom to refuse, and its role: it answers before it has read either."""
        if client.get(self.url, timeout=2).status_code != httpx.codes.FORBIDDEN:
            return False
        if not self.issuer:
            return True
        form = {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": self.role_arn}
        answer = client.post(self.url + "/", data=form | {"WebIdentityToken": "none"}, timeout=5)
        return answer.status_code == httpx.codes.BAD_REQUEST and "RoleArn" not in answer.text

    def stop(self) -> None:
        """End the process by its own id."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _http(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(cert_reqs="CERT_REQUIRED", ca_certs=str(self.ca), timeout=10, retries=False)

    def client(self, access_key: str | None = None, secret: str | None = None, token: str | None = None) -> Minio:
        """A client with these credentials; without any, one that signs nothing."""
        return Minio(
            f"127.0.0.1:{self.port}",
            access_key=access_key,
            secret_key=secret,
            session_token=token,
            region=REGION,
            http_client=self._http(),
        )

    @property
    def owner(self) -> Minio:
        """The host's own client."""
        return self.client(self.root, self.password)

    def prepare(self) -> None:
        """Make the buckets and the policy of the role."""
        for bucket in (BUCKET, OTHER_BUCKET):
            self.owner.make_bucket(bucket)
        credentials = StaticProvider(self.root, self.password)
        admin = MinioAdmin(endpoint=f"127.0.0.1:{self.port}", credentials=credentials, http_client=self._http())
        admin.policy_add(POLICY, policy=role_policy(BUCKET, self.issuer))

    def signer_table(self) -> str:
        """The tables of signer.toml."""
        return (
            f'[sts]\nendpoint = "{self.url}"\nca = "{self.ca}"\naudience = "{AUDIENCE}"\nissuer = "{self.issuer}"\n'
            f'bucket = "{BUCKET}"\n[sts.role_arns]\ncredentials = ["{self.role_arn}"]\n'
        )

    def worker_table(self) -> str:
        """The table of worker.toml."""
        return (
            f'[objects.s3]\nendpoint = "{self.url}"\nca = "{self.ca}"\nbucket = "{BUCKET}"\n'
            f'region = "{REGION}"\nrole_arn = "{self.role_arn}"\n'
        )


@contextmanager
def minio_running(server: MinioServer) -> Iterator[MinioServer]:
    """Start it, make its buckets, and end it whatever happens."""
    server.folder.mkdir(parents=True, exist_ok=True)
    try:
        server.start()
        server.prepare()
        yield server
    finally:
        server.stop()


def claims_of(token: str) -> dict[str, Any]:
    """The claims inside a session token, unverified."""
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
