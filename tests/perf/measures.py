"""How each figure is measured. Rounds are interleaved: what is compared runs moments apart, on the same core."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import grpc

from agentkeys_runtime.grpc_errors import from_rpc_error
from tests.perf import noop
from tests.perf.batches import against_singles, gathering
from tests.perf.deployment import SIGNER, SIGNER_NAME
from tests.perf.figures import Results
from tests.perf.load import CONCURRENCY, connect, method_of
from tests.perf.measuring import SMALL, Bench
from tests.perf.population import DEVICES, OBJECTS
from tests.perf.processes import LOAD_CORE, SERVER_CORE, BenchError, Running, cpu_us, pin, rss_mib

VERIFY: Final = f"{SIGNER}/VerifyK10Sig"
DERIVE: Final = f"{SIGNER}/DeriveCredKek"
SIGN_ROW: Final = f"{SIGNER}/SignAuditRow"
LIST: Final = f"{SIGNER}/ListObjects"
APPLY: Final = "/agentkeys.signer.v1.Registry/ApplyChange"
_POLLERS: Final = 8
_REVOCATION_LOAD_S: Final = 4.0


def floor_and_calls(bench: Bench) -> None:
    """The floor, the three calls against it, and the same checks in process."""
    small, results, calls = bench.small, bench.results, bench.scale.calls
    with ExitStack() as stack:
        signer = stack.enter_context(small.serve_pinned())
        folder = bench.certificates.folder("signer")
        floor = stack.enter_context(
            Running("tests.perf.noop", folder, log=bench.root / "noop.log", cores={SERVER_CORE})
        )
        alone = stack.enter_context(
            Running(
                "tests.perf.inprocess",
                small.config,
                bench.certificates.folder("credentials"),
                log=bench.root / "inprocess.log",
                cores={SERVER_CORE},
                stdin=True,
            )
        )
        load = stack.enter_context(bench.load())
        bench.connect(load, "noop", floor.said)
        bench.connect(load, "credentials", signer.said)
        bench.connect(load, "memory", signer.said, worker="memory")
        served = [signer.pid]

        def in_process() -> float:
            alone.tell(str(bench.payloads(small.fetches(calls))))
            return float(alone.line(120.0)) / calls

        for counts in bench.turns():
            puts, rows = small.puts(calls)
            bench.cost(load, "memory", served, DERIVE, puts)
            found = {
                "noop": bench.cost(load, "noop", [floor.pid], noop.METHOD, [b""] * (2 * calls)),
                "verify": bench.cost(load, "credentials", served, VERIFY, small.proofs(calls)),
                "derive": bench.cost(load, "credentials", served, DERIVE, small.fetches(calls)),
                "sign_row": bench.cost(load, "memory", served, SIGN_ROW, rows),
                "derive_in_process": in_process(),
                "delete": bench.cost(load, "memory", served, SIGN_ROW, small.deletes(calls // 4)),
            }
            for name, value in found.items() if counts else ():  # the first turn warms up
                results.sample(f"{name}_us", value)
        results.values["rss_mib"] = rss_mib(signer.pid)
    results.values["noop_cpu_us"] = results.median("noop_us")
    results.values["verify_k10_vs_noop"] = results.ratio("verify_us", "noop_us")
    results.values["derive_cred_kek_vs_noop"] = results.ratio("derive_us", "noop_us")
    results.values["sign_audit_row_vs_noop"] = results.ratio("sign_row_us", "noop_us")
    results.values["overhead_us"] = _overhead(results)
    for key, name in (("verify_k10_vs_noop", "verify"), ("derive_cred_kek_vs_noop", "derive")):
        results.notes[key] = f"{results.median(f'{name}_us'):.0f} us"
    acknowledged, deleted = results.median("sign_row_us"), results.ratio("delete_us", "noop_us")
    results.notes["sign_audit_row_vs_noop"] = f"acknowledged puts, {acknowledged:.0f} us; new deletes {deleted:.2f}"
    results.notes["overhead_us"] = f"in process {results.median('derive_in_process_us'):.0f} us"
    calls_served = (len(results.samples["derive_us"]) + 1) * calls * 5
    results.notes["rss_mib"] = f"after about {calls_served} calls"


def _overhead(results: Results) -> float:
    samples = results.samples
    triples = zip(samples["derive_us"], samples["noop_us"], samples["derive_in_process_us"], strict=True)
    return statistics.median(derive - floor - alone for derive, floor, alone in triples)


def two_processes(bench: Bench) -> None:
    """CPU per DeriveCredKek of two processes, one a core, against one; both with a connection for each caller."""
    two = bench.deployment("two", operators=SMALL, processes=2)
    results, calls = bench.results, bench.scale.calls
    with two.serve(cores=None) as both, bench.small.serve_pinned() as one, bench.load({LOAD_CORE}) as load:
        children = both.family()[1:]
        for child, core in zip(children, (SERVER_CORE, LOAD_CORE), strict=True):
            pin(child, {core})
        bench.connect(load, "one", one.said, channels=CONCURRENCY)
        bench.connect(load, "two", both.said, channels=CONCURRENCY)
        for counts in bench.turns():
            single = bench.cost(load, "one", one.family(), DERIVE, bench.small.fetches(calls))
            shares = [cpu_us([child]) for child in children]
            double = bench.cost(load, "two", both.family(), DERIVE, two.fetches(calls))
            if counts:
                results.sample("derive_1_process_us", single)
                results.sample("derive_2_processes_us", double)
                results.sample("busier_child_share", _share(children, shares))
    results.values["two_process_cpu"] = results.ratio("derive_2_processes_us", "derive_1_process_us")
    double, share = results.median("derive_2_processes_us"), results.median("busier_child_share")
    results.notes["two_process_cpu"] = f"{double:.0f} us; the busier process used {share:.0%}"


def _share(children: Sequence[int], before: Sequence[float]) -> float:
    used = [cpu_us([child]) - start for child, start in zip(children, before, strict=True)]
    return max(used) / sum(used)


def cold_start(bench: Bench) -> None:
    """Seconds from the start of the command to the first answer, the vault's passphrase and the connection included."""
    for turn in range(-1, bench.scale.starts):  # the first one may have to compile modules
        message = bench.small.proofs(1)[0]
        since = time.monotonic()
        with bench.small.serve(cores=None) as signer:
            channel = connect(signer.said, bench.certificates.folder("credentials"), SIGNER_NAME)
            method_of(channel, VERIFY)(message, timeout=30.0)
            if turn >= 0:
                bench.results.sample("cold_start_s", time.monotonic() - since)
                bench.results.sample("cold_start_cpu_s", cpu_us([signer.pid]) / 1e6)
                bench.results.sample("rss_at_start_mib", rss_mib(signer.pid))
            channel.close()
    bench.results.values["cold_start_s"] = bench.results.median("cold_start_s")
    used = bench.results.median("cold_start_cpu_s")
    bench.results.notes["cold_start_s"] = f"{used:.2f} s of CPU, Argon2id included"


