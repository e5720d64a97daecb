"""Bypass HTTP proxies for requests to this machine and to a Ray cluster.

The variable `no_proxy`, which all libraries read, lists the addresses.
"""

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

NAMES = ("no_proxy", "NO_PROXY")  # libraries that read both prefer the first
# Some libraries compare texts, others match networks.
LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "[::1]")
ALL = "*"


@contextlib.contextmanager
def direct_loopback() -> Iterator[None]:
    """Bypass proxies for this machine's addresses within the block.

    Addresses that `bypass_proxies` adds within the block are bypassed too. The variables are
    restored afterwards.
    """
    before = {name: os.environ.get(name) for name in NAMES}
    bypass_proxies()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def bypass_proxies(*addresses: str) -> None:
    """Bypass proxies for loopback and some hosts, in this process and those that it starts.

    Entries that `no_proxy` already lists stay.

    Args:
        addresses: `HOST`, `HOST:PORT` or a URL each. An address that begins with https:// is left
            to the environment: it is a web address, which may be behind a proxy.
    """
    listed = without_proxy(*addresses)
    os.environ.update(dict.fromkeys(NAMES, listed))


def without_proxy(*addresses: str) -> str:
    """Return a value of `no_proxy` for loopback and the hosts of some addresses.

    The entries that it lists now stay.
    """
    known = [entry.strip() for name in NAMES for entry in os.environ.get(name, "").split(",")]
    hosts = [form for address in addresses for form in _forms(address)]
    entries = dict.fromkeys(entry for entry in (*known, *LOOPBACK, *hosts) if entry)
    return ALL if ALL in entries else ",".join(entries)


def is_loopback(address: str) -> bool:
    """Return whether an address, as for `bypass_proxies`, is on the loopback interface."""
    host = _host(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _forms(address: str) -> tuple[str, ...]:
    """Return the forms in which libraries compare the host of an address.

    The tuple is empty if the address is left to the environment.
    """
    host = _host(address)
    if not host or (address.startswith("https://") and not is_loopback(address)):
        return ()
    return (host, f"[{host}]") if ":" in host else (host,)


def _host(address: str) -> str:
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:  # not an address; its user reports that
        return ""
