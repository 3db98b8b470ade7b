"""What every command does at its start and its end: one voice for errors, the options shown and saved."""

import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from .arrays.backend import set_host_product, set_precision
from .arrays.machine import has_amx
from .config.errors import InputError
from .config.options import plain, plain_value
from .files.lock import Lock
from .files.model_files import require_empty, write_json
from .model.twins import use_fast
from .training.loop import Stopped
from .training.parallel import World, world
from .training.resume import ARGS, LOG, require_resumable, stopped_early

_locks = []  # of the output directories of this command
CLOSED_PIPE = 128 + 13


def command(main, processes=1):
    """Run a command: what the user got wrong is one line on standard error and exit status 2.

    Where nobody reads what it prints any more (`... | head -1`), it ends without a word.
    processes: the most that it can use; None: any number.
    """
    for stream in (sys.stdout, sys.stderr):  # whatever the locale says: what cannot be said in it is written as \\udc80
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    warnings.showwarning = lambda message, *rest, **more: print(f"warning: {message}", file=sys.stderr)
    here = World()
    try:
        here = world()
        if processes and here.size > processes:
            raise InputError(f"this command runs in one process, found {here.size}; start it without mpiexec")
        with terminated_as_interrupted(here), quiet_without_a_reader(), here.one_voice():
            main()
        here.wait()
    except MemoryError as error:
        told = f" ({_one_line(error)})" if str(error) else ""
        here.stop(f"error: not enough memory{told}; a smaller --batch-size, --max-length or --workers needs less", 2)
    except (InputError, OSError, UnicodeError) as error:
        here.stop(f"error: {_one_line(error)}", 2, together=getattr(error, "on_all_ranks", False))
    except Stopped:  # on every rank: nobody has to be stopped by another
        if here.rank == 0:
            print("interrupted", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        here.stop("interrupted", 130)
    except Exception:
        if here.size == 1:
            raise
        here.stop(traceback.format_exc(), 1)
    finally:
        while _locks:
            _locks.pop().release()


@contextmanager
def terminated_as_interrupted(here):
    """Within it, SIGTERM is a Ctrl-C, unless the process was told to do something else, or is one of several."""
    default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and here.size == 1
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def quiet_without_a_reader():
    """Within it, a closed pipe at standard output ends the process, with the status that a shell gives SIGPIPE."""
    try:
        try:
            yield
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has somewhere to go
        sys.exit(CLOSED_PIPE)


def _one_line(error):
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def require_startable(options):
    """InputError unless the output directory is empty, or on --resume has a checkpoint of the same run."""
    world().once(_require_startable, options)


def _require_startable(options):
    if options.resume:
        require_resumable(options)
    else:
        require_empty(options.output_dir)


def begin(options):
    """Print and save the resolved options; the output directory, empty unless --resume, exists from here on."""
    world().once(_begin, options)
    accelerate(options)


def _begin(options):
    _require_startable(options)
    Path(options.output_dir).mkdir(parents=True, exist_ok=True)
    _locks.append(Lock(options.output_dir))
    if stopped_early(options.output_dir):
        (Path(options.output_dir) / LOG).unlink(missing_ok=True)
        print("stopped before its first checkpoint: from the beginning", file=sys.stderr)
    announce(options, Path(options.output_dir) / ARGS)
    write_json(Path(options.output_dir) / ARGS, plain(options))


def accelerate(options):
    """Choose how the blocks of the graph are computed, and say so where something was chosen or found."""
    if options.device == "cuda":
        set_precision(options.precision)
        said = f"fused kernels, products in {options.precision}"
    else:
        said = use_fast(options.fast)
        set_host_product(None)
        if options.precision == "bfloat16":
            from .arrays.half_products import product

            set_host_product(product)
            said += ", products in bfloat16 by MKL" + ("" if has_amx() else "; without AMX that gains nothing")
    if said and world().rank == 0:
        print(f"computing with {said}", file=sys.stderr)


def announce(options, kept_in=None):
    """Print in one line the resolved options that are not at their defaults. kept_in: the file with all of them."""
    defaults = {f.name: plain_value(f.default) for f in fields(options)}
    told = [f"{name}={value}" for name, value in plain(options).items() if value != defaults[name]]
    others = "all others at their defaults" if told else "all at their defaults"
    print(f"options: {', '.join(told)}{'; ' * bool(told)}{others}{f', in {kept_in}' if kept_in else ''}")
