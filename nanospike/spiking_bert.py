"""The student's equilibrium: the map, its fixed point, and the gradient through it.

All neurons settle where their rates reproduce themselves. Without feedback one sweep of the encoders *is* that
equilibrium and one reverse sweep its exact adjoint. With feedback, z = F(z), z the last encoder's rates and F one
sweep; the gradient needs mu with (I - K^T) mu = b, K = dF/dz, each product one reverse sweep without parameter
gradients (the reduced adjoint; Xiao et al. 2021, arXiv 2109.14247, for the idea).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import bert, neuron, ops
from .solve import fixed_point, solve_adjoint
from .tree import add, child, leaves

FORWARD_RTOL = {"float32": 1e-5, "float64": 1e-13}
ADJOINT_RTOL = {"float32": 1e-4, "float64": 1e-10}


def parameter_shapes(config):
    """{name: shape} of a student's tensors: BERT's without pooler, distill_map, and feedback if it has one.

    Thresholds of single populations come on top where a student has them: see threshold_shapes.
    """
    shapes = bert.parameter_shapes(config, labels=config.num_labels)
    target = config.teacher_hidden_size or config.hidden_size
    shapes |= {"distill_map.weight": (target, config.hidden_size), "distill_map.bias": (target,)}
    if config.feedback:
        shapes["feedback.weight"] = (config.hidden_size, config.hidden_size)
    return shapes


def thresholds(tree):
    """{population: array (width,) or (1,)} of the populations that do not fire at the configuration's v_th."""
    return dict(leaves(tree.get("thresholds", {})))


def rate_neurons(config, own_thresholds=None):
    """`fire` of the equilibrium: every population at the rate that its current holds it at."""
    if config.activation == "ann":
        return bert.pass_on
    own_thresholds = own_thresholds or {}

    def fire(population, current):
        value, rate_vjp = neuron.rate(current, own_thresholds.get(population, config.v_th), config.spikes)

        def vjp(dy, grads=None):
            own = {}
            dx = rate_vjp(dy, own if grads is not None else None)
            if own:
                *path, last = population.split(".")
                add(child(grads, *path), last, own["v_th"])
            return dx

        return value, vjp

    return fire


def threshold_shapes(config, tensors):
    """{name: shape} of the thresholds.POPULATION among `tensors`: (1,) for one of all its neurons, else (width,)."""
    shapes = {}
    for population in bert.populations(config.num_hidden_layers):
        name = f"thresholds.{population}"
        width = config.intermediate_size if population.endswith(".intermediate") else config.hidden_size
        if name in tensors:
            shapes[name] = (1,) if tensors[name].shape == (1,) else (width,)
    return shapes


class Recorder:
    """A `fire` that also keeps what every population sends, by name."""

    def __init__(self, fire):
        self.fire, self.rates = fire, {}

    def __call__(self, population, current):
        value, vjp = self.fire(population, current)
        self.rates[population] = value
        return value, vjp


@dataclass(frozen=True)
class Network:
    """A student on one batch: what is left to choose is what its neurons do (`fire`) and what is fed back.

    current, embed_vjp: the embedding current e (B, L, D) and its vjp. mask (B, L).
    """

    tree: dict
    config: Any
    current: Any
    embed_vjp: Any
    mask: Any

    @classmethod
    def on(cls, tree, config, input_ids, attention_mask, token_type_ids):
        current, vjp = bert.embeddings(input_ids, token_type_ids, tree["embeddings"], config.layer_norm_eps)
        return cls(tree, config, current, vjp, attention_mask)

    def sweep(self, fire, fed_back=None, differentiable=True):
        """All populations once: a bert.Trace. fed_back (B, L, D): activity that returns to the embedding neurons.

        trace.vjp gives the cotangent of the embedding current; it is None if not differentiable, which saves memory.
        """
        current = self.current
        if fed_back is not None:
            current = current + self.return_current(fed_back)[0]
        layers = self.tree["encoder"]["layer"]
        return bert.encoders(current, layers, self.config, self.mask, fire, differentiable=differentiable)

    def keep(self, rows):
        """The network on some examples of the batch (rows: their indices); not differentiable."""
        return replace(self, current=self.current[rows], embed_vjp=None, mask=self.mask[rows])

    def rate_neurons(self):
        return rate_neurons(self.config, thresholds(self.tree))

    def return_current(self, fed_back):
        """fed_back Wfb^T, with its vjp."""
        return ops.linear(fed_back, **self.tree["feedback"])

    def classify(self, last):
        """Logits (B, C) of the last encoder's activity (B, L, D), with the vjp."""
        return bert.classify(last, self.tree)


