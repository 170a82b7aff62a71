"""What a person can do about a refusal, by its reason."""

from collections.abc import Mapping
from typing import Final

from agentkeys_core.errors import KeyServiceError
from device.errors import DeviceError
from device.problems import RETRY_AFTER

_ADVICE: Final[Mapping[str, str]] = {
    "cap_expired": "Your clock may be behind; compare it with the server's.",
    "cap_not_yet_valid": "Your clock may be ahead; compare it with the server's.",
    "service_not_in_scope": "A master can grant it: agentkeys scope set AGENT --grant SERVICE",
    "operator_frozen": "A master or a restore froze everything: see agentkeys device list, then agentkeys unfreeze.",
    "change_not_authorised": "The registry's state does not fit it, or who signed it may not; see agentkeys whoami.",
    "device_unknown": "The registry does not know this device yet; a master lets it in: agentkeys agent approve CODE.",
    "k11_required": "Only a master device with its K11 can do that; for typed data an agent may --ask-master.",
    "proof_invalid": "This machine's clock may be off; it must be right to a minute.",
    "policy_refused": "The signer's host does not allow that, or the wallet is your own and signs by itself.",
    "version_not_current": "Somebody changed it meanwhile; look with agentkeys cred list and try again.",
    "ceremony_ended": "Its ten minutes are over, or it was used. Run the command again to begin anew.",
    "not_confirmed": "Run the command again to begin anew.",
    "identity_not_offered": "Ask your host which identities this deployment takes.",
    "invalid_evidence": "What was proved does not count here: too old, not the deployment's, or not taken by its host.",
    "already_bound": "That identity or device has a tree already: a master of it can let this machine in.",
    "rate_limited": "That was asked too often; wait a while.",
    "mail_unreachable": "The broker could not hand the mail over; check the address, or try again later.",
    "rotation_not_in_force": "Nothing was given up: the key before is still here, and so is the new one.",
    "k11_invalid": "Another key answered than this device's K11, or it is a software K11 and the registry takes none.",
    "k11_key_not_found": "Plug it in; on Linux a udev rule lets you open it. See the runbook on security keys.",
    "k11_key_lost": "Leave the key plugged in, and try again.",
    "k11_pin_not_set": "Set a PIN in your browser's settings for security keys, or with the tool of the key's maker.",
    "k11_key_unsuitable": "K11 needs a FIDO2 key with a PIN or a fingerprint.",
}

#: Of all refusals that tell the server's time, those that a wrong clock can be the cause of.
_OF_CLOCKS: Final = frozenset({"cap_expired", "cap_not_yet_valid", "proof_invalid"})


def advice_on(error: DeviceError | KeyServiceError) -> str:
    """One line for the person, or nothing."""
    words = _ADVICE.get(str(error.reason), "")
    if isinstance(error, KeyServiceError) and str(error.reason) in _OF_CLOCKS and "server_time" in error.metadata:
        words += f" Server time: {error.metadata['server_time']} (Unix seconds)."
    if isinstance(error, KeyServiceError) and RETRY_AFTER in error.metadata:
        words += f" Try again in {error.metadata[RETRY_AFTER]} s."
    return words.strip()
