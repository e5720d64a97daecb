"""Find files and sockets of a run that other users of the machine can access."""

import ipaddress
import stat
from pathlib import Path

import psutil


def open_to_others(folder: Path) -> list[str]:
    """Return files and folders, including `folder`, that other users may read, write or enter."""
    found = []
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(f"{stat.filemode(status.st_mode)} {path.relative_to(folder)}")
    return found


def sockets(process: psutil.Process) -> dict[str, bool]:
    """Return the listening addresses of the process tree, and for each whether it is loopback."""
    found: dict[str, bool] = {}
    for each in (process, *process.children(recursive=True)):
        try:
            name = each.name()
            places = [
                socket.laddr
                for socket in each.net_connections("inet")
                if socket.status == psutil.CONN_LISTEN
            ]
        except psutil.Error:  # ended meanwhile
            continue
        for place in places:
            address = ipaddress.ip_address(place.ip)
            address = getattr(address, "ipv4_mapped", None) or address
            found[f"{name} at {place.ip}:{place.port}"] = address.is_loopback
    return found
