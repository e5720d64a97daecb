"""Keep requests to this machine and to a Ray cluster away from HTTP proxies, through the variable that all libraries read."""

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

NAMES = ("no_proxy", "NO_PROXY")  # libraries that know both prefer the first
LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1", "[::1]")  # some compare texts, some know networks
ALL = "*"


@contextlib.contextmanager
def direct_loopback() -> Iterator[None]:
    """Within the block this machine's own addresses are asked directly, and those of `bypass_proxies`; restored afterwards."""
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
    """Let this process and those that it starts ask no proxy for loopback and the hosts of some addresses.

    What `no_proxy` lists already stays.

    Args:
        addresses: `HOST`, `HOST:PORT` or a URL each. One that begins with https:// is left to the environment: it is a name of
            the web, which may be behind a proxy.
    """
    listed = without_proxy(*addresses)
    os.environ.update(dict.fromkeys(NAMES, listed))


def without_proxy(*addresses: str) -> str:
    """Return the value of `no_proxy` that lists what it does now, loopback, and the hosts of some addresses."""
    known = [entry.strip() for name in NAMES for entry in os.environ.get(name, "").split(",")]
    hosts = [form for address in addresses for form in _forms(address)]
    entries = dict.fromkeys(entry for entry in (*known, *LOOPBACK, *hosts) if entry)
    return ALL if ALL in entries else ",".join(entries)


def is_loopback(address: str) -> bool:
    """Return whether an address, as for `bypass_proxies`, is of this machine's loopback interface."""
    host = _host(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _forms(address: str) -> tuple[str, ...]:
    """Return the ways in which libraries compare the host of an address; none where it is left to the environment."""
    host = _host(address)
    if not host or (address.startswith("https://") and not is_loopback(address)):
        return ()
    return (host, f"[{host}]") if ":" in host else (host,)


def _host(address: str) -> str:
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:  # no address; who uses it says so
        return ""
