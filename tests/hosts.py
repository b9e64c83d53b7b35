"""Two hosts on a cable, for tests: Linux namespaces joined by a veth pair.

A host has a network, process ids and a name of its own, and shares this machine's disk, as hosts
of a cluster share theirs. Nothing of it has a name on this machine: the namespaces live as long as
process 1 in them does, which reads a pipe from here. So they are gone, with every process in them,
once this process is, however it ends.
"""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

ADDRESSES = {"host-1": "10.0.0.1", "host-2": "10.0.0.2"}
INTERFACE = "eth0"
_TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname")
# Without root, both hosts are in a user namespace, whose root we are.
_USER = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")


class CannotMakeHostsError(Exception):
    """This machine does not let us; the message says why."""


@dataclass
class Host:
    """One host; `holder` ends with it."""

    name: str
    holder: "subprocess.Popen[bytes]"

    @property
    def first_process(self) -> int:
        """Process 1 of this host, as this machine numbers it."""
        return psutil.Process(self.holder.pid).children()[0].pid

    def command(self, *command: str) -> list[str]:
        """A command line that runs another on this host."""
        spaces = ("--net", "--uts", "--pid", "--mount", *_USER)
        # It would begin in the root folder.
        folder = f"--wd={Path.cwd()}"
        return ["nsenter", f"--target={self.first_process}", *spaces, folder, "--", *command]

    def run(self, *command: str) -> None:
        _run(*self.command(*command))

    def start(
        self, command: list[str], environment: dict[str, str], log: Path
    ) -> "subprocess.Popen[bytes]":
        """Start a command here, in this process's folder; its output is added to ``log``."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
            )

    def unplug(self) -> None:
        """Take the cable out: packets are lost, and nobody is told."""
        self.run("ip", "link", "set", INTERFACE, "down")

    def power_off(self) -> None:
        """End the host with everything on it, at once; a second call does nothing."""
        self.holder.kill()
        self.holder.communicate()


class Rack:
    """Up to two hosts, those of `ADDRESSES`; leaving it powers them off.

    Args:
        folder: takes the table of names that the hosts look each other up in.
    """

    def __init__(self, folder: Path) -> None:
        self._hosts: dict[str, Host] = {}
        self._names = folder / "hosts"
        lines = {"localhost": "127.0.0.1"} | ADDRESSES
        self._names.write_text("".join(f"{line} {name}\n" for name, line in lines.items()))

    def __enter__(self) -> "Rack":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for host in self._hosts.values():
            host.power_off()

    def boot(self, name: str) -> Host:
        """A new host on the cable, in place of any other of that name.

        Raises:
            CannotMakeHostsError: this machine does not let us.
        """
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            raise CannotMakeHostsError(f"{', '.join(missing)}: not installed")
        if before := self._hosts.pop(name, None):
            before.power_off()
        other = next(iter(self._hosts.values()), None)
        host = self._hosts[name] = Host(name, _hold(beside=other))
        host.run("hostname", name)
        # torchrun looks its own host's name up.
        host.run("mount", "--bind", str(self._names), "/etc/hosts")
        host.run("ip", "link", "set", "lo", "up")
        if other is not None:
            _join(other, host)
        return host


def _hold(beside: Host | None) -> "subprocess.Popen[bytes]":
    """New namespaces; the process returned ends with them."""
    command = ["unshare", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if _USER and beside is None:
        command.append("--map-root-user")
    elif _USER:
        # Whoever made the first host's user namespace may make the second one's network in it.
        command = ["nsenter", f"--target={beside.first_process}", *_USER, "--", *command]
    holder = subprocess.Popen(
        [*command, "sh", "-c", "echo ready && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if holder.stdout.readline() != b"ready\n":
        _, error = holder.communicate()
        raise CannotMakeHostsError(f"`{' '.join(command)}`: {error.decode().strip()}")
    return holder


def _join(one: Host, other: Host) -> None:
    """Lay a cable, in place of any other; one of its ends is each host's ``eth0``."""
    # A host that was powered off takes its end away only when the kernel gets round to it.
    with contextlib.suppress(CannotMakeHostsError):
        one.run("ip", "link", "delete", INTERFACE)
    _run(
        # From outside of the first host's process ids, which do not number the other's.
        *("nsenter", f"--target={one.first_process}", "--net", *_USER, "--"),
        *("ip", "link", "add", INTERFACE, "type", "veth"),
        *("peer", "name", INTERFACE, "netns", str(other.first_process)),
    )
    for host in (one, other):
        host.run("ip", "address", "add", f"{ADDRESSES[host.name]}/24", "dev", INTERFACE)
        host.run("ip", "link", "set", INTERFACE, "up")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CannotMakeHostsError(f"`{' '.join(command)}`: {done.stderr.strip()}")
