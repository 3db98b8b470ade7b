"""The service of docs/embedding.md, as it stands there."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import nanospike
from nanospike.files.bundled import bundled

ROOT = Path(nanospike.__file__).resolve().parent.parent
TEXTS = ["a warm , funny and moving film .", ["a dull , lifeless mess .", "nobody laughed"]]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where the service listens, in a process of its own."""
    page = Path(__file__).resolve().parents[1] / "docs" / "embedding.md"
    code = next(c for c in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S) if "Service" in c)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 22
    path = tmp_path_factory.mktemp("service") / "service.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n" + code, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, path, bundled("student"), str(port)]
    running = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


def posted(address, body):
    """(status, answer) of a request; no proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(address, data=body), timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_service_answers_what_the_classifier_does(address):
    expected = nanospike.Classifier(bundled("student"))([TEXTS[0], tuple(TEXTS[1])])
    status, answers = posted(address, json.dumps(TEXTS).encode())
    assert status == 200 and [a["label"] for a in answers] == [a["label"] for a in expected]
    assert [a["score"] for a in answers] == pytest.approx([a["score"] for a in expected], rel=1e-5)
    assert posted(address, json.dumps(TEXTS[0]).encode())[1]["label"] == "positive"


@pytest.mark.parametrize("body, said", [(b"[3]", "text 0: found 3"), (b"{", "Expecting"), (b"7", "expected a list")])
def test_the_service_says_what_is_wrong_and_goes_on(body, said, address):
    status, answer = posted(address, body)
    assert status == 400 and said in answer["error"]
    assert posted(address, b'"a joy"')[0] == 200
