"""The toy cascade through the real command line, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stepvideo import cli
from stepvideo.artifact import Store, is_running

ROOT = Path(__file__).resolve().parents[2]


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Mini:
    """One store; `run` gives the stages as `stepvideo run --json` does."""

    def __init__(self, folder: Path, capsys: Any = None) -> None:
        self.folder, self._capsys = folder, capsys
        self.store = Store(folder / "store")

    def args(self, *overrides: str) -> list[str]:
        base = ["graph=toy_stages", "profile=bare", "tracking=none", "cluster=debug", "runtime.threads=1"]
        base += [f"store={self.store.root}", f"work={self.folder / 'work'}"]
        given = {o.partition("=")[0] for o in overrides}
        return [b for b in base if b.partition("=")[0] not in given] + list(overrides)

    def cli(self, *args: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of the command line in this process."""
        self._capsys.readouterr()
        code = cli.main(list(args))
        return (code, *self._capsys.readouterr())

    def run(self, *overrides: str) -> dict[str, dict[str, Any]]:
        code, out, err = self.cli("run", "--json", *self.args(*overrides))
        assert code == 0, err
        return {row["stage"]: row for row in json.loads(out)}

    def ran(self, *overrides: str) -> list[str]:
        """The stages that a run did not find in the store."""
        return [name for name, row in self.run(*overrides).items() if not row["cached"]]

    def fails(self, *overrides: str) -> str:
        """What a run says that must not succeed."""
        code, _, err = self.cli("run", *self.args(*overrides))
        assert code in (1, 2), f"exit code {code}"
        assert "Traceback" not in err.rsplit("error: ", 1)[-1]
        return err.rsplit("error: ", 1)[-1]

    def process(self, *overrides: str, command: str = "run") -> subprocess.Popen[str]:
        """The command line in a process of its own."""
        argv = [sys.executable, "-m", "stepvideo.cli", command]
        argv += ["--json", *self.args(*overrides)] if command == "run" else list(overrides)
        pipe = subprocess.PIPE
        # a test run in the background ignores SIGINT, and so would its children
        return subprocess.Popen(
            argv, cwd=ROOT, env=os.environ, text=True, stdout=pipe, stderr=pipe, preexec_fn=heed_interrupts
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> dict[str, dict[str, Any]]:
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, err
        return {row["stage"]: row for row in json.loads(out)}

    def wait_for_step(self, stage: str, step: int, timeout: float = 60) -> Path:
        """The directory of a stage once its events show that step; the stage is still at it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for events in self.store.root.glob(f"{stage}/*/events.jsonl"):
                at_it = is_running(events.parent)
                if at_it and f'"type": "metrics", "step": {step},' in events.read_text():
                    return events.parent
            time.sleep(0.02)
        raise TimeoutError(f"{stage} did not reach step {step}")
