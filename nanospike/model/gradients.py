"""Gradients of a student's loss: at its equilibrium, or at rates that were simulated."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..arrays.backend import namespace
from ..solvers.adjoint import Code
from . import equilibrium
from .penalty import jacobian_penalty


@dataclass(frozen=True)
class Gradients:
    """terms: {name: 0-d array}, weighted; their sum is the loss. grads: nested, embedding tables as RowSum.

    adjoint: the solvers.Solution of the loop's adjoint system, None without a loop. examples: how many there were.
    settled: () -> equilibrium.Equilibrium; where the gradient did without it (rates simulated, no loop), or is that of
    a graph on a GPU, it is found when it is asked for, with the weights as of then.
    """

    terms: dict
    grads: dict
    settled: Callable
    adjoint: Any
    examples: int

    @cached_property
    def equilibrium(self):
        return self.settled()


class Lesson:
    """The gradient of one batch in the making. Make one for each.

    network: an equilibrium.Network. loss_at(states, rates) -> ({term: value}, vjp(grads, shares) -> dhidden, dscores,
    dlogits, drates); states: hidden states, attention scores, logits. loop: a Loop; totals: loss.Totals of the batch.
    """

    def __init__(self, network, loss_at, loop, totals):
        equilibrium.require_soft_reset(network.config)
        self.network, self.loss_at, self.loop, self.totals = network, loss_at, loop, totals
        self.terms, self.grads, self.shares = {}, {}, None

    def at_equilibrium(self, inner):
        """The Gradients at the equilibrium; inner: the loss also looks at rates inside the encoders."""
        settled, pull_back = self._settle(differentiable=True, inner=inner)
        states = settled.hidden_states, settled.attention_scores, settled.logits
        return self._done(lambda: settled, self._add(states, settled.rates, pull_back))

    def at_simulated_rates(self, run, how):
        """The Gradients at the rates of the recorded steps of run(SpikingRun), each held in a sweep of its own."""
        settled = adjoint = None
        if self.network.config.recurrent:
            settled, _ = self._settle(differentiable=False)
        for rates in run(replace(how, keep_rates=True)).rates_at.values():
            states, pull_back = equilibrium.at_rates(self.network, rates)
            adjoint = self._add(states, rates, pull_back)
        return self._done(settled and (lambda: settled), adjoint)

    def while_simulated(self, run, how):
        """The same where the sweep that makes the rates of a recorded step is that which holds them (see simulate)."""

        def learn(sweep, rates):
            states, pull_back = equilibrium.at_sweep(self.network, sweep)
            self._add(states, rates, pull_back)

        run(how, learn)
        return self._done()

    def _settle(self, differentiable, inner=False):
        settled, pull_back = equilibrium.solve(
            self.network, differentiable=differentiable, forward_solver=self.loop.forward_solver, inner=inner
        )
        warn_unless(settled)
        if self.loop.drop_failed:
            self.shares = _shares(settled, settled.logits)
        return settled, pull_back

    def _add(self, states, rates, pull_back):
        """Add the loss at some states and its gradient; returns the adjoint Solution, None without a loop."""
        values, loss_vjp = self.loss_at(states, rates)
        *cotangents, drates = loss_vjp(self.grads, self.shares)
        self.terms = {n: self.terms.get(n, 0) + v for n, v in values.items()}
        return pull_back(*cotangents, self.grads, self.loop, drates)

    def _done(self, settled=None, adjoint=None):
        if adjoint is not None and adjoint.code is not Code.TRUNCATED:
            warn_unless(adjoint)
        settled = settled or (lambda: equilibrium.solve(self.network, differentiable=False)[0])
        if self.loop.jacobian_penalty:
            settled = functools.cache(settled)
            last = settled().hidden_states[-1]
            value, penalty_vjp = jacobian_penalty(self.network, last, self.loop.seed, self.totals)
            self.terms["jacobian"] = self.loop.jacobian_penalty * value
            penalty_vjp(self.loop.jacobian_penalty, self.grads)
        return Gradients(self.terms, self.grads, settled, adjoint, len(self.network.mask))


def _shares(settled, like):
    """Weights (B,) of the examples in the gradient: 0 where the equilibrium was not found; None: 1 for all."""
    if settled.converged:
        return None
    return namespace(like).asarray((settled.codes == Code.OK).astype(like.dtype))


def warn_unless(solution):
    if not solution.converged:
        warnings.warn(solution.message, RuntimeWarning, stacklevel=4)
