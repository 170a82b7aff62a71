"""File descriptors: connections must run out before what the process needs for its own files."""

import resource


def raise_descriptors(wanted: int) -> int:
    """Raise the soft limit to `wanted`, as far as the hard one lets, and return what holds now. It is never lowered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    reached = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (reached, hard))
    return reached
