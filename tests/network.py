"""Network namespaces for tests: a client, a router that can stop forwarding, and a server. They need root on Linux."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")

SERVER_ADDRESS = "10.77.2.2"
_CLONE_NEWNET = 0x40000000
_NUMBERS = itertools.count(1)


def skip_without_namespaces() -> None:
    """Skip the test where network namespaces cannot be had."""
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("network namespaces need root on Linux, and the program ip")
    try:
        with contextlib.ExitStack() as stack:
            Network(stack)
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")


def enter_namespace(name: str) -> None:
    """Move this thread, or this process if it has one thread, to a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        if libc.setns(file, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    finally:
        os.close(file)


class Network:
    """Three namespaces in a row: client, router, server. ``names``: part → its namespace."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        prefix = f"payarc-{os.getpid()}-{next(_NUMBERS)}"
        self.names = {part: f"{prefix}-{part}" for part in ("client", "router", "server")}
        for name in self.names.values():
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        for number, part in ((1, "client"), (2, "server")):
            _ip(
                *("link", "add", f"to-{part}", "netns", self.names["router"]),
                *("type", "veth", "peer", "name", "eth0", "netns", self.names[part]),
            )
            self._ip_in("router", "address", "add", f"10.77.{number}.1/24", "dev", f"to-{part}")
            self._ip_in("router", "link", "set", f"to-{part}", "up")
            self._ip_in(part, "address", "add", f"10.77.{number}.2/24", "dev", "eth0")
            self._ip_in(part, "link", "set", "eth0", "up")
            self._ip_in(part, "route", "add", "default", "via", f"10.77.{number}.1")
        self.forward(True)

    def forward(self, enabled: bool) -> None:
        """Heal or begin the partition."""
        command = f"echo {int(enabled)} > /proc/sys/net/ipv4/ip_forward"
        _run("ip", "netns", "exec", self.names["router"], "sh", "-c", command)

    def start(self, part: str, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python program in a namespace."""
        command = ["ip", "netns", "exec", self.names[part], sys.executable, "-c", textwrap.dedent(code), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        return process

    def inside(self, part: str, call: Callable[[], T]) -> T:
        """The result of a call in a namespace. Sockets that it creates stay there."""
        results: list[T] = []

        def enter_and_call() -> None:
            enter_namespace(self.names[part])
            results.append(call())

        thread = threading.Thread(target=enter_and_call)
        thread.start()
        thread.join()
        return results[0]

    def _ip_in(self, part: str, *arguments: str) -> None:
        _ip("-n", self.names[part], *arguments)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
