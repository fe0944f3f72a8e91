"""Running one measured step in a process of its own, so that its memory and its caches are its own."""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT


def in_own_process(function: str, *arguments: object) -> dict[str, Any]:
    """Call `module:function` with text arguments in a new process; what it returns, with `peak_gib` of its memory.

    Raises:
        OnefoldError: it failed; with its last words.
    """
    code = "import sys; from bench.measure import _call; _call(*sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code, function, *map(str, arguments)],
        cwd=PROJECT_ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise OnefoldError(f"{function} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no word'}")
    return json.loads(done.stdout.splitlines()[-1])


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it returns."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def peak_memory(process: int | None = None) -> int:
    """The most memory (bytes) that this process, or on Linux another, has held, without what its parent held when it began."""
    # In KiB. getrusage, elsewhere the way to it, counts the parent's on Linux.
    status = Path(f"/proc/{process or 'self'}/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak_memory() -> None:
    """Let `peak_memory` count from now on, where the system can; elsewhere it goes on counting from the beginning."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _call(function: str, *arguments: str) -> None:
    module, _, name = function.partition(":")
    result = getattr(__import__(module, fromlist=[name]), name)(*arguments)
    print(json.dumps({**result, "peak_gib": round(peak_memory() / 2**30, 2)}))
