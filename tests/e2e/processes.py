"""Commands and processes of the end-to-end tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

Command = Callable[..., subprocess.CompletedProcess[str]]


def line(*arguments: str) -> list[str]:
    """The command line of `genloom …` with this Python."""
    return [sys.executable, "-c", "from flows.commands.main import main; main()", *arguments]


def processes_of(project: Path) -> list[str]:
    """The command lines of all processes that work in the project's folder or carry its path."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "status"]):
        facts = process.info
        if facts["pid"] == os.getpid() or facts["status"] == psutil.STATUS_ZOMBIE:
            continue
        words = " ".join(facts["cmdline"] or [])
        if str(project) in words or facts["cwd"] == str(project):
            found.append(words)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
