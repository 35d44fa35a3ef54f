"""Where webhooks may point: which URLs, and which addresses behind them. Pure."""

import ipaddress
import re
import socket

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL = 2_048
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# 6to4 and Teredo carry an IPv4 address inside, and nobody serves webhooks through them.
_TUNNELS = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))
# What a cloud tells its own machines, credentials too. Some of these look like any public address.
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("168.63.129.16", "100.100.100.200", "169.254.169.254", "fd00:ec2::254")
)


# Said where the setting would make a difference.
_UNLESS = ", unless BUSHEL_WEBHOOK_PRIVATE_ADDRESSES is set on the server"


# What the name system can hold (RFC 1123, and underscores, which are in use), as it is sent, so already in IDNA. The
# last part has a letter: what ends in a number is an address, and this one is none.
_LABEL = rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rb"(?=.{1,254}\Z)(?:" + _LABEL + rb"\.)*(?=[^.]*[A-Za-z])" + _LABEL + rb"\.?")


class BadTarget(ValueError):
    """Nothing may be sent there; the message says why, in words for whoever chose it."""


def check_url(url: str, allow_private: bool) -> httpx.URL:
    """The URL, parsed as it will be when something is sent there; BadTarget if it may not be used.

    Names are not looked up here: what counts is where they lead at the moment of sending.
    """
    if len(url) > MAX_URL:
        raise BadTarget(f"must have {MAX_URL:,} characters or less")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as exc:
        raise BadTarget(f"is not a URL: {exc}") from exc
    if parsed.scheme != "https" and not (allow_private and parsed.scheme == "http"):
        wanted = " or http://" if allow_private else _UNLESS if parsed.scheme == "http" else ""
        raise BadTarget(f"must begin with https://{wanted}")
    if not parsed.host or not (parsed.port is None or 0 < parsed.port < 65_536):
        raise BadTarget("must name a host, and a port from 1 to 65535 if any")
    if parsed.userinfo:
        raise BadTarget("must not carry a user name or password")
    if parsed.fragment:
        raise BadTarget("must not have a fragment (#…)")
    _check_host(parsed.host, allow_private)
    if literal(parsed.host) is None and not _NAME.fullmatch(parsed.raw_host):
        raise BadTarget("must name a host by letters, digits, hyphens and dots, or by its address")
    return parsed


def _check_host(host: str, allow_private: bool) -> None:
    address = literal(host)
    if address is not None and not may_reach(address, allow_private):
        unless = _UNLESS if may_reach(address, allow_private=True) else ""
        raise BadTarget(f"leads to {address}, where nothing is sent{unless}")
    name = host.rstrip(".").lower()
    if not allow_private and (name == "localhost" or name.endswith(".localhost")):
        raise BadTarget(f"leads to {host}, which is this machine; nothing is sent there{_UNLESS}")


def literal(host: str) -> Address | None:
    """The address that the host spells out, in any form the system's resolver takes; None for a name.

    >>> literal("127.1"), literal("0x7f000001"), literal("017700000001"), literal("a.example")
    (IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), None)
    """
    host = host.rstrip(".")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def may_reach(address: Address, allow_private: bool) -> bool:
    """
    >>> [may_reach(ipaddress.ip_address(text), False) for text in ("93.184.216.34", "10.0.0.1", "::ffff:10.0.0.1")]
    [True, False, False]
    >>> may_reach(ipaddress.ip_address("10.0.0.1"), True), may_reach(ipaddress.ip_address("169.254.169.254"), True)
    (True, False)
    """
    inner = _inside(address)
    if inner is not None:
        return may_reach(inner, allow_private)
    if address in _METADATA:
        return False
    return _is_public(address) or (allow_private and _is_private(address))


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _UNICAST or any(address in net for net in _TUNNELS)
    ):
        return False
    return address.is_global and not address.is_multicast


def _is_private(address: Address) -> bool:
    """Networks somebody may have a receiver in. Link-local ones are where clouds keep their secrets."""
    if address.is_loopback:
        return True
    odd = address.is_unspecified or address.is_link_local or address.is_multicast or address.is_reserved
    return not odd and not address.is_global


def _inside(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one is only another way to write, or to get to."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped
