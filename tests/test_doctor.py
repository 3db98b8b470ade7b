"""The doctor: what it shows, what it warns of, and that it measures something."""

import json

import pytest
from tiny import run

import nanospike
from nanospike import doctor
from nanospike.config.errors import InputError


def test_it_shows_versions_blas_cores_gpu_what_is_bundled_and_speed(capsys):
    assert run(doctor.main, "--seconds", 0.1) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = {line[:14].strip(): line[14:] for line in printed.out.splitlines() if not line.startswith("warning")}
    assert lines.keys() >= {"versions", "BLAS", "processor", "GPU", "bundled", "speed"}
    assert f"nanospike {nanospike.__version__}, python 3" in lines["versions"] and "numpy 2" in lines["versions"]
    assert "GFLOP/s" in lines["speed"] and "texts a second" in lines["speed"] and "teacher 3" in lines["bundled"]


def test_as_json_and_without_a_reading(capsys):
    assert run(doctor.main, "--seconds", 0, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert "speed" not in found and found["versions"]["scipy"] and found["processor"]["usable"] >= 1
    assert found["gpu"]["remedy"] or found["gpu"]["device"]["usable"]


def test_speed_is_work_over_time():
    calls, options = [], doctor.Doctor(seconds=0.2, workers=1)
    rate = doctor.repeated(lambda: calls.append(1) or doctor.time.sleep(0.01), 0.2)
    assert 1 < rate <= 100 and len(calls) >= 2
    found = doctor.speed(options)
    assert 0 < found["product_gflops"] < 1e4 and 0 < found["texts_per_second"] < 1e6


def test_a_variable_that_slows_is_a_warning(capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    assert run(doctor.main, "--seconds", 0) == 0
    assert "warning: OPENBLAS_CORETYPE=Nehalem" in capsys.readouterr().out


def test_what_is_missing_is_named_with_its_remedy(monkeypatch):
    def nothing(*parts):
        raise InputError("not installed")

    monkeypatch.setattr(doctor, "bundled", nothing)
    monkeypatch.setattr(doctor.machine, "processor", lambda: {"cores": 8, "usable": 8, "quota": 1.5})
    found = doctor.examination(doctor.Doctor(seconds=0.01))
    assert found["speed"]["texts_per_second"] is None and found["bundled"] == dict.fromkeys(found["bundled"])
    said = " ".join(found["warnings"])
    assert "1.5 cores' worth of time, 8 are seen: give --workers 1" in said
    assert "the bundled teacher, student, text" in said


@pytest.mark.parametrize(
    "argv, said", [(("--seconds", "-1"), "--seconds: found -1"), (("--device", "tpu"), "--device: found 'tpu'")]
)
def test_bad_options_are_one_line(argv, said, capsys):
    assert run(doctor.main, *argv) == 2
    assert said in capsys.readouterr().err
