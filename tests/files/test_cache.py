"""Directories that are whole or absent, and safetensors files read in place."""

import mmap
import os

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import contents

from nanospike.files import cache
from nanospike.files.model_files import write_tensors


def fill(directory):
    (directory / "a").write_bytes(b"text")
    (directory / "b").write_bytes(b"")


def test_kept_is_made_once(tmp_path):
    calls = []
    for _ in range(2):
        place = cache.kept(tmp_path / "new" / "place", lambda d: calls.append(d) or fill(d))
    assert len(calls) == 1 and calls[0] != place == tmp_path / "new" / "place"
    assert contents(place).keys() == {"a", "b", "complete.json"} and cache.damage(place) is None
    assert cache.size(place) == sum(p.stat().st_size for p in place.iterdir()) > 4


def test_what_another_process_finished_meanwhile_is_used(tmp_path):
    place, mark = tmp_path / "place", []

    def slow(directory):
        cache.kept(tmp_path / "quick", fill)
        (tmp_path / "quick").rename(place)
        mark.append((place / "a").stat().st_ino)
        fill(directory)

    assert cache.kept(place, slow) == place
    assert (place / "a").stat().st_ino == mark[0] and [p.name for p in tmp_path.iterdir()] == ["place"]


def test_a_maker_that_fails_leaves_what_was_there(tmp_path):
    place = tmp_path / "place"
    fill(cache.kept(place, fill))
    (place / "a").write_bytes(b"spoilt")
    before = contents(tmp_path)

    def fail(directory):
        fill(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.kept(place, fail)
    assert contents(tmp_path) == before


def test_a_disk_that_is_full(tmp_path):
    def full(directory):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cache.kept(tmp_path / "place", full)
    assert contents(tmp_path) == {}


def test_rubbish_of_an_earlier_process_of_this_number_does_not_get_in(tmp_path):
    left = tmp_path / f".place.{os.getpid()}.tmp"
    left.mkdir()
    (left / "c").write_bytes(b"half")
    assert "c" not in contents(cache.kept(tmp_path / "place", fill))


def test_tensors_are_read_in_place(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "half": rng.normal(size=(3, 5)).astype(np.float16),
        "one": np.array([7], np.int64),
        "single": rng.normal(size=(2, 3, 4)).astype(np.float32),
        "double": rng.normal(size=9),
        "none": np.zeros((0, 4), np.float32),
    }
    write_tensors(tmp_path / "t.safetensors", tensors)
    found, mapping = cache.map_tensors(tmp_path / "t.safetensors")
    assert found.keys() == load_file(tmp_path / "t.safetensors").keys()
    for name, array in found.items():
        assert array.dtype == tensors[name].dtype and np.array_equal(array, tensors[name]), name
        assert not array.flags.writeable and not array.flags.owndata, name
        assert array.size == 0 or array.base is not None and isinstance(_origin(array), mmap.mmap), name
    cache.release(mapping)
    assert np.array_equal(found["single"], tensors["single"])  # read again after its pages were given back


def _origin(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array
