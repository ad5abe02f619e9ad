"""The loop of a process that runs steps when told to: a line of JSON in, a line of JSON out."""

import json
import os
import sys
import time


def serve(prepare):
    """Answers until the input ends.

    `{"prepare": {…}}` is answered with what `prepare(**…)` tells beside the names of its steps;
    `{"step": name, "repeats": n}` with the seconds of one of n runs in a row. A failure is
    answered with `{"error": …}`.

    Args:
        prepare: Returns the steps, functions by name, each of which waits for its result, and a
            dictionary of what else is to be told.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    steps = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "prepare" in asked:
                steps, told = prepare(**asked["prepare"])
                answer = {"steps": list(steps), **told}
            else:
                answer = {"seconds": _time_of_one(steps[asked["step"]], asked["repeats"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _time_of_one(step, repeats):
    begun = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - begun) / repeats
