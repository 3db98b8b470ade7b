"""Directories that are whole or absent, and safetensors files read in place."""

import mmap
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import contents

from nanospike.files import cache
from nanospike.files.model_files import replacing, write_json, write_tensors


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


def test_two_processes_of_one_number_do_not_meet(tmp_path):
    """Containers have a process 1 each; here both are this one."""
    inside = []

    def slow(directory):
        fill(directory)
        assert cache.kept(tmp_path / "place", fill) != directory
        inside.extend(sorted(p.name for p in directory.iterdir()))

    cache.kept(tmp_path / "place", slow)
    assert inside == ["a", "b"] and sorted(contents(tmp_path / "place")) == ["a", "b", "complete.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


def begun(path, seconds):
    """What a process had begun to keep under this name, so many seconds ago."""
    path = path.with_name(f".{path.name}.0123456789abcdef.tmp")
    path.mkdir()
    fill(path)
    for p in (*path.iterdir(), path):
        os.utime(p, (time.time() - seconds,) * 2)
    return path


def test_what_a_killed_process_had_begun_is_removed_when_it_is_stale(tmp_path):
    old, alive, other = (begun(tmp_path / n, s) for n, s in (("kind-1", 4000), ("kind-2", 3000), ("foreign", 9e9)))
    (tmp_path / ".kind-of.tmp").write_text("not ours")
    for p in (old, alive):
        os.utime(p, (0, 0))  # a file in it may be written without that the directory changes
    cache.kept(tmp_path / "kind-3", fill)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {alive.name, other.name, ".kind-of.tmp", "kind-3"}
    os.utime(alive / "a", (0, 0))
    os.utime(alive / "b", (0, 0))
    cache.kept(tmp_path / "kind-3", fill)  # which is there
    assert not alive.exists()


@pytest.mark.parametrize("lost", ["stat", "read"])
def test_what_another_process_removes_while_it_is_looked_at(lost, tmp_path, monkeypatch):
    place = cache.kept(tmp_path / "place", fill)

    def vanishing(path):
        (place / "a").unlink(missing_ok=True)
        return [4, ""] if lost == "stat" else described(path)

    described = cache._described
    monkeypatch.setattr(cache, "_described", vanishing)
    assert "a " in cache.damage(place)
    shutil.rmtree(place)
    assert cache.damage(place) is not None and cache.size(place) == 0 and cache.last_used(place) == 0


def test_sizes_of_files_that_vanish(tmp_path, monkeypatch):
    place, whole = cache.kept(tmp_path / "place", fill), Path.iterdir

    def vanishing(path):
        for found in whole(path):
            if found.name == "a":
                found.unlink()
            yield found

    monkeypatch.setattr(Path, "iterdir", vanishing)
    assert cache.size(place) == (place / "complete.json").stat().st_size


def test_a_name_is_given_to_what_is_on_the_disk(tmp_path, monkeypatch):
    """Every file and directory is synchronised before the rename, and the names after it."""
    events, sync, rename = [], os.fsync, os.replace
    by_number = lambda handle: os.readlink(f"/proc/self/fd/{handle}")  # noqa: E731
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc")
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(by_number(handle)) or sync(handle))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append((str(a), str(b))) or rename(a, b))
    with replacing(tmp_path / "place") as temporary:
        (temporary / "below").mkdir(parents=True)
        fill(temporary / "below")
    inside = {str(temporary / n) for n in ("", "below", "below/a", "below/b")}
    assert set(events[:4]) == inside and events[4:] == [(str(temporary), str(tmp_path / "place")), str(tmp_path)]
    events.clear()
    write_json(tmp_path / "x.json", {})
    assert events[1] == (events[0], str(tmp_path / "x.json")) and events[2:] == [str(tmp_path)]


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
