"""Lines as they come: in order, at once when the input pauses, a bounded number ahead, errors where they belong."""

import io
import itertools
import os
import threading
import time

import pytest

from nanospike.config.errors import InputError
from nanospike.results import stream
from nanospike.results.stream import as_they_come, lines_of


@pytest.fixture
def pipe():
    """(file to read, descriptor to write)."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="ascii") as file:
        yield file, writing


def test_lines_of_a_pipe_are_whole_however_they_are_cut(pipe):
    file, writing = pipe
    text = "ein Café\r\n\n\tzwei\x0bdrei\u2028vier\nlast"
    whole = text.encode()

    def write():
        for byte in whole:
            os.write(writing, bytes([byte]))
        os.close(writing)

    threading.Thread(target=write).start()
    assert list(lines_of(file)) == ["ein Café", "", "\tzwei\x0bdrei\u2028vier", "last"]


def test_lines_of_a_stream_without_a_descriptor():
    assert list(lines_of(io.StringIO("a\n\nb"))) == ["a", "", "b"]


@pytest.mark.parametrize(
    "data, before, said",
    [
        (b"one\ntw\xe9\nthree\n", ["one"], "standard input: not UTF-8 text: .* at byte 6"),
        (b"one\n" + b"x" * 200, ["one"], "a line longer than 100 bytes, from byte 4 on"),
    ],
)
def test_a_bad_line_comes_after_those_before_it(data, before, said, pipe, monkeypatch):
    monkeypatch.setattr(stream, "LONGEST", 100)
    file, writing = pipe
    os.write(writing, data)
    os.close(writing)
    found = []
    with pytest.raises(InputError, match=said):
        for batch in as_they_come(lines_of(file), 5):
            found += batch
    assert found == before


def test_batches_are_full_while_the_input_flows_and_end_where_it_pauses():
    batches = list(as_they_come(iter(range(25)), 10))
    assert list(itertools.chain(*batches)) == list(range(25)) and max(map(len, batches)) <= 10
    go = threading.Event()

    def slow():
        yield from "ab"
        go.wait(20)
        yield "c"

    came = as_they_come(slow(), 10)
    first = next(came)
    while first != ["a", "b"]:  # a machine that is busy may have paused between the two
        first += next(came)
    go.set()
    assert list(came) == [["c"]]


def test_no_more_is_read_ahead_than_a_batch():
    read = []

    def endless():
        for i in itertools.count():
            read.append(i)
            yield i

    came = as_they_come(endless(), 8)
    assert next(came)[0] == 0
    time.sleep(0.05)
    assert len(read) <= 8 + 8 + 2  # given out, waiting, and the one that waits for a place
