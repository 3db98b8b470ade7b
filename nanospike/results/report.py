"""report.html: what a run gave, what its student does and what it costs, as one page with inline SVG."""

import csv
import io
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..config.errors import InputError
from ..files.model_files import read_json, replacing
from . import charts
from .drawing import CHART_STYLE, HEIGHT, LOW, ROOTS, by_time_steps, is_number, text_of
from .populations import audit_bar, gap_map, rate_bars
from .sentence import attention_maps, raster

PAGE_STYLE = """
body { margin: 2rem auto; max-width: 820px; padding: 0 1.25rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif } :root { color-scheme: light dark }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 } h1, details td { overflow-wrap: anywhere }
p, summary, thead { color: var(--muted) } summary { cursor: pointer } p { margin: 0.4rem 0 1.4rem }
main { display: flex; flex-wrap: wrap; gap: 1.5rem 3.5rem; align-items: flex-start; margin-bottom: 2rem }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums }
th, td { padding: 0.25rem 0 0.25rem 1.2rem; border-bottom: 1px solid var(--grid); text-align: left; font-weight: 400 }
@media (max-width: 480px) { main table { font-size: 0.8rem } main th, main td { padding-left: 0.6rem } }
main th:first-child, th:first-child { padding-left: 0 } main td, main th:not(:first-child) { text-align: right }
figure { margin: 2rem 0; overflow-x: auto; break-inside: avoid } figure details { font-size: 0.85rem }
pre { overflow: auto; max-height: 20rem; font-size: 0.75rem; color: var(--muted) }
svg { display: block; width: 100%; min-width: 640px }
@media print { body { margin: 0; max-width: none } svg { min-width: 0 } tr { break-inside: avoid } }
"""


def write_report(directory, results, costs=None, look=None):
    """Write directory/report.html from `results` (evaluate_student's, and more) and the log and options found there.

    costs: energy.json; look: a look.Look at a sentence; None: without their pictures.
    """
    directory = Path(directory)
    spiking = bool(by_time_steps(results, "spiking") or by_time_steps(results, "equilibrium_gap"))
    title = f"{'Spiking' if spiking else 'ANN'} student {directory.resolve().name} on {results.get('task')}"
    neurons = f"{results.get('drive')} drive, {results.get('spikes')} spikes" if spiking else "no spiking neurons"
    log = _stages(directory / "train_log.jsonl")
    page = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<link rel="icon" href="data:,">',
        f'<meta name="viewport" content="width=device-width">\n<title>{text_of(title)}</title>\n<style>\n{ROOTS[0]}',
        f"@media screen and (prefers-color-scheme: dark) {{ {ROOTS[1]} }}{PAGE_STYLE}{CHART_STYLE}</style>\n</head>",
        f"<body>\n<h1>{text_of(title)}</h1>\n<p>{text_of(neurons)}; {text_of(results.get('examples'))} examples</p>",
        f"<p>{text_of(costs['words'])}</p>" if costs else "",
        f"<main>{_scores(results)}{_costs(results)}</main>",
        *_figures(results, log, costs, look, spiking),
        _silent(log),
        f"{_options(directory / 'training_args.json')}\n{_versions(directory / 'config.json')}\n</body>\n</html>\n",
    ]
    with replacing(directory / "report.html") as temporary:
        temporary.write_text("\n".join(filter(None, page)), encoding="utf-8")


def _figures(results, log, costs, look, spiking):
    """The pictures that there are, each with its data."""
    found = [charts.tradeoff(costs)] if costs else []
    found += [charts.accuracy(results)] if by_time_steps(results, "spiking") else []
    found += [charts.gap(results)]
    found += [gap_map(look.gaps, f"{look.texts} texts")] if look else []
    rates, over = results.get("rates"), f"{results.get('examples')} examples"
    if not rates and look:
        rates, over = look.rates, f"{look.texts} texts"
    found += [rate_bars(rates or {}, over)]
    found += [raster(look), attention_maps(look)] if look else []
    found += [audit_bar(costs)] if costs else []
    found += [charts.training(log, "loss", "training loss", HEIGHT)]
    found += [charts.training(log, "mean_rate", "mean firing rate", LOW)] if spiking else []
    for key, title in (
        ("equilibrium_sweeps", "sweeps to the equilibrium"),
        ("adjoint_sweeps", "sweeps of the adjoint solver"),
    ):
        found.append(charts.training(log, key, title, LOW))
    return [f"<figure>{picture.svg}{_data(picture.rows)}</figure>" for picture in found if picture]


