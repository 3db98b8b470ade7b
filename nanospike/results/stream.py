"""Lines that come one after another, answered while they come: what is read ahead is bounded."""

import codecs
import os
import queue
import threading

from ..config.errors import InputError

CHUNK = 2**16  # bytes that are read at once
LONGEST = 2**20  # bytes of a line
PAUSE = 0.01  # seconds: input that is silent for so long makes those answer who wait


def lines_of(stream, name="standard input", encoding="utf-8"):
    """The lines of a text stream, without their ends, each as soon as it is there, whatever the locale says.

    InputError for a line that is not of the encoding or longer than LONGEST bytes, after all lines before it.
    """
    if stream is None:
        raise InputError(f"{name}: closed")
    try:
        descriptor = stream.fileno()
    except OSError:  # io.StringIO and the like
        yield from (line.rstrip("\n") for line in stream)
        return
    held, done = b"", 0  # done: bytes before what is held
    while chunk := os.read(descriptor, CHUNK):  # the stream's own buffer would keep its lock while it waits
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            yield _decoded(line, done, name, encoding)
            done += len(line) + 1
        if len(held) > LONGEST:
            raise InputError(f"{name}: a line longer than {LONGEST} bytes, from byte {done} on")
    if held:
        yield _decoded(held, done, name, encoding)


def _decoded(line, start, name, encoding):
    line = line if start or encoding != "utf-8" else line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode(encoding).removesuffix("\r")
    except UnicodeDecodeError as error:
        told = encoding.upper() if encoding == "utf-8" else encoding
        raise InputError(f"{name}: not {told} text: {error.reason} at byte {start + error.start}") from None


def as_they_come(items, most):
    """Lists of items in their order, each of `most`, or of fewer where none comes for PAUSE seconds.

    A thread reads ahead, `most` items at the most. What `items` raises comes after the items before it.
    """
    ready = queue.Queue(most)

    def read():
        try:
            for item in items:
                ready.put((item, None))
            ready.put((None, StopIteration))
        except Exception as error:  # it is raised where the items are used
            ready.put((None, error))

    threading.Thread(target=read, daemon=True).start()
    end = None
    while end is None:
        batch = []
        while end is None and len(batch) < most:
            try:
                item, end = ready.get(timeout=PAUSE if batch else None)
            except queue.Empty:
                break
            if end is None:
                batch.append(item)
        if batch:
            yield batch
    if end is not StopIteration:
        raise end
