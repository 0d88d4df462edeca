"""Under which names browsers may reach this studio, and which of them an origin belongs to.

A page elsewhere can let its own name lead to this machine (DNS rebinding) and then reads what it likes, for to the browser
it is the same site. Only the Host that it sends gives it away.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable

from engine.base.errors import UserError

Address = tuple[str, int | None]  # a host in lower case, IPv6 without brackets; a port, None where none is given
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)\.?(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse(authority: str) -> Address | None:
    """HOST or HOST:PORT as an address; None for anything else. One dot at the end of the host means nothing."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or (found[2] and int(found[2]) > 65_535):
        return None
    host = found[1].lower().strip("[]")
    return _plain(host), int(found[2]) if found[2] else None


def same(origin: str, host: Address) -> bool:
    """Whether an Origin header names exactly this host and port. "null" and what is no origin never do."""
    scheme, separator, authority = origin.partition("://")
    address = parse(authority)
    default = _DEFAULT_PORTS.get(scheme.lower())
    if not separator or default is None or address is None:
        return False
    return (address[0], address[1] or default) == (host[0], host[1] or default)


class Names:
    """The names of one studio. `listen`: where it listens, None for this machine only; `others`: NAME or NAME:PORT."""

    def __init__(self, listen: str | None = None, others: Iterable[str] = ()) -> None:
        self.own = {"localhost", "127.0.0.1", "::1"} | (_names_here(listen) if listen else set())
        self.others: set[Address] = set()
        for name in others:
            self.add(name)

    def add(self, name: str) -> None:
        """Allow another name, as a proxy or a tunnel has it. Raises UserError for what is no name."""
        address = parse(name)
        if address is None:
            raise UserError(f"{name!r} is not the name of a host.", "Write it as NAME or NAME:PORT, without http://.")
        self.others.add(address)

    def has(self, host: Address, server: tuple[str, int | None] | None) -> bool:
        """Whether `host` is one of the names. `server`: the address and port at which the request came in."""
        if host in self.others:
            return True
        served, port = server or ("", None)
        own_port = port is not None and (host[1] or 80) == port
        if (host[0], None) in self.others:
            return own_port or host[1] in _DEFAULT_PORTS.values()
        return own_port and (host[0] in self.own or host[0] == _plain(served.partition("%")[0].lower()))


def _names_here(listen: str) -> set[str]:
    """The address given with --listen, and what other machines call this one."""
    machine = socket.gethostname().lower()
    short = machine.partition(".")[0]
    return {_plain(listen.lower().strip("[]")), machine, short, f"{short}.local"}


def _plain(host: str) -> str:
    """One spelling for each IP address, and for an IPv4 address that came in through IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)
