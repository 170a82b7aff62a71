"""What a thief does with a stolen session or token, at the object store itself."""

import io
import ssl
from collections.abc import Callable
from contextlib import closing
from typing import Any

import httpx
import pytest
from defusedxml.ElementTree import fromstring
from minio import Minio
from minio.error import S3Error

from agentkeys_core.ops import Effect
from tests.minio import BUCKET, MinioServer


def read(client: Minio, path: str, bucket: str = BUCKET) -> bytes:
    response = client.get_object(bucket, path)
    with closing(response):
        data = bytes(response.read())
        response.release_conn()
        return data


def write(client: Minio, path: str, bucket: str = BUCKET) -> None:
    client.put_object(bucket, path, io.BytesIO(b"overwritten"), 11)


def delete(client: Minio, path: str, bucket: str = BUCKET) -> None:
    client.remove_object(bucket, path)


VERB: dict[Effect, Callable[..., Any]] = {Effect.READ: read, Effect.WRITE: write, Effect.DELETE: delete}


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(S3Error) as caught:
        call()
    return str(caught.value.code)


def exchange(store: MinioServer, token: str, **changed: str) -> httpx.Response:
    """Ask for a session without any policy of its own: the widest that the role allows."""
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "RoleArn": store.role_arn,
        "RoleSessionName": "thief",
        "Version": "2011-06-15",
        "DurationSeconds": "900",
        "WebIdentityToken": token,
    } | changed
    with httpx.Client(verify=ssl.create_default_context(cafile=str(store.ca)), trust_env=False) as client:
        return client.post(store.url + "/", data={name: value for name, value in form.items() if value})


def client_of(store: MinioServer, answer: httpx.Response) -> Minio:
    assert answer.status_code == 200, answer.text
    found = {element.tag.partition("}")[2]: element.text for element in fromstring(answer.content).iter()}
    return store.client(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])