@dataclass(frozen=True)
class Equilibrium:
    """rates: population -> (B, L, width). hidden_states: N+1 of (B, L, D). attention_scores: N of (B, H, L, L).

    logits (B, C). residual: |F(z) - z| / |F(z)| of the worst example, 0 without feedback; residuals: each example's.
    iterations: sweeps it took.
    """

    rates: dict
    hidden_states: list
    attention_scores: list
    logits: Any
    residual: float
    residuals: np.ndarray
    iterations: int
    converged: bool
    message: str


def solve(network, rtol=None, differentiable=True, forward_solver="anderson"):
    """The equilibrium of a Network: (Equilibrium, vjp). forward_solver: a method of solve.fixed_point.

    vjp(dhidden, dscores, dlogits, grads, method, rtol) fills `grads` with the exact gradient and returns the adjoint
    Solution, or None without feedback.
    """
    fire = Recorder(network.rate_neurons())
    found, fed_back = None, None
    if network.config.feedback:
        found = _loop(network, rtol, forward_solver)
        fed_back = found.x
    trace = network.sweep(fire, fed_back, differentiable)
    logits, head_vjp = network.classify(trace.hidden_states[-1])
    equilibrium = Equilibrium(
        fire.rates,
        trace.hidden_states,
        trace.attention_scores,
        logits,
        found.residual if found else 0.0,
        found.residuals if found else np.zeros(len(logits)),
        found.iterations + 1 if found else 1,
        found.converged if found else True,
        found.message if found else "",
    )

    def vjp(dhidden, dscores, dlogits, grads, method="gmres", rtol=None):
        dhidden = list(dhidden)
        if dlogits is not None:
            dlast = head_vjp(dlogits, grads)
            dhidden[-1] = dlast if dhidden[-1] is None else dhidden[-1] + dlast
        return _pull_back(network, trace, fed_back, dhidden, dscores, grads, method, rtol)

    return equilibrium, vjp


def _loop(network, rtol, method):
    """z = F(z) by solve.fixed_point, padding held at 0."""
    fire, config, xp_zero = network.rate_neurons(), network.config, network.current * 0
    real = network.mask.astype(network.current.dtype)[:, :, None]
    low = -1 if config.spikes == "signed" else 0
    return fixed_point(
        lambda z: network.sweep(fire, z, differentiable=False).hidden_states[-1] * real,
        xp_zero,
        rtol=rtol or FORWARD_RTOL[str(network.current.dtype)],
        method=method,
        box=None if config.activation == "ann" else (low, 1),
    )


def _pull_back(network, trace, fed_back, dhidden, dscores, grads, method, rtol):
    dcurrent = trace.vjp(dhidden, dscores, grads)
    if fed_back is None:
        network.embed_vjp(dcurrent, child(grads, "embeddings"))
        return None
    _, return_vjp = network.return_current(fed_back)
    nowhere = [None] * (len(trace.hidden_states) - 1)
    real = network.mask.astype(dcurrent.dtype)[:, :, None]

    def jacobian_transposed(mu):
        return return_vjp(trace.vjp([*nowhere, mu])) * real

    b = return_vjp(dcurrent) * real
    adjoint = solve_adjoint(jacobian_transposed, b, method, rtol or ADJOINT_RTOL[str(dcurrent.dtype)])
    dcurrent = dcurrent + trace.vjp([*nowhere, adjoint.x], None, grads)
    return_vjp(dcurrent, child(grads, "feedback"))
    network.embed_vjp(dcurrent, child(grads, "embeddings"))
    return adjoint
