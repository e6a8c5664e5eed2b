"""Notes every call to another machine that this Python process makes; see tests/supply_chain/offline.py."""

import os
import sys

EVENTS = {
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
}
# What does not leave this machine.
HERE = ("127.", "::1", "localhost", "0.0.0.0", "::")


def note(event, arguments):
    """Python's audit events come before the call, also before one that is refused."""
    if event not in EVENTS:
        return
    address = arguments[0] if event.startswith("socket.get") else arguments[1]
    if isinstance(address, (str, bytes)) and not event.startswith("socket.get"):
        return  # a file's name: a socket of this machine
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode(errors="replace") if isinstance(host, bytes) else host
    if host and not str(host).startswith(HERE):
        with open(os.environ["FEDSIM_SOCKETS"], "a") as file:
            file.write(f"{event} {address!r} by {sys.argv[:3]}\n")


if "FEDSIM_SOCKETS" in os.environ:
    sys.addaudithook(note)
