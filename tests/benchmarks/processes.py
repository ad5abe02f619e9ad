"""Contestants in processes of their own: other libraries, BLAS threads, or Python interpreters.

A process waits for a line, runs one step, answers with its seconds, and waits again, so it takes
its turn among the contestants of this process. One that does not answer in time is killed.
"""

import json
import math
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fgsgd_jax.experiments.bench import timing

PATIENCE = 60.0  # seconds to wait for one answer
# BLAS threads spin for a while after their work, which would slow down the next contestant.
REST = 0.03
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Process:
    """A running program of `children` that has prepared its steps.

    Args:
        program: The name of its file, without `.py`.
        python: The interpreter that runs it; None is this one.
        threads: How many threads its BLAS may use.
        work: What to prepare: further arguments of its `prepare`.

    Attributes:
        answer: What its `prepare` answered, with the names of the steps under "steps". If it
            failed, "steps" is empty and "error" says why; an error of a later step is added.
    """

    def __init__(self, program: str, *, python: Path | None = None, threads: int, **work: Any):
        path = Path(__file__).parent / "children" / f"{program}.py"
        environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
        self._process = subprocess.Popen(
            [str(python or sys.executable), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.answer: dict[str, Any] = {
            "steps": [],
            **self._ask({"prepare": {**work, "threads": threads}}),
        }

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
                self.close()
                return {"error": f"hung: no answer in {PATIENCE:.0f} s"}
            return json.loads(self._process.stdout.readline() or '{"error": "it ended"}')
        except (BrokenPipeError, ValueError):
            return {"error": "it ended"}

    def clock(self, step: str) -> timing.Clock:
        """The clock of one of its steps; it returns NaN once the process has hung or failed."""

        def time_of_one(repeats: int) -> float:
            answer = self._ask({"step": step, "repeats": repeats})
            time.sleep(REST)
            if "error" in answer:
                self.answer.setdefault("error", answer["error"])
            return answer.get("seconds", math.nan)

        return time_of_one

    def close(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
