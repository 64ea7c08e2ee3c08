"""Runs CPython's own tests named on the command line, without those that start other processes."""
import sys
import unittest

import test.support
from test.support import script_helper

test.support.has_fork_support = False
test.support.has_subprocess_support = False


def no_process(*args, **kwargs):
    raise unittest.SkipTest("starts a process")


for name in ("assert_python_ok", "assert_python_failure", "spawn_python", "run_python_until_end", "run_test_script"):
    if hasattr(script_helper, name):
        setattr(script_helper, name, no_process)
import os
import subprocess

subprocess.Popen.__init__ = no_process
for name in ("fork", "forkpty", "posix_spawn"):
    if hasattr(os, name):
        setattr(os, name, no_process)


class Result(unittest.TextTestResult):
    def addSuccess(self, test):
        super().addSuccess(test)
        passed.append(test.id())


passed = []
suite = unittest.TestSuite()
for name in sys.argv[1:]:
    suite.addTests(unittest.defaultTestLoader.loadTestsFromName(name))
result = unittest.TextTestRunner(resultclass=Result, verbosity=1).run(suite)
for kind, tests in (("failed", result.failures), ("error", result.errors)):
    for case, _ in tests:
        print(kind, case.id())
print("run", result.testsRun, "passed", len(passed), "skipped", len(result.skipped))
sys.exit(not result.wasSuccessful())