def _data(rows):
    """The data of a picture as CSV, folded away."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    lines = "\n".join(text_of(line) for line in text.getvalue().splitlines())
    return f'<details class="data"><summary>Data of this picture (CSV)</summary>\n<pre>{lines}</pre></details>'


def _shown(value, form, unit=""):
    return f"{value:{form}}{unit}" if is_number(value) else "–"


def _stages(path):
    """{stage: (updates before it, [(update of the run, line)])} of train_log.jsonl; a line cut short is left out."""
    stages, end = {}, 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            step, (before, lines) = int(line["step"]), stages.setdefault(line["stage"], (end, []))
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
        lines.append((before + step, line))
        end = max(end, before + step)
    return stages


def _table(rows, head):
    """A row's first cell names it."""
    rows = [
        f"<tr><th>{text_of(row[0])}</th>{''.join(f'<td>{text_of(c)}</td>' for c in row[1:])}</tr>\n" for row in rows
    ]
    return (
        f"<table><thead><tr>{''.join(f'<th>{text_of(c)}</th>' for c in head)}</tr></thead>\n{''.join(rows)}</table>\n"
    )


def _scores(results):
    scores, gaps = by_time_steps(results, "spiking"), dict(by_time_steps(results, "equilibrium_gap"))
    rates = {t: results.get("spiking_mean_rate") for t, _ in scores[-1:]}  # was measured over the longest run
    student = "student at equilibrium" if scores else "student"
    rows = [("teacher", results.get("teacher"), None, None)]
    rows += [(student, results.get("equilibrium"), None, results.get("mean_rate"))]
    rows += [(f"spiking, T = {t}", value, gaps.get(t), rates.get(t)) for t, value in scores]
    rows = [(n, f"{100 * v:.2f} %", _shown(gap, ".4f"), _shown(r, ".4f")) for n, v, gap, r in rows if is_number(v)]
    head = ("", results.get("metric"), "equilibrium gap", "mean firing rate")
    return _table(rows, head) if scores else _table([row[:2] for row in rows], head[:2])


def _costs(results):
    rows = [(f"training, {name}", stage.get("seconds")) for name, stage in (results.get("training") or {}).items()]
    rows += [("evaluation", results.get("seconds")), ("whole run", results.get("total_seconds"))]
    memory = ("peak memory", _shown(results.get("peak_memory_mb"), ",.0f", " MB"))
    return _table([(n, _shown(v, ",.1f", " s")) for n, v in rows if v is not None] + [memory], ("", "cost"))


def _silent(stages):
    """A table of dead and saturated neurons as the log's last line has them."""
    lines = [line for _, rows in stages.values() for _, line in rows]
    kinds = [lines[-1].get(kind) for kind in ("dead", "saturated")] if lines else []
    if not kinds or not all(isinstance(shares, dict) for shares in kinds):
        return ""
    percent = lambda v: f"{100 * v:.1f} %" if is_number(v) else "–"  # noqa: E731
    rows = [(name, *(percent(shares.get(name)) for shares in kinds)) for name in kinds[0]]
    head = ("population", "dead", "saturated")
    return f"<details><summary>Dead and saturated neurons at the end</summary>\n{_table(rows, head)}</details>"


def _options(path):
    try:
        rows = [(n, v if isinstance(v, str) else json.dumps(v)) for n, v in read_json(path).items()]
    except InputError:  # none recorded, or not readable
        return ""
    return f"<details><summary>Options of the run</summary>\n{_table(rows, ('option', 'value'))}</details>"


def _versions(path):
    """What made the student, and what drew this page."""
    rows = [(name, version(name)) for name in ("nanospike", "numpy", "scipy") if _installed(name)]
    rows = [("python", platform.python_version()), *rows]
    try:
        rows += [("the student was made by nanospike", read_json(path).get("nanospike_version", "unknown"))]
    except InputError:
        pass
    return f"<details><summary>Versions</summary>\n{_table(rows, ('this page was drawn by', 'version'))}</details>"


def _installed(name):
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
