"""Can one user, or one who fails, stop the warm process for the others, or make it tell what is hidden?"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from helpers.hosts import until
from helpers.pairs import PATIENCE, Pair, named
from helpers.single_shot import COMMAND, ending
from helpers.warm import Warm, log_of, pause, until_it_serves, warming


def _processor_seconds(pid: int) -> float:
    """Return how long a process has used a processor (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_listening_socket_that_is_shut_down(pair: Pair) -> None:
    """D7. Whoever shares it may call shutdown(2): it is given up, and the process ends, for it has no other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen([*COMMAND, "-S"], stdin=listener.fileno(), stderr=subprocess.PIPE)
        with ending(process):
            until_it_serves(process)
            assert Warm(process, listener.getsockname()).ask(pair.query + b"\r\n") == named(pair)
            listener.shutdown(socket.SHUT_RDWR)
            assert process.wait(PATIENCE) == 0
            assert process.stderr is not None
            said = process.stderr.read().decode()
    assert said.count("listens no more: Invalid argument") == 1, said


def test_one_of_two_listening_sockets_is_shut_down(pair: Pair) -> None:
    """D7. The other one goes on being served, at no cost."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        command = ["bash", "-c", f'exec 3<&{one.fileno()} 4<&{other.fileno()} </dev/null; '
                   'LISTEN_FDS=2 LISTEN_PID=$$ exec "$@"', "bash", *COMMAND, "-S"]  # fmt: skip
        fds = (one.fileno(), other.fileno())
        process = subprocess.Popen(command, pass_fds=fds, stderr=subprocess.PIPE)
        with ending(process):
            until_it_serves(process)
            one.shutdown(socket.SHUT_RDWR)
            warm = Warm(process, other.getsockname())
            assert warm.ask(pair.query + b"\r\n") == named(pair)
            before = _processor_seconds(process.pid)
            pause(1)
            assert _processor_seconds(process.pid) - before < 0.5
            assert warm.ask(pair.query + b"\r\n") == named(pair)
            assert log_of(warm).count("listens no more") == 1
