"""`cred put | get | list | rm`."""

from device.commands.objects import Words, commands
from device.credentials import KIND

app = commands(
    KIND,
    Words(
        all="Credentials: store, read, list, delete.",
        put="Store a credential, byte for byte, never from the command line. Replacing one needs K11.",
        put_short="Store a credential. Replacing one needs K11.",
        get="Read a credential: its very bytes, after store and fetch were verified. On a master it needs K11.\n\n"
        "With --json its value is base64url without padding.",
        get_short="Read a credential: its very bytes. On a master it needs K11.",
        list="List the names that this device may see.",
        rm="Delete a credential for ever. Needs K11.",
    ),
)
