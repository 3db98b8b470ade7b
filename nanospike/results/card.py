"""The model card of a student: README.md with the YAML head that the Hugging Face Hub reads."""

import json
import re
import shlex
from pathlib import Path

from ..config.errors import InputError
from ..config.operators import OPERATORS
from ..files.bundled import bundled
from ..files.model_files import replacing
from .audit import MEANS, by_kind

CARD = "README.md"
BUNDLED = {"license": "apache-2.0", "base_model": "nanospike-teacher"}
METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}  # the Hub's names
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?\Z")


def write_card(directory, student, teacher, results, costs=None):
    """Write README.md. results: what eval_results.json holds; costs: what energy.json does, None without it."""
    text = "\n".join([*_head(directory, student, teacher, results), *_body(directory, student, results, costs)])
    with replacing(Path(directory) / CARD) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def origin(teacher):
    """{license, base_model} of a teacher: what its card and config.json say, else "unknown" and its directory."""
    directory = Path(teacher.directory)
    if _is_bundled(directory):
        return BUNDLED
    told = {key: _told(directory / CARD, key) for key in ("license", "base_model")}
    name = teacher.raw_config.get("_name_or_path")
    name = name if isinstance(name, str) and HUB_NAME.match(name) else None
    return {
        "license": told["license"] or "unknown",
        "base_model": told["base_model"] or name or directory.resolve().name,
    }


def _is_bundled(directory):
    try:
        return directory.resolve() == bundled("teacher").resolve()
    except InputError:  # nothing is
        return False


def _told(path, key):
    """A value of the YAML head of a card, None if it has none of one line."""
    try:
        head = path.read_text(encoding="utf-8").split("---", 2)
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(rf"^{key}: *[\"']?([^\"'\n]+?)[\"']? *$", head[1], re.MULTILINE) if len(head) == 3 else None
    return found and found[1]


def _head(directory, student, teacher, results):
    """The lines of YAML; texts are written as JSON, which YAML contains."""
    about = origin(teacher)
    tag = "feature-extraction" if student.config.headless else "text-classification"
    lines = ["---", "library_name: nanospike", *(f"{key}: {json.dumps(value)}" for key, value in about.items())]
    lines += [f"pipeline_tag: {tag}", "tags:", "- spiking-neural-network", "- knowledge-distillation"]
    if results["metric"] is not None:
        metric = METRICS.get(results["metric"], results["metric"])
        lines += ["metrics:", f"- {metric}", "model-index:", f"- name: {json.dumps(Path(directory).resolve().name)}"]
        lines += ["  results:", "  - task:", f"      type: {tag}", "    dataset:"]
        lines += [f"      name: {json.dumps(results['task'])}", f"      type: {json.dumps(results['task'])}"]
        lines += ["      split: dev", "    metrics:"]
        for name, value in scores(results).items():
            lines += [f"    - type: {metric}", f"      value: {value:.4f}", f"      name: {json.dumps(name)}"]
    return [*lines, "---"]


def scores(results):
    """{what was scored: score} of the student: at equilibrium, and at each number of time steps."""
    found = {"equilibrium": results["equilibrium"]}
    return found | {f"T = {t}": value for t, value in results["spiking"].items()}


def _body(directory, student, results, costs):
    config, name = student.config, Path(directory).resolve().name
    place = name if Path(directory).is_absolute() else Path(directory).as_posix()
    kind = "an ordinary BERT" if config.activation == "ann" else "a spiking BERT"
    size = f"{config.num_hidden_layers} encoders x {config.hidden_size}, {config.num_attention_heads} heads"
    yield from ("", f"# {name}", "")
    yield f"{kind[0].upper()}{kind[1:]} ({size}), distilled with nanospike, without PyTorch."
    yield from ("", "## Use", "", f"`{place}` is the directory with this file. From the Hub it comes with", "")
    yield from (f"    hf download OWNER/{shlex.quote(name)} --local-dir {shlex.quote(place)}", "")
    yield from ("```python", "import nanospike", "")
    if config.activation == "ann" or config.headless:
        yield from (f"student = nanospike.load_student({json.dumps(place)})", "```")
    else:
        yield from (f"classify = nanospike.Classifier({json.dumps(place)})", 'classify("a text")', "```")
    if results["metric"] is not None:
        yield from ("", f"## Scores ({results['task']} dev, {results['metric']}, {results['examples']} examples)", "")
        yield from ("| | score |", "|---|---|")
        if results.get("teacher") is not None:
            yield f"| teacher | {results['teacher']:.4f} |"
        yield from (f"| student, {what} | {value:.4f} |" for what, value in scores(results).items())
    steps = student.raw_config.get("recommended_time_steps")
    if steps is not None:
        yield from ("", f"Recommended: {steps} time step{'s' * (steps > 1)}.")
    yield from ("", "## What is hybrid and what is not", "", *_hybrid(config, costs))


def _hybrid(config, costs):
    """Lines about which operations are driven by spikes."""
    if config.activation == "ann":
        yield "Nothing in it spikes: it is a baseline."
        return
    neurons = "IF" if config.leak == 1 else f"LIF (leak {config.leak:g})"
    yield f"- Neurons: {neurons}, {config.spikes} spikes. Every linear layer of an encoder reads spikes."
    yield f"- Weights: {config.weights}; tables of the embedding: {config.embedding_weights}."
    floats = [name for name in OPERATORS if name not in config.shifts]
    if config.shifts:
        yield f"- Without multiplications, by shifts and additions: {', '.join(config.shifts)}."
    if floats:
        names = {"query": "queries", "norm": "LayerNorm", "embedding-norm": "the embedding's LayerNorm", "relu": "GELU"}
        names["relu"] = {"relu": "ReLU", "silu": "SiLU", "swish": "SiLU"}.get(config.hidden_act, "GELU")
        yield f"- Floating point, on rates and currents: {', '.join(names.get(n, n) for n in floats)}. It is a hybrid."
    for kind, (count, share, _) in by_kind(costs["audit"]).items() if costs else ():
        yield f"- {100 * share:.1f} % of its operations ({count:,.0f} a text): {MEANS[kind]}."
