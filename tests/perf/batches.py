"""How batches are measured: against single calls, against the bare library, and from a device's request on."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol

from agentkeys.signer.v1 import signer_pb2 as pb
from tests.perf.deployment import SIGNER, SIGNER_NAME, TRUST_DOMAIN, Deployment
from tests.perf.load import check_served, write_payloads
from tests.perf.measuring import Bench
from tests.perf.processes import LOAD_CORE, SERVER_CORE, Running, cpu_us

DERIVE: Final = f"{SIGNER}/DeriveCredKek"
ITEMS: Final = 64


class _Batch(Protocol):
    """A batch request of any of the three RPCs."""

    def MergeFromString(self, data: bytes, /) -> int:  # protobuf's own name
        """Add what these bytes say."""
        ...

    def SerializeToString(self) -> bytes:
        """The message."""
        ...


def in_batches(kind: type[_Batch], messages: Sequence[bytes]) -> Iterator[bytes]:
    """The messages as items of batches of 64."""
    for start in range(0, len(messages), ITEMS):
        batch = kind()
        for message in messages[start : start + ITEMS]:
            batch.MergeFromString(b"\x0a" + _varint(len(message)) + message)  # field 1: items
        yield batch.SerializeToString()


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def against_singles(bench: Bench) -> None:
    """Items of batches of 64: DeriveCredKek against the single call, VerifyK10Sig against bare coincurve."""
    small, results = bench.small, bench.results
    calls = max(1, bench.scale.calls // ITEMS) * ITEMS
    with ExitStack() as stack:
        signer = stack.enter_context(small.serve_pinned())
        log = bench.root / "libsecp.log"
        bare = stack.enter_context(Running("tests.perf.libsecp", log=log, cores={SERVER_CORE}, stdin=True))
        load = stack.enter_context(bench.load())
        bench.connect(load, "credentials", signer.said)
        served = [signer.pid]

        def in_bare(proofs: Sequence[bytes]) -> float:
            bare.tell(str(bench.payloads(proofs)))
            return float(bare.line(120.0)) / len(proofs)

        for counts in bench.turns():
            proofs = small.proofs(calls)
            keys = list(in_batches(pb.DeriveCredKekBatchRequest, small.fetches(calls)))
            signatures = list(in_batches(pb.VerifyK10SigBatchRequest, proofs))

            def item(name: str, batches: Sequence[bytes]) -> float:
                method, answers = f"{SIGNER}/{name}", f"{name}Response"
                return bench.cost(load, "credentials", served, method, batches, answers=answers) / ITEMS

            found = {
                "derive_alone": bench.cost(load, "credentials", served, DERIVE, small.fetches(calls)),
                "derive_item": item("DeriveCredKekBatch", keys),
                "verify_item": item("VerifyK10SigBatch", signatures),
                "libsecp": in_bare(proofs),
            }
            for name, value in found.items() if counts else ():
                results.sample(f"{name}_us", value)
    results.values["derive_batch_vs_single"] = results.ratio("derive_item_us", "derive_alone_us")
    results.values["verify_k10_batch_vs_libsecp"] = results.ratio("libsecp_us", "verify_item_us")
    results.notes["derive_batch_vs_single"] = f"{results.median('derive_item_us'):.0f} us an item"
    results.notes["verify_k10_batch_vs_libsecp"] = f"{results.median('verify_item_us'):.0f} us an item"


def gathering(bench: Bench) -> None:
    """Signer CPU of a credential stored over HTTPS: by a worker that gathers, against one that asks for each alone."""
    small, results = bench.small, bench.results
    calls = bench.scale.calls // 2
    certificates = bench.certificates
    with ExitStack() as stack:
        signer = stack.enter_context(small.serve_pinned())
        origins = {}
        for how in ("gathering", "alone"):
            config = worker_config(bench.root / f"worker-{how}", small, signer.said)
            log = bench.root / f"worker-{how}.log"
            words = (config, how)
            running = stack.enter_context(Running("tests.perf.worker", *words, log=log, cores={LOAD_CORE}))
            origins[how] = running.said
        ca = certificates.folder("signer") / "ca.pem"
        log = bench.root / "web_load.log"
        load = stack.enter_context(Running("tests.perf.web_load", ca, log=log, cores={LOAD_CORE}, stdin=True))

        def store(how: str) -> tuple[float, float]:
            payloads = write_payloads(bench.root / "stores", small.stores(calls))
            before = cpu_us([signer.pid])
            command = {"origin": origins[how], "path": "/v1/credentials/store", "payloads": str(payloads)}
            load.tell(json.dumps(command))
            answer = json.loads(load.line(300.0))
            check_served(f"stores of a worker {how}", answer["refused"], asked=calls)
            return (cpu_us([signer.pid]) - before) / calls, answer["wall_s"] / calls

        for counts in bench.turns():
            for how in origins:
                cpu, wall_s = store(how)
                if counts:
                    results.sample(f"store_{how}_us", cpu)
                    results.sample(f"store_{how}_wall_ms", wall_s * 1000)
    results.values["gathering_cpu"] = results.ratio("store_gathering_us", "store_alone_us")
    gathered, alone = results.median("store_gathering_us"), results.median("store_alone_us")
    wall = results.ratio("store_gathering_wall_ms", "store_alone_wall_ms")
    results.notes["gathering_cpu"] = f"{gathered:.0f} us against {alone:.0f} us; wall time {wall:.2f}"


def worker_config(folder: Path, small: Deployment, signer: str) -> Path:
    """worker.toml of a credentials worker of this deployment."""
    folder.mkdir(mode=0o700)
    leaf = small.certificates.folder("credentials")
    path = folder / "worker.toml"
    path.write_text(
        "\n".join(
            [
                'class = "credentials"',
                f'trust_domain = "{TRUST_DOMAIN}"',
                'listen = "127.0.0.1:0"',
                f'registry_id = "{small.registry_id}"',
                f'cosign_keys = ["{small.root}/k1.jwk.json"]',
                "[tls]",
                f'certificate = "{leaf}/cert.pem"',
                f'key = "{leaf}/key.pem"',
                f'ca = "{leaf}/ca.pem"',
                "[signer]",
                f'address = "{signer}"',
                f'server_name = "{SIGNER_NAME}"',
                "[objects]",
                f'directory = "{folder}/objects"',
                "",
            ]
        )
    )
    return path
