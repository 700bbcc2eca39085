"""By which address and network the processes of several machines reach each other."""

import ipaddress
import os
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from utils.errors import UsageError
from utils.launchers import Place

NAMED = 30.0  # seconds within which process 0 must be found: where it is on this machine, it may still import torch


def check_address(spot: Place) -> None:
    """Refuses an address of process 0 that leads nowhere from another machine, or to that machine itself.

    Two launchers may share a machine: then process 0 answers there.
    """
    found, end = "", time.monotonic() + NAMED
    while spot.machine and time.monotonic() < end:
        with suppress(OSError):
            found = str(socket.getaddrinfo(spot.address, None)[0][4][0])
            if not ipaddress.ip_address(found).is_loopback:
                return
            socket.create_connection((spot.address, spot.port), timeout=1).close()
            return
        time.sleep(0.2)
    if spot.machine:
        here = socket.gethostname()
        what = f"which on {here} is this machine itself" if found else f"a name that {here} does not know"
        raise UsageError(
            f"process 0 is to be at {spot.address}, {what}: give an address that reaches it from here: "
            "`torchrun --local-addr=ADDRESS` on its machine, MASTER_ADDR for srun"
        )


def choose_interface(spot: Place, others: list[dict[str, Any]]) -> None:
    """Has gloo use the network by which this machine reaches the others; else it takes that of the machine's name,
    which often is 127.0.0.1. On one machine it is the loopback: no name has to be known.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    far = [one["address"] for one in others if one["machine"] != spot.machine]
    goal = far[0] if far and spot.machine == others[0]["machine"] else spot.address
    interface = _interface(address_towards(goal)) if far else "lo"
    if interface in [name for _, name in socket.if_nameindex()]:
        os.environ["GLOO_SOCKET_IFNAME"] = interface


def address_towards(address: str) -> str:
    """The address of this machine from which it reaches another one; nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return probe.getsockname()[0]
    return "127.0.0.1"


def _interface(address: str) -> str:
    """The network interface that has this address; "" where that is not known."""
    if sys.platform != "linux":
        return ""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                request = fcntl.ioctl(probe, 0x8915, name.encode()[:15].ljust(256, b"\0"))  # SIOCGIFADDR
                if socket.inet_ntoa(request[20:24]) == address:
                    return name
    return ""
