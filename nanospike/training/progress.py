"""What a person sees of a training run: a bar and the last line of the log in short; in a file, such lines at times."""

import sys
import threading
import time

SECONDS = 15.0  # at least, between two lines in a file
PATIENCE = 2.0  # seconds before a count is shown


def counted(name, total, work):
    """work(items), of which, on a terminal, is shown how many of `total` items are done, where it takes longer."""
    if not sys.stderr.isatty():
        return work
    lock, done, shown, began = threading.Lock(), 0, "", time.monotonic()

    def counting(items):
        nonlocal done, shown
        try:
            result = work(items)
        except BaseException:
            if shown:
                print(file=sys.stderr)
            raise
        with lock:
            done += len(items)
            if time.monotonic() - began >= PATIENCE:
                blank, shown = " " * len(shown), f"{name} {done}/{total}"
                print(f"\r{shown if done < total else blank + chr(13)}", end="", file=sys.stderr, flush=True)
        return result

    return counting


class progress:
    """One bar on a terminal: tqdm's if it is importable, else a line that is written over.

    Elsewhere lines that are SECONDS apart.
    """

    def __init__(self, name, total, start):
        self.bar, self.name, self.total, self.live = None, name, total, sys.stderr.isatty()
        self.printed = time.monotonic()
        if self.live:
            try:
                from tqdm import tqdm

                self.bar = tqdm(total=total, initial=start, desc=name, leave=True)
            except ImportError:
                pass

    def show(self, step, line):
        text = progress_text(line, (self.total - step) * line["step_ms"] / 1000)
        if self.bar is not None:
            self.bar.n = step
            self.bar.set_postfix_str(text)
        elif self.live:
            print(f"\r{self.name} {step}/{self.total}: {text}   ", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.printed >= SECONDS:
            print(f"{self.name} {step}/{self.total}: {text}", file=sys.stderr, flush=True)
            self.printed = time.monotonic()

    def close(self):
        if self.bar is not None:
            self.bar.close()
        elif self.live:
            print(file=sys.stderr)


def progress_text(line, seconds_left):
    """A line of the log in short: loss and its terms, dead and saturated neurons, equilibrium gap, speed, time left."""
    terms = {k.removeprefix("loss_"): v for k, v in line.items() if k.startswith("loss_")}
    parts = [f"loss {line['loss']:.4f}"]
    if len(terms) > 1:
        parts[0] += " (" + ", ".join(f"{name} {v:.4f}" for name, v in terms.items()) + ")"
    for kind in ("dead", "saturated"):
        if shares := line.get(kind):
            worst = max(shares, key=shares.get)
            parts.append(f"{kind} up to {100 * shares[worst]:.0f} %")
    if "equilibrium_gap" in line:
        parts.append(f"gap {line['equilibrium_gap']:.4f}")
    minutes, seconds = divmod(round(seconds_left), 60)
    return ", ".join([*parts, f"{line['examples_per_second']:.0f} examples/s", f"{minutes}:{seconds:02d} left"])
