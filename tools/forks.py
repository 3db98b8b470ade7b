"""What becomes of a mutant: tests run in a fork of a process that has collected them. Used by mutants.py."""

import gc
import io
import os
import resource
import signal
import sys
import time
import types
from contextlib import redirect_stderr, redirect_stdout

from mutations import ROOT, Changed, changed_codes

QUIETLY = ("-q", "--no-header", "-p", "no:cacheprovider", f"--rootdir={ROOT}")
INTERRUPTED = 2  # pytest's exit status where KeyboardInterrupt was raised, of the mutant's doing
FAILED = 1
SLOWER = 5.0  # times the CPU seconds that a mutant's tests took before, and
PATIENCE = 10.0  # seconds more, before it is stopped


class Failure:
    """A pytest plugin that writes the name of the first test that failed, or file that could not be imported."""

    def __init__(self):
        self.handle, self.seen = None, False

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.seen and self.handle is not None:
            self.tell(report.nodeid)

    pytest_collectreport = pytest_runtest_logreport

    def tell(self, name):
        os.write(self.handle, name.encode())
        self.seen = True


def in_fork(job, handle_of, seconds):
    """(what became of it, the test that noticed) of job() -> exit status, in a fork whose CPU time is limited.

    handle_of: the Failure that tells which test has failed. What became of it: killed by a test, or by its time,
    survived, or error: where no test has failed (but pytest could not run, say) nothing is killed.
    """
    read, write = os.pipe()
    os.set_blocking(read, False)
    child = os.fork()
    if child == 0:
        status = 3
        try:
            handle_of.handle = write
            quiet_and_limited(seconds)
            status = job()
        finally:
            os._exit(status)
    os.close(write)
    deadline = time.monotonic() + 20 * (SLOWER * seconds + PATIENCE)  # of a wait that takes no CPU
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            return "time", ""
        time.sleep(0.02)
    try:
        by = os.read(read, 10000).decode()
    except BlockingIOError:
        by = ""
    os.close(read)
    if os.WIFSIGNALED(status):
        return ("time" if os.WTERMSIG(status) == signal.SIGXCPU else "killed"), by
    if os.WEXITSTATUS(status) == 0:
        return "survived", ""
    return ("killed" if by or os.WEXITSTATUS(status) == INTERRUPTED else "error"), by


def quiet_and_limited(seconds):
    """In a fork: nothing is read or printed, and it ends when it has taken far more CPU seconds than `seconds`."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nothing, handle)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + SLOWER * seconds + PATIENCE)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))


class Tests:
    """The tests that pytest has collected in this process, by their names; failure: the plugin of its session."""

    def __init__(self, session, failure):
        self.items, self.failure = {item.nodeid: item for item in session.items}, failure

    def outcome(self, mutant, names, seconds):
        """What became of a mutant (None: no change) that is the code of a function, by these tests; see in_fork."""
        return in_fork(lambda: self.run(mutant, names), self.failure, seconds)

    def run(self, mutant, names):
        """The exit status of the tests, one after the other until one fails, with the mutant in place."""
        if mutant:
            put_in_place(mutant)
        items = [self.items[name] for name in names]
        try:
            for item, after in zip(items, [*items[1:], None], strict=True):
                try:
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                except Exception:  # of a plugin that cannot report the failure in a fork, as hypothesis'
                    self.failure.tell(item.nodeid)
                if self.failure.seen:
                    return FAILED
        except KeyboardInterrupt:
            return INTERRUPTED
        return 0


def put_in_place(mutant):
    """Give the function that a mutant changes its other code, wherever it is held."""
    before, after = changed_codes(mutant)
    held = [f for f in gc.get_objects() if isinstance(f, types.FunctionType) and is_code_of(f, mutant, before)]
    if not held:
        raise LookupError(mutant)
    for function in held:
        function.__code__ = after


def is_code_of(function, mutant, code):
    name = mutant.module.removesuffix(".py").replace("/", ".")
    return function.__module__ == name and function.__code__.co_qualname == code.co_qualname


def outcome_anew(mutant, names, seconds):
    """What became of a mutant of whatever is done when its module is imported: it and its tests are loaded anew."""
    failure = Failure()
    return in_fork(lambda: run_anew(mutant, names, failure), failure, seconds)


def run_anew(mutant, names, failure):
    """The exit status of pytest with the mutant in place of its module."""
    import pytest

    for name, module in list(sys.modules.items()):  # ours, and tests that have taken names from ours
        ours = name.partition(".")[0] == "nanospike"  # it may be an installed one
        mains = (sys.modules["__main__"], sys.modules[__name__])
        if module not in mains and (ours or (getattr(module, "__file__", None) or "").startswith(f"{ROOT}/")):
            del sys.modules[name]
    if mutant:
        sys.meta_path.insert(0, Changed(mutant))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return int(pytest.main([*QUIETLY, "-x", *(f"{ROOT}/{name}" for name in names)], plugins=[failure]))
