"""The network interface over which a host is reached: gloo would take the one that this host's own name leads to, which
often is the loopback interface."""

from __future__ import annotations

import fcntl
import socket
import struct

_SIOCGIFADDR = 0x8915  # netdevice(7): the IPv4 address of an interface
_NAME, _ADDRESS = 15, slice(20, 24)
_ANY_PORT = 9  # nothing is sent


def interface_towards(address: str) -> str | None:
    """The name of the interface whose address packets to ``address`` carry; None where the system does not say, or has
    no IPv4 route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, _ANY_PORT))
        except (OSError, UnicodeError):
            return None
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:_NAME]))
            except OSError:  # one without an IPv4 address
                continue
            if found[_ADDRESS] == own:
                return name
    return None
