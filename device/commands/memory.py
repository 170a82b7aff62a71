"""`memory put | get | list | rm`."""

from device.commands.objects import Words, commands
from device.memories import KIND

app = commands(
    KIND,
    Words(
        all="Memories of this device's actor: store, read, list, delete. All devices of one agent share them.",
        put="Store a memory, byte for byte, new or instead of the one under that name.",
        put_short="Store a memory, new or instead of another.",
        get="Read a memory: its very bytes, after put and get were verified.\n\n"
        "With --json its value is base64url without padding.",
        get_short="Read a memory: its very bytes.",
        list="List the names that this device may see.",
        rm="Delete a memory for ever.",
    ),
)
