"""How long a file takes through the continuous mode, from the moment it is whole to the audience ledger."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.history import write_history
from bench.measure import in_own_process
from bench.refresh import BATCH, land_batch
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home


def run(folder: Path, events: int, files: int, settle_seconds: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Let `onefold live` run on a history and land files one after the other; times are seconds.

    Args:
        folder: where to work; emptied before and after.
        events: of history.
        files: of a thousand events each; one more warms up and does not count.
        settle_seconds: the setting `landing_settle_seconds`, which is part of the time.
    """
    shutil.rmtree(folder, ignore_errors=True)
    home = Home(folder)
    tell(f"{events:,} events: writing")
    write_history(home.landing, events, datetime.now())
    tell(f"{events:,} events: loading and building all")
    in_own_process("bench.refresh:full", folder)
    (folder / "onefold.yaml").write_text(f"landing_settle_seconds: {settle_seconds}\n")
    command = [str(Path(sys.executable).with_name("onefold")), "--home", str(folder), "live", "--interval", "0.2", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=subprocess.PIPE, text=True) as live:
        try:
            taken, parts = [], []
            for number in range(files + 1):
                landed = land_batch(home, events, number).stat().st_mtime
                done = json.loads(live.stdout.readline() or "{}")
                if not done or done["problems"]:
                    raise OnefoldError(f"the continuous mode stopped: {done.get('problems')}")
                if number:
                    taken.append(done["ledger_at"] - landed)
                    parts.append(done["seconds"] | {"noticed": taken[-1] - sum(done["seconds"].values())})
                tell(f"file {number} of {files}")
                time.sleep(1)  # so that serving and reporting are over, as between files that come singly
        finally:
            live.send_signal(signal.SIGINT)
    shutil.rmtree(folder)
    return {
        "events": events,
        "files": files,
        "batch": BATCH,
        "settle_seconds": settle_seconds,
        "median": round(statistics.median(taken), 2),
        "percentile_95": round(sorted(taken)[-1 - len(taken) // 20], 2),
        "parts": {part: round(statistics.median(p[part] for p in parts), 2) for part in parts[0]},
    }
