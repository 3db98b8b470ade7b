"""Own times of nanospike's functions and of the vjps that they return, thread by thread.

clock = Clock()
with timed(clock):
    clock.call(REST, step)
clock.total("seconds")      # {(block, column): seconds}
"""

import functools
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from unittest.mock import patch

from nanospike.arrays import ops, tree
from nanospike.arrays.workers import Workers
from nanospike.data import text
from nanospike.model import bert, loss, membranes, neuron
from nanospike.training import optim, teaching

REST, WAIT = ("rest", ""), ("wait", "")  # what no other block claims; a thread that waits for others


class Account:
    """What one thread did. seconds, flop: {(block, column): number}; doing: its block now; nested: seconds spent in
    timed functions that this block called.
    """

    def __init__(self):
        self.seconds, self.flop, self.calls = Counter(), Counter(), 0
        self.doing, self.nested = REST, 0.0


class Clock:
    """Own times of functions, thread by thread."""

    def __init__(self, now=time.perf_counter):
        self.now, self.local, self.accounts = now, threading.local(), []

    @property
    def account(self):
        if not hasattr(self.local, "account"):
            self.local.account = Account()
            self.accounts.append(self.local.account)
        return self.local.account

    def call(self, key, function, *args, **kwargs):
        """function(*args, **kwargs), its time under `key`, (block, column)."""
        account = self.account
        doing, nested = account.doing, account.nested
        account.doing, account.nested = key, 0.0
        began = self.now()
        try:
            return function(*args, **kwargs)
        finally:
            took = self.now() - began
            account.seconds[key] += took - account.nested
            account.doing, account.nested = doing, nested + took
            account.calls += 1

    def total(self, name):
        """The sum of `seconds`, `flop` or `calls` over the threads."""
        values = [getattr(account, name) for account in self.accounts]
        return sum(values[1:], values[0]) if values else 0


def linear_flop(x, weight, bias=None):
    """Operations of ops.linear, and the function that says those of its vjp."""
    flop = 2 * x.size * len(weight)
    return flop, lambda dy, grads=None: flop if grads is None else 2 * flop


def attention_flop(q, *rest, **more):
    flop = 4 * q.size * q.shape[1]
    return flop, lambda *rest, **more: 2 * flop


LAYERS = [  # owner, name, block: functions whose last value is a vjp
    (ops, "linear", "linear layers", linear_flop),
    (ops, "attention", "attention", attention_flop),
    (ops, "softmax", "softmax", None),
    (ops, "gelu", "gelu", None),
    (ops, "layer_norm", "layer_norm", None),
    (neuron, "rate", "neurons", None),
    (membranes.Neurons, "__call__", "neurons", None),
    (ops, "embedding", "embedding", None),
    (bert, "embeddings", "embedding", None),
    (bert, "encoder", "residuals", None),
    (loss, "distillation", "losses", None),
    (loss, "hidden_loss", "losses", None),
    (loss, "attention_loss", "losses", None),
    (loss, "logits_loss", "losses", None),
]
OTHERS = [
    (tree.RowSum, "rows", "embedding"),
    (optim.AdamW, "_update", "embedding"),  # its own time is that of the rows: the update is in _move
    (optim.AdamW, "_move", "AdamW"),
    (optim, "global_norm", "AdamW"),
    (teaching, "summed", "sums"),
    (text, "collate", "collation"),
]
BLOCKS = tuple(dict.fromkeys(row[2] for row in (*LAYERS, *OTHERS))) + ("rest", "idle")


@contextmanager
def timed(clock):
    """Within it, everything in LAYERS and OTHERS, the teacher and what the workers do goes by the clock."""
    with ExitStack() as stack:

        def put(owner, name, function):
            stack.enter_context(patch.object(owner, name, function))

        plain = [getattr(owner, name) for owner, name, *_ in LAYERS]
        for owner, name, block, flop_of in LAYERS:
            put(owner, name, timed_layer(clock, block, getattr(owner, name), flop_of))
        for owner, name, block in OTHERS:
            put(owner, name, timed_function(clock, (block, ""), getattr(owner, name)))
        timed_forms = [getattr(owner, name) for owner, name, *_ in LAYERS]
        put(bert, "operators", retimed(bert.operators, dict(zip(plain, timed_forms, strict=True))))
        put(teaching, "computed", timed_function(clock, ("rest", "teacher"), teaching.computed))
        put(Workers, "map", timed_map(clock, Workers.map))
        yield


def retimed(operators, timed):
    """bert.operators with the timed forms {plain: timed} of what it chooses, which it has from before."""

    def choose(function):
        if isinstance(function, functools.partial):
            return functools.partial(timed.get(function.func, function.func), **function.keywords)
        return timed.get(function, function)

    def chosen(config):
        these = operators(config)
        return replace(these, **{f.name: choose(getattr(these, f.name)) for f in fields(these)})

    return chosen


def timed_function(clock, key, function):
    return lambda *args, **kwargs: clock.call(key, function, *args, **kwargs)


def timed_layer(clock, block, function, flop_of):
    """The same function with its vjp, both timed. What is called within the teacher or a vjp is in their column."""

    def layer(*args, **kwargs):
        key = (block, clock.account.doing[1] or "forward")
        *values, vjp = clock.call(key, function, *args, **kwargs)
        vjp_flop = None
        if flop_of:
            flop, vjp_flop = flop_of(*args, **kwargs)
            clock.account.flop[key] += flop

        def timed_vjp(*args, **kwargs):
            if vjp_flop:
                clock.account.flop[block, "backward"] += vjp_flop(*args, **kwargs)
            return clock.call((block, "backward"), vjp, *args, **kwargs)

        return *values, timed_vjp

    return layer


def timed_map(clock, function):
    """Workers.map whose jobs go on with the block that shares them out, which meanwhile waits."""

    def shared(workers, job, items):
        doing = clock.account.doing
        return clock.call(WAIT, function, workers, lambda item: clock.call(doing, job, item), items)

    return shared
