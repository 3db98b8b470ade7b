"""What populations do with their currents at the equilibrium: rates, thresholds, what scores are scaled by."""

from ..arrays.tree import add, child, leaves
from ..config.errors import InputError
from . import bert, neuron, twins
from .quantise import rounding


def thresholds(tree):
    """{population: array (width,) or (1,)} of the populations that do not fire at the configuration's v_th."""
    return dict(leaves(tree.get("thresholds", {})))


def rate_neurons(config, own_thresholds=None):
    """`fire` of the equilibrium: every population at the rate that its current holds it at."""
    if config.activation == "ann":
        return rounding(config.activation_bits) if config.activation_bits else bert.pass_on
    own_thresholds = own_thresholds or {}

    def neurons(population):
        return own_thresholds.get(population, config.v_th), neuron.spikes_of(population, config.spikes, config)

    def fire(population, current):
        v_th, spikes = neurons(population)
        value, rate_vjp = (twins.rate(current, v_th) or neuron.rate)(current, v_th, spikes)
        return value, with_own(population, rate_vjp)

    def slope(population, current):
        """The vjp of fire(population, current)."""
        v_th, spikes = neurons(population)
        return with_own(population, (twins.slope(current, v_th) or neuron.slope)(current, v_th, spikes))

    def with_own(population, rate_vjp):
        def vjp(dy, grads=None):
            own = {}
            dx = rate_vjp(dy, own if grads is not None else None)
            if own:
                *path, last = population.split(".")
                add(child(grads, *path), last, own["v_th"])
            return dx

        return vjp

    def bounds(population):
        v_th, spikes = neurons(population)
        return neuron.UNKNOWN if hasattr(v_th, "shape") else (v_th, -1 if spikes == "signed" else 0)

    fire.bounds, fire.slope = bounds, slope
    return fire


def score_scale(config, own_thresholds=None):
    """The `scale_query` of a bert.Flow: where queries and keys are spikes, a score is v_q v_k times their product.

    v_q and v_k, the thresholds of the two populations, turn rates back into the currents that the teacher multiplies.
    InputError where one population has several: they would be a product in every synapse.
    """
    own = own_thresholds or {}

    def scale(name, query):
        pair = [f"{name}.query", f"{name}.key"]
        if several := [p for p in pair if p in own and own[p].size > 1]:
            raise InputError(
                f"thresholds.{several[0]}: found {own[several[0]].size}, expected one: with spiking queries it is part "
                "of a constant of the scores"
            )
        v_q, v_k = (own.get(p, config.v_th) for p in pair)
        gain = v_q * v_k

        def vjp(dy, grads=None):
            if grads is not None and any(p in own for p in pair):
                slope = (dy * query).sum()
                for population, other in zip(pair, (v_k, v_q), strict=True):
                    if population in own:
                        *path, last = population.split(".")
                        add(child(grads, *path), last, slope * other * own[population] ** 0)
            return dy * gain

        return query * gain, vjp

    return scale if "query" in config.shifts else bert.as_it_is


def threshold_shapes(config, tensors):
    """{name: shape} of the thresholds.POPULATION among `tensors`: (1,) for one of all its neurons, else (width,)."""
    shapes = {}
    for population in bert.populations(config):
        name = f"thresholds.{population}"
        width = config.hidden_size
        if population.endswith(".intermediate"):
            width = config.intermediate_widths[int(population.split(".")[1])]
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

    def bounds(self, population):
        return neuron.bounds(self.fire, population)


class Inhibited:
    """A `fire` whose population `name` gets a further current. vjp: that of this population's neurons."""

    def __init__(self, fire, name, current):
        self.fire, self.name, self.current, self.vjp = fire, name, current, None
        self.rates = getattr(fire, "rates", None)

    def __call__(self, population, current):
        if population != self.name:
            return self.fire(population, current)
        value, self.vjp = self.fire(population, current + self.current)
        return value, self.vjp

    def bounds(self, population):
        return neuron.UNKNOWN if population == self.name else neuron.bounds(self.fire, population)
