"""Ways to break the backend, and the cases that must notice each: what the suite is worth."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

#: What is broken in a running backend: names of `BREAKAGES`.
Broken = AbstractSet[str]

#: Name of the breakage → the cases that must fail, each by its full name. Others may fail as well.
BREAKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "accept-any-epoch": ("Order/epoch-alone",),
    "accept-expired": ("Order/expired-alone",),
    "accept-foreign-domain": ("Certificates/refuses-foreign-domain",),
    "accept-noncanonical": ("Requests/a-space-between-members", "Requests/members-out-of-order"),
    "accept-revoked-certificate": ("Certificates/refuses-revoked",),
    "any-k11": ("Order/K11-alone", "Order/the-K11-of-another-user"),
    "answer-unbound": ("SignSiwe/the-wallet-of-the-actor-signs,-and-the-answer-opens-for-the-device-alone",),
    "any-root": ("SignCheckpoint/another-root", "SignCheckpoint/a-row-that-is-none"),
    "batches-reversed": (
        "DeriveCredKekBatch/each-item-is-answered-in-its-place",
        "VerifyK10SigBatch/verdicts-in-order",
    ),
    "batches-spoil-others": (
        "DeriveCredKekBatch/an-item-that-is-refused-spoils-none-of-the-others",
        "SignAuditRowBatch/an-item-that-is-refused-spoils-none-of-the-others",
    ),
    "change-without-k11": ("ApplyChange/a-scope-without-K11",),
    "charge-before-signature": ("Order/junk-in-a-victim's-name-does-not-slow-the-victim",),
    "daemon-allowed": ("DeriveAddress/refuses-a-daemon-certificate", "Health/is-not-for-a-daemon"),
    "evidence-reused": ("AttestEnrol/the-same-evidence-for-another-bind",),
    "fixed-salt": ("DeriveCredKek/two-versions-and-two-objects-have-different-keys",),
    "forget-nonces": ("ApplyChange/a-nonce-that-was-used",),
    "freeze-ignored": ("DeriveCredKek/a-frozen-user",),
    "fresh-row-on-repeat": ("SignAuditRow/the-same-call-again-returns-the-same-bytes",),
    "high-s": ("Order/a-high-s-alone", "VerifyK10Sig/a-high-s-is-never-valid"),
    "hold-ignored": ("StsCredentials/no-other-cap-gets-a-session-that-changes-an-object-which-one-holds",),
    "ignore-version-rule": (
        "DeriveCredKek/an-older-version-is-closed",
        "DeriveCredKek/a-store-that-expects-another-store",
    ),
    "leak-scope-in-list": ("ListObjects/an-agent-sees-what-its-scope-grants-and-nothing-else",),
    "no-burn": ("DeriveCredKek/a-spent-cap-of-a-store", "DeriveCredKek/a-spent-cap-of-a-put"),
    "no-metadata": ("Order/epoch-alone", "Order/expired-alone"),
    "nonce-ignored": ("AttestEnrol/a-token-that-binds-other-keys",),
    "policy-without-k11": ("SignTypedData/a-value-above-the-bound-needs-K11",),
    "reason-in-text-only": ("DeriveAddress/an-omni-of-31-bytes",),
    "revoked-device-allowed": ("DeriveCredKek/stops-when-the-device-is-revoked",),
    "scope-ignored": ("Order/a-grant-of-another-name-is-none", "DeriveCredKek/an-agent-whose-grant-was-withdrawn"),
    "skip-cosignature": ("Order/co-signature-alone",),
    "skip-device-signature": ("Order/device-signature-alone",),
    "threshold-ignored": ("ApplyChange/one-K11-against-a-threshold-of-two",),
    "unchained-rows": ("DeriveCredKek/rows-are-chained-an-actor,-without-a-gap",),
    "under-way-ignored": ("DeriveCredKek/reading-a-newer-version-while-another-store-is-under-way",),
    "unknown-fields-accepted": ("DeriveCredKek/refuses-an-unknown-field",),
    "unsigned-rows": ("DeriveCredKek/the-row-says-who,-what-and-which-version",),
    "window-ignored": ("Rewrap/the-window-is-closed",),
    "wrong-hkdf-info": ("DeriveCredKek/is-that-of-the-object-key",),
    "wrong-order": ("Order/audience-before-epoch", "Order/expired-before-epoch"),
}
