"""What NeuroBench 2.3 and SpikingJelly 2.0 count on a small spiking network: tests/golden/energy.json.

    pip install torch neurobench==2.3.0 spikingjelly==2.0.0      (in an environment of its own)
    python tools/make_energy_golden.py tests/golden/energy.json

Two layers, 6 inputs, 5 hidden neurons, 3 outputs, integrate-and-fire neurons with soft reset, 8 time steps, 3 examples.
Weights and biases are multiples of 1/16, so that every framework computes the same numbers; some weights are 0. Twice:
with input spikes of {0, 1}, and with a single matrix that gets spikes of {-1, 0, 1}.
"""

import json
import sys
from pathlib import Path

import torch
from neurobench.metrics.workload import SynapticOperations
from neurobench.models import TorchModel
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based.op_counter import SimpleEnergyProfiler
from torch import nn

TIME_STEPS, EXAMPLES, WIDTHS, GRID = 8, 3, (6, 5, 3), 16


class Steps(nn.Module):
    """The layers, one time step after the other, on spikes (B, T, W): spikes of the last layer (B, T, C)."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, spikes):
        functional.reset_net(self)
        return torch.stack([self.layers(spikes[:, t]) for t in range(spikes.shape[1])], dim=1)


def linear(rng, wide, narrow):
    layer = nn.Linear(wide, narrow)
    weight = torch.randint(-GRID, GRID + 1, (narrow, wide), generator=rng)
    weight *= torch.rand(narrow, wide, generator=rng) > 0.2
    layer.weight.data = weight.float() / GRID
    layer.bias.data = torch.randint(0, 5, (narrow,), generator=rng).float() / GRID
    return layer


def network(rng):
    fire = lambda: neuron.IFNode(v_threshold=1.0, v_reset=None)  # noqa: E731
    return Steps(linear(rng, *WIDTHS[:2]), fire(), linear(rng, *WIDTHS[1:]), fire())


def counted(net, spikes):
    """What the two frameworks say of one run, and what it sends."""
    metric, model = SynapticOperations(), TorchModel(net)
    model.register_hooks()
    out = model(spikes)
    theirs = metric(model, out, (spikes, None))
    model.cleanup_hooks()
    profiler = SimpleEnergyProfiler()
    profiler.bind_model(net)
    with profiler, torch.no_grad():
        net(spikes)
    report = profiler.get_report()
    return {
        "weights": {n: p.tolist() for n, p in net.named_parameters()},
        "input": spikes.int().tolist(),
        "output": out.detach().tolist(),
        "neurobench": {name: float(v) for name, v in theirs.items()},
        "spikingjelly": dict(report.counts) | {"energy_pj": report.energy_total_pj},
    }


def main(path):
    rng = torch.Generator().manual_seed(0)
    draw = torch.rand(EXAMPLES, TIME_STEPS, WIDTHS[0], generator=rng)
    binary = counted(network(rng), (draw < 0.4).float())
    signed = counted(Steps(linear(rng, *WIDTHS[:2])), (draw < 0.2).float() - (draw > 0.8).float())
    Path(path).write_text(json.dumps({"binary": binary, "signed": signed}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
