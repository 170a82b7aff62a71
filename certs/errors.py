class CertsError(Exception):
    """What a certificate command cannot do, in words for the person who ran it. Never holds key material."""

    exit_code = 1


class InvalidInputError(CertsError):
    """An argument that no command could use: a name, address, time or trust domain of another shape."""

    exit_code = 2
