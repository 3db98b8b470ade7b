"""Who writes into a directory: a lock that the system takes back when its process ends, however it ends."""

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from ..config.errors import InputError

NAME = ".lock"


class Lock:
    """Held from its making to release(): InputError, which names the owner, if another process holds it.

    Where the system or the file system knows no flock, there is none.
    """

    def __init__(self, directory):
        self.path = Path(directory) / NAME
        self.handle = self._taken()

    def _taken(self):
        try:
            import fcntl
        except ImportError:  # Windows
            return None
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(handle)
                os.close(handle)
                raise InputError(f"{self.path.parent}: {owner} writes there; wait for it, or name another") from None
            except OSError:
                os.close(handle)
                return None
            if self._is_there(handle):
                os.truncate(handle, 0)
                told = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T")}
                os.pwrite(handle, json.dumps(told).encode(), 0)
                return handle
            os.close(handle)  # its owner has removed it meanwhile

    def _is_there(self, handle):
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(handle), os.stat(self.path))
        return False

    def release(self):
        if self.handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(self.handle)
            self.handle = None


def _owner(handle):
    """Who holds the lock of an open file, in words."""
    try:
        told = json.loads(os.pread(handle, 1000, 0))
        return f"process {told['process']} on {told['host']}, since {told['since']},"
    except (ValueError, TypeError, KeyError):  # it is just being written
        return "another process"