def revocation(bench: Bench) -> None:
    """Milliseconds from sending a revocation to the moment from which every connection to either process is refused."""
    two = bench.deployment("revoked", operators=SMALL, processes=2)
    with two.serve(cores=None) as signer, bench.load() as load, ExitStack() as stack:
        folder = bench.certificates.folder("credentials")
        bench.connect(load, "background", signer.said, channels=CONCURRENCY)
        channels = [connect(signer.said, folder, SIGNER_NAME) for _ in range(_POLLERS + 1)]
        for channel in channels:
            stack.callback(channel.close)
        for tenant in two.tenants[: max(bench.scale.starts, 2)]:
            agent = tenant.agents[0]
            background = bench.payloads(two.fetches(400, without=tenant))
            load.start("background", DERIVE, background, seconds=_REVOCATION_LOAD_S)
            listing = two.listing(tenant, agent)
            change = two.revocation(tenant, agent)
            bench.results.sample("revocation_ms", _revoke(channels, listing, change))
            load.finish()
    bench.results.values["revocation_ms"] = max(bench.results.samples["revocation_ms"])
    bench.results.notes["revocation_ms"] = f"worst of {len(bench.results.samples['revocation_ms'])}, two processes"


def _revoke(channels: Sequence[grpc.Channel], listing: bytes, change: bytes) -> float:
    refused: list[float | None] = [None] * (len(channels) - 1)
    asking, others = threading.Event(), list[str]()

    def poll(number: int) -> None:
        call = method_of(channels[number], LIST)
        until = time.monotonic() + _REVOCATION_LOAD_S
        while time.monotonic() < until:
            try:
                call(listing, timeout=10.0)
                asking.set()
            except grpc.RpcError as error:
                reason = from_rpc_error(error).reason.value
                if reason != "device_revoked":
                    others.append(reason)
                    return
                refused[number] = time.monotonic()
                return
            time.sleep(0.002)

    threads = [threading.Thread(target=poll, args=(number,)) for number in range(len(refused))]
    for thread in threads:
        thread.start()
    asking.wait(10.0)
    time.sleep(1.0)  # the load and the pollers run
    since = time.monotonic()
    method_of(channels[-1], APPLY)(change, timeout=30.0)
    for thread in threads:
        thread.join()
    moments = [moment for moment in refused if moment is not None]
    if len(moments) != len(refused):
        raise BenchError(f"a revoked device was still served when the load ended; refused otherwise: {others}")
    return (max(moments) - since) * 1000


def growth(bench: Bench) -> None:
    """CPU per DeriveCredKek of the same 100 active devices, in a large population against a small one."""
    large = bench.deployment("large", operators=bench.scale.large)
    results, calls = bench.results, bench.scale.calls
    with large.serve_pinned() as above, bench.small.serve_pinned() as below, bench.load() as load:
        bench.connect(load, "large", above.said)
        bench.connect(load, "small", below.said)
        for counts in bench.turns():
            some = bench.cost(load, "small", [below.pid], DERIVE, bench.small.fetches(calls))
            many = bench.cost(load, "large", [above.pid], DERIVE, large.fetches(calls))
            if counts:
                results.sample("derive_small_us", some)
                results.sample("derive_large_us", many)
    results.values["cost_growth"] = results.ratio("derive_large_us", "derive_small_us")
    size = f"{bench.scale.large * DEVICES:,} devices, {bench.scale.large * OBJECTS:,} objects"
    results.notes["cost_growth"] = f"{size}; 100 of the devices active"


#: Each measurement, and the figures that it gives.
MEASURES: Final[tuple[tuple[Callable[[Bench], None], tuple[str, ...]], ...]] = (
    (
        floor_and_calls,
        (
            "noop_cpu_us",
            "verify_k10_vs_noop",
            "derive_cred_kek_vs_noop",
            "sign_audit_row_vs_noop",
            "overhead_us",
            "rss_mib",
        ),
    ),
    (against_singles, ("verify_k10_batch_vs_libsecp", "derive_batch_vs_single")),
    (gathering, ("gathering_cpu",)),
    (two_processes, ("two_process_cpu",)),
    (cold_start, ("cold_start_s",)),
    (revocation, ("revocation_ms",)),
    (growth, ("cost_growth",)),
)
