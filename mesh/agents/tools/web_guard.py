"""Which addresses a fetch may go to. Pure: what is resolved and connected is the caller's.

A URL that a model or a stranger names may point into our own network. So: schemes and ports by
allow-list, no credentials in it, every address that the name resolves to must be public (IPv4
within IPv6 included), and the connection goes to the very address that was checked.

Source: RFC 6890 (special-purpose addresses), RFC 6052 and 3056 (IPv4 within IPv6), OWASP's
"Server-Side Request Forgery Prevention".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from mesh.core.errors import Forbidden, InvalidInput

_HOST = re.compile(
    r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
)
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_IPV4_COMPATIBLE = IPv6Network("::/96")
# Special-purpose networks that not every version of Python's ipaddress knows as such.
_SPECIAL = tuple(
    ip_network(text)
    for text in (
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
    )
)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class WebRules:
    """What may be fetched."""

    schemes: frozenset[str] = frozenset({"https"})
    ports: frozenset[int] = frozenset({443, 80})
    hosts: tuple[str, ...] = ()
    """Names, or ``.domain`` for all below it; empty: any public host."""
    max_url_chars: int = 2_000


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be asked for, once its addresses are checked."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query; never a fragment."""

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(url: str, rules: WebRules) -> Target:
    """Raises InvalidInput (no URL) and Forbidden (one that may not be fetched)."""
    if len(url) > rules.max_url_chars or re.search(r"[\x00-\x20\x7f\\]", url):
        raise InvalidInput("That is no URL.", {"field": "url"})
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput("That is no URL.", {"field": "url"}) from None
    if parts.scheme not in rules.schemes or parts.scheme not in _PORTS:
        allowed = " or ".join(sorted(rules.schemes))
        raise Forbidden(f"Only {allowed} addresses may be fetched.", {"field": "url"})
    if "@" in parts.netloc:
        raise Forbidden("An address with credentials is not fetched.", {"field": "url"})
    host = _host(parts)
    port = _PORTS[parts.scheme] if port is None else port
    if port not in rules.ports:
        raise Forbidden(f"Port {port} may not be fetched from.", {"field": "url"})
    if rules.hosts and not any(_matches(host, rule) for rule in rules.hosts):
        raise Forbidden("This host is not on the list of hosts.", {"field": "url"})
    path = parts.path or "/"
    return Target(parts.scheme, host, port, f"{path}?{parts.query}" if parts.query else path)


def check_address(text: str) -> str:
    """The address, if it is a public one. Raises Forbidden."""
    try:
        address = ip_address(text.split("%", 1)[0])
    except ValueError:
        raise Forbidden("The host has no usable address.") from None
    if "%" in text or not _public(address):
        raise Forbidden("The host lies in a network that is not fetched from.")
    return str(address)


def _public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return _public(inner)
        if address in _IPV4_COMPATIBLE or address in _NAT64_LOCAL or address.is_site_local:
            return False
    if any(address in network for network in _SPECIAL):
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and not address.is_loopback
        and not address.is_link_local
        and not address.is_private
    )


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if ":" in host:  # an IPv6 literal
        return check_address(host)
    try:
        host = host.encode("idna").decode("ascii").lower().rstrip(".")
    except UnicodeError:
        raise InvalidInput("That is no host.", {"field": "url"}) from None
    if not _HOST.fullmatch(host):
        raise InvalidInput("That is no host.", {"field": "url"})
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        raise Forbidden("The host lies in a network that is not fetched from.")
    return host


def _matches(host: str, rule: str) -> bool:
    return host.endswith(rule) if rule.startswith(".") else host == rule
