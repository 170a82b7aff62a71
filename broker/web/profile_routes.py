"""The profile, for machines that were told its hash: what is served is public, and believed by its hash alone."""

from collections.abc import Mapping
from pathlib import Path

from agentkeys_core.encoding import parse_canonical
from agentkeys_core.errors import KeyServiceError, Reason
from agentkeys_core.profile import MAX_PROFILE_BYTES, Profile
from agentkeys_runtime.config import ConfigError
from agentkeys_runtime.files import read_limited
from agentkeys_runtime.web.endpoints import Endpoint


def load_profile(path: Path, *, origin: str, registry_id: str) -> Mapping[str, object]:
    """Return the profile of a file as JSON.

    Raises:
        ConfigError: it is no profile, or that of another broker or registry: devices would find nothing there.
    """
    try:
        data = read_limited(path, MAX_PROFILE_BYTES).removesuffix(b"\n")
        profile = Profile.parse(data)
        found = parse_canonical(data, limit=MAX_PROFILE_BYTES, not_canonical=Reason.INVALID_ENCODING)
    except KeyServiceError as exc:
        raise ConfigError(f"{path} is no profile: {exc.detail}") from exc
    if (profile.broker, profile.aud) != (origin, registry_id) or not isinstance(found, dict):
        raise ConfigError(f"{path} is the profile of another broker or registry")
    return found


def profile_endpoints(profile: Mapping[str, object]) -> tuple[Endpoint, ...]:
    """Return the route that serves it."""
    return (
        Endpoint(
            method="GET",
            path="/v1/profile",
            summary="The deployment's profile; devices compare its hash with the one that they were told.",
            handler=lambda _: profile,
            price=0,
            response={"type": "object", "required": sorted(profile)},
        ),
    )
