"""Conformance suite: drives any implementation of the protocol over gRPC and says, case by case, what it does right.

`python -m tests.conformance --target HOST:PORT --certs DIR`; docs/spec/conformance.md describes DIR. Exit status 0 where
no case failed, 1 where one did, 2 where the suite could not run.
"""

import argparse
import json
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import grpc

from agentkeys_core.errors import KeyServiceError
from tests.conformance import groups
from tests.conformance.manifest import Manifest, ManifestError
from tests.conformance.runner import Outcome, Verdict, run, selected
from tests.conformance.site import Site

_MARKS = {Outcome.PASSED: "ok  ", Outcome.FAILED: "FAIL", Outcome.SKIPPED: "skip"}


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--target", help="HOST:PORT of the implementation")
    parser.add_argument("--certs", type=Path, help="folder with certificates, keys and manifest.json")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="cases whose name matches")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object instead of lines")
    parser.add_argument("--list", action="store_true", dest="as_list", help="print the names of the cases and stop")
    return parser.parse_args(words)


def line(verdict: Verdict) -> str:
    """One line of the report."""
    wanted = f" → {verdict.case.gives}" if verdict.case.gives else ""
    told = f"\n         {verdict.detail}" if verdict.detail else ""
    return f"  {_MARKS[verdict.outcome]} {verdict.case.title}{wanted}{told}"


def report(verdicts: list[Verdict]) -> str:
    """Every case, grouped by RPC, and the sums."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.case.group)
    lines = []
    for group, members in groupby(ordered, key=lambda verdict: verdict.case.group):
        lines += [group, *(line(verdict) for verdict in members)]
    counts = Counter(verdict.outcome for verdict in verdicts)
    sums = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome)
    failed = [f"FAIL {verdict.case.name}" for verdict in verdicts if verdict.outcome is Outcome.FAILED]
    return "\n".join([*lines, "", *failed, sums])


def as_json(verdicts: list[Verdict]) -> str:
    """The same as one JSON object."""
    cases = [
        {
            "name": verdict.case.name,
            "outcome": verdict.outcome,
            "gives": verdict.case.gives,
            "detail": verdict.detail,
        }
        for verdict in verdicts
    ]
    return json.dumps({"cases": cases, "sums": Counter(verdict.outcome for verdict in verdicts)}, indent=1)


def main(words: list[str] | None = None) -> int:
    """Run what was asked for."""
    asked = arguments(words)
    groups.load()
    chosen = selected(asked.only)
    if asked.as_list:
        print("\n".join(case.name for case in chosen))
        return 0
    try:
        if asked.target is None or asked.certs is None:
            raise ManifestError("--target and --certs are needed")
        if not chosen:
            raise ManifestError("no case has such a name")
        with Site(asked.target, Manifest.load(asked.certs)) as site:
            site.now  # noqa: B018  # asks GetStatus: a target that does not answer is no case's failure
            verdicts = run(site, chosen)
    except (ManifestError, OSError, grpc.RpcError, KeyServiceError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    print(as_json(verdicts) if asked.as_json else report(verdicts))
    return 1 if any(verdict.outcome is Outcome.FAILED for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
