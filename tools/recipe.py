"""Run the commands of a recipe, one after another, and put what the students reach in a table.

    python tools/recipe.py tools/recipes/sst2.toml --work DIR --places glue=GLUE,minilm=DIR [--only NAME,...]
        [--options device=cuda,precision=tf32]

A recipe is a TOML file with a table a run: `command` (finetune, distill, evaluate, or average, a tool), `says`, and the
command's options under their own names. `seeds` makes a run of each; `{work}`, `{seed}` and the names of --places in an
option's value are filled in. The output of the run NAME is DIR/NAME, or DIR/NAME-SEED where it has seeds; a table that
is called `all` holds options of every run of distill. What is done is not done again, what was interrupted goes on;
tools/runs.py has the details.
"""

import json
import statistics
import string
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from runs import done, piped

import nanospike
from nanospike.config.errors import InputError
from nanospike.config.options import flag, option, parse
from nanospike.files.model_files import read_json, write_json
from nanospike.start import command

COMMANDS = ("finetune", "distill", "evaluate", "average")  # the last is tools/average.py
LOGGED = ("stage", "step", "loss", "learning_rate", "gradient_norm", "mean_rate", "equilibrium_gap")
LINES = 40  # of a run's log that are kept


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Run a recipe."""

    recipe: tuple[Path, ...] = option("the TOML file", ())
    work: Path = option("directory for what the runs write; what is done in it is not done again")
    places: tuple[str, ...] = option("NAME=DIR,...: what stands for {NAME} in the recipe", ())
    options: tuple[str, ...] = option(
        "NAME=VALUE,...: options of every distill, in the place of the recipe's; true and false for what is a flag", ()
    )
    only: tuple[str, ...] = option("names of runs, or beginnings of names; without it, all", ())
    json: Path | None = option("file to write figures and thinned logs to", None)


def read_recipe(path, given=()):
    """{name: table} of the file; what `all` says is a default of each distill. InputError where it makes no sense.

    given: {name: value} of options of each distill that count for more than the file's.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    common = tables.pop("all", {})
    for name, table in tables.items():
        if not isinstance(table, dict) or table.get("command") not in COMMANDS:
            raise InputError(f"{path}: {name}: expected a table with a command, one of {', '.join(COMMANDS)}")
        if table["command"] == "distill":
            tables[name] = common | table | dict(given)
    return tables


def arguments(table, places, where):
    """The command line of a table. InputError for a place that nobody named."""
    argv = []
    for name, value in table.items():
        if name in ("command", "says", "seeds"):
            continue
        if isinstance(value, bool):
            argv.append(flag(name) if value else flag(f"no-{name}"))
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        try:
            argv += [flag(name), string.Formatter().vformat(text, (), places)]
        except (KeyError, IndexError, ValueError) as error:
            known = ", ".join(places)
            raise InputError(f"{where}: {name}: found {text!r}, no place called {error}; known: {known}") from None
    return argv


def pairs(name, given, what):
    """{NAME: what} of an option's NAME=what."""
    if strange := [p for p in given if "=" not in p]:
        raise InputError(f"{name}: found {strange[0]!r}, expected NAME={what}")
    return dict(p.split("=", 1) for p in given)


def runs_of(name, table, places):
    """[(name of the output, arguments)] of a table, one for each of its seeds."""
    seeds = table.get("seeds")
    if seeds is None:
        return [(name, arguments(table, places, name))]
    seeded = table["command"] != "evaluate"  # which has nothing to draw: the seed says whose student
    return [
        (f"{name}-{s}", arguments(table | ({"seed": s} if seeded else {}), places | {"seed": str(s)}, name))
        for s in seeds
    ]


def figures(directory):
    """What a run reached: {"teacher", "equilibrium" and "T = 4", ...: accuracy, and what else there is}."""
    results = read_json(directory / "eval_results.json")
    if "spiking" not in results:
        return {"teacher": results.get(results.get("metric", "accuracy"), results.get("teacher"))}
    found = {"teacher": results["teacher"], "equilibrium": results["equilibrium"]}
    found |= {f"T = {t}": value for t, value in results["spiking"].items()}
    energy = directory / "energy.json"
    if energy.exists():
        found |= {f"T r, T = {t}": e["t_r"] for t, e in read_json(energy)["time_steps"].items()}
    if (directory / "model.safetensors").exists():
        found["MB"] = (directory / "model.safetensors").stat().st_size / 1e6
    return found


def thinned(directory):
    """At most LINES entries of a run's log, evenly spread, the last among them."""
    path = directory / "train_log.jsonl"
    if not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    every = max(1, -(-len(entries) // LINES))
    kept = entries[::-1][::every][::-1]
    return [{k: entry[k] for k in LOGGED if entry.get(k) is not None} for entry in kept]


def markdown(tables, found):
    """The figures of runs as a table; of several seeds mean ± standard deviation. found: {name: [figures, ...]}"""
    columns = list(dict.fromkeys(c for all_of in found.values() for each in all_of for c in each))
    lines = [["run", "what", *columns]]
    for name, each in found.items():
        lines.append([name, tables[name].get("says", ""), *(_cell([f.get(c) for f in each], c) for c in columns)])
    return piped(lines)


def _cell(values, column):
    values = [v for v in values if v is not None]
    if not values:
        return ""
    scale = 1 if column.startswith(("T r", "MB")) else 100
    spread = f" ± {scale * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{scale * statistics.fmean(values):.2f}{spread}"


def main(argv=None):
    options = parse(Recipe, argv, prog="python tools/recipe.py", positional="recipe")
    if len(options.recipe) != 1:
        raise InputError(f"the recipe: found {len(options.recipe)} files, expected one")
    given = pairs("--options", options.options, "VALUE")
    flags = {"true": True, "false": False}
    tables = read_recipe(options.recipe[0], {name: flags.get(value, value) for name, value in given.items()})
    places = pairs("--places", options.places, "DIR") | {"work": str(options.work)}
    chosen = {n: t for n, t in tables.items() if not options.only or n.startswith(options.only)}
    if not chosen:
        raise InputError(f"--only: found {', '.join(options.only)}, expected some of {', '.join(tables)}")
    plan = {name: runs_of(name, table, places) for name, table in chosen.items()}  # refused before anything runs
    options.work.mkdir(parents=True, exist_ok=True)
    found, kept, failed = {}, {}, []
    for name, runs in plan.items():
        for out, arguments_ in runs:
            if failure := done(options.work / out, arguments_, tables[name]["command"]):
                failed.append(f"{out}: {failure}")
                continue
            found.setdefault(name, []).append(figures(options.work / out))
            kept[out] = found[name][-1] | {"log": thinned(options.work / out)}
        if options.json:
            facts = {"nanospike_version": nanospike.__version__, "recipe": options.recipe[0].name}
            write_json(options.json, facts | {"runs": kept})
    print(markdown(tables, found))
    if failed:
        raise InputError(f"{len(failed)} of {sum(map(len, plan.values()))} runs failed: {'; '.join(failed)}")


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
