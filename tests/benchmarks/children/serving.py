"""The loop of a process that runs steps on request: a line of JSON in, a line of JSON out."""

import json
import os
import sys
import time


def serve(prepare):
    """Answers requests until the input ends.

    The answer to `{"prepare": {…}}` is `{"steps": names, **facts}`; the answer to
    `{"step": name, "repeats": n}` is the seconds of one of n runs in a row. After a failure it is
    `{"error": …}`.

    Args:
        prepare: Takes what is under "prepare" and returns the steps and a dictionary of facts. The
            steps are functions by name, each of which waits for its result.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps what libraries print apart from the answers
    steps = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                steps, facts = prepare(**request["prepare"])
                answer = {"steps": list(steps), **facts}
            else:
                answer = {"seconds": _time_of_one(steps[request["step"]], request["repeats"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _time_of_one(step, repeats):
    begun = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - begun) / repeats
