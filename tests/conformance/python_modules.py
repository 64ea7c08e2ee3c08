"""Runs modules of CPython's regression suite as runner.c, which starts it, runs programs: `python_modules.py LIST SECONDS PARALLEL`.

The first word of each line of LIST is a module. Each is run in a child of its own, without any of the suite's resources (network, cpu, ...).
What all of them need is imported once, before, and kept from the garbage collector: that takes longer than most modules do.
`python_network.txt` beside this file has a line for each module that is run without some of its tests, because they make other sockets than
local ones: the module, and names of tests or classes.

A child ends with 0 if its module passed, with 77 if all of it was skipped, else with 1; what it prints last is how many seconds of processor time it
took, or the tests that failed: it reads them in what was printed before."""
import gc
import os
import platform
import re
import signal
import sys
import time

from test.libregrtest.main import Regrtest

HERE = os.path.dirname(os.path.abspath(__file__))
PAUSE_S = 0.05


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode(errors="replace"))


def left_out(module):
    with open(os.path.join(HERE, "python_network.txt")) as lines:
        return {name: tests for name, *tests in map(str.split, lines)}.get(module)


def run(module):
    """Runs one module; returns what it ends with."""
    sys.argv = ["regrtest"]
    regrtest = Regrtest()
    try:
        regrtest.main(tests=[module], verbose=True, ignore_tests=left_out(module))
    except SystemExit:
        pass
    sys.stdout.flush()
    sys.stderr.flush()
    printed = os.pread(1, os.fstat(1).st_size, 0).decode(errors="replace")
    # Outside of test methods, only a trace is printed.
    failed = re.findall(r"^(?:FAIL|ERROR): (\S+)", printed, re.MULTILINE) or re.findall(r", in (test_\w+)$", printed, re.MULTILINE)
    if regrtest.good or regrtest.environment_changed:
        say("passed in", round(sum(os.times()[:4]), 2))
        return 0
    if regrtest.skipped or regrtest.run_no_tests:
        say("skipped")
        return 77
    say("failed:", *dict.fromkeys(failed))
    return 1


def prepare(slot, output):
    """Gives a child a session, a directory and streams of its own."""
    os.setsid()
    where = f"dir.{slot}"
    os.makedirs(where, exist_ok=True)
    os.chdir(where)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for stream in 1, 2:
        os.dup2(output, stream)
    os.close(output)


class Job:
    """A module that runs."""

    def __init__(self, slot, module, seconds):
        self.module, self.output, self.late = module, f"out.{slot}", False
        self.until = time.monotonic() + seconds
        say(module, "begin", 0)
        output = os.open(self.output, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self.pid = os.fork()
        if self.pid == 0:
            prepare(slot, output)
            sys.exit(run(module))
        os.close(output)

    def kill(self):
        """Ends it and what it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def has_ended(self):
        """Ends it if it is late; says how it ended if it has."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            if time.monotonic() >= self.until:
                self.late = True
                self.kill()
            return False
        self.kill()
        if self.late:
            how = "timeout", 0
        elif os.WIFEXITED(status):
            how = "exit", os.WEXITSTATUS(status)
        else:
            how = "signal", os.WTERMSIG(status)
        with open(self.output, errors="replace") as output:
            last = [line for line in output.read().splitlines() if line][-1:]
        say(self.module, *how, *(re.sub(r"[\x00-\x1f]", " ", line)[:400] for line in last))
        return True


def main(names, seconds, parallel):
    # Regrtest shows it each time, and it is remembered.
    platform.platform(aliased=True)
    gc.freeze()
    jobs = {}
    while names or jobs:
        for slot in range(parallel):
            if slot in jobs and jobs[slot].has_ended():
                del jobs[slot]
            if slot not in jobs and names:
                jobs[slot] = Job(slot, names.pop(0), seconds)
        time.sleep(PAUSE_S)
    say("runner done")


if __name__ == "__main__":
    with open(sys.argv[1]) as lines:
        modules = [line.split()[0] for line in lines if line.strip()]
    main(modules, int(sys.argv[2]), int(sys.argv[3]))
