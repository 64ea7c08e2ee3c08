"""Runs one module of CPython's regression suite without any of its resources (network, cpu, ...): `python_module.py MODULE`.

`python_network.txt` beside it has a line for each module that is run without some of its tests, because they make other sockets than local
ones: the module, and names of tests or classes.

Ends with 0 if it passed, with 77 if all of it was skipped, else with 1. The last line names the tests that failed: it reads them in what
was printed, for which standard output must be a file."""
import os
import re
import sys

from test.libregrtest.main import Regrtest

module = sys.argv[1]
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "python_network.txt")) as lines:
    left_out = {name: tests for name, *tests in map(str.split, lines)}
sys.argv = ["regrtest"]
regrtest = Regrtest()
try:
    regrtest.main(tests=[module], verbose=True, ignore_tests=left_out.get(module))
except SystemExit:
    pass
sys.stdout.flush()
sys.stderr.flush()
printed = os.pread(1, os.fstat(1).st_size, 0).decode(errors="replace")
# Outside of test methods, only a trace is printed.
failed = re.findall(r"^(?:FAIL|ERROR): (\S+)", printed, re.MULTILINE) or re.findall(r", in (test_\w+)$", printed, re.MULTILINE)
if regrtest.good or regrtest.environment_changed:
    print("passed")
    sys.exit(0)
if regrtest.skipped or regrtest.run_no_tests:
    print("skipped")
    sys.exit(77)
print("failed:", *dict.fromkeys(failed))
sys.exit(1)
