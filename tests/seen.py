"""What others on the machine could see of a run: files that are not its owner's alone, sockets that the network reaches."""

import ipaddress
import stat
from pathlib import Path

import psutil


def open_to_others(folder: Path) -> list[str]:
    """Files and folders, the given one too, that somebody beside their owner may read, write or enter."""
    found = []
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(f"{stat.filemode(status.st_mode)} {path.relative_to(folder)}")
    return found


def sockets(process: psutil.Process) -> dict[str, bool]:
    """Where the process and all below it listen, and whether that is loopback."""
    found: dict[str, bool] = {}
    for each in (process, *process.children(recursive=True)):
        try:
            name = each.name()
            places = [socket.laddr for socket in each.net_connections("inet") if socket.status == psutil.CONN_LISTEN]
        except psutil.Error:  # it has ended meanwhile
            continue
        for place in places:
            address = ipaddress.ip_address(place.ip)
            address = getattr(address, "ipv4_mapped", None) or address
            found[f"{name} at {place.ip}:{place.port}"] = address.is_loopback
    return found
