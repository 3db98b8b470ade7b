"""The service of docs/embedding.md, as it stands there."""

import json
import math
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
from nanospike.config.models import StudentConfig, read_config
from nanospike.files.bundled import bundled
from nanospike.model.equilibrium import parameter_shapes
from nanospike.model.quantise import low_bit_names
from nanospike.model.student import ONLY_FOR_TRAINING

ROOT = Path(nanospike.__file__).resolve().parent.parent
SIZES = {"4 x 128": (128, 4, 512, 8000, 128), "3 x 384": (384, 3, 1536, 30522, 512)}
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
        for _ in range(1200):
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


def test_the_bytes_of_the_page_are_those_of_the_shapes():
    """Every figure of the columns "in memory", from the shapes of such students and how many bits a weight has."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "embedding.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*?(float32|float16|ternary|binary).*?" + r"\| ([\d,]+) " * 4 + r"\|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["float32", "float16", "ternary", "binary"]
    for name, *figures in rows:
        for (width, layers, inner, pieces, positions), figure in zip(SIZES.values(), figures[1::2], strict=True):
            config = read_config(
                StudentConfig,
                {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner, "vocab_size": pieces}
                | {"max_position_embeddings": positions, "type_vocab_size": 2, "num_labels": 2}
                | {"num_attention_heads": 4, "weights": name if "16" not in name and "32" not in name else "float"}
                | {"embedding_weights": name if "16" not in name and "32" not in name else "float"},
                "here",
            )
            low, total = low_bit_names(config), 0
            for tensor, shape in parameter_shapes(config).items():
                if tensor in low and tensor.startswith("embeddings."):  # as in the file
                    total += -(-math.prod(shape) // {"ternary": 5, "binary": 8}[name]) + 4 * shape[0]
                elif tensor in low:
                    total += shape[0] * (-(-shape[1] * {"ternary": 2, "binary": 1}[name] // 8) + 4)
                elif not low or tensor not in ONLY_FOR_TRAINING:
                    total += 4 * math.prod(shape)
            assert int(figure.replace(",", "")) == total, (name, width)
