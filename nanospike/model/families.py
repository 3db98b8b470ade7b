"""The family of BERT: what its members call the parts of the one graph (bert.py), and the few things that differ.

Inside, every teacher has BERT's names. A member is data: how its config.json and its tensors are called, and flags.
ELECTRA's embedding is a norm and then a projection, where the graph of a student has a norm alone: see
`student_embeddings` for what a student then begins with.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

import numpy as np

from ..arrays.backend import to_host
from ..config.errors import InputError
from ..config.models import BertConfig, TeacherConfig, read_config

TWO_LAYERS = {"pooler.dense": "classifier.dense", "classifier": "classifier.out_proj"}
OUTSIDE = ("classifier", "pre_classifier")  # modules that are beside the encoder, not in it, where there is a head
SECOND = 2  # segments of a model that has none: those of the student that learns from it


@dataclass(frozen=True, kw_only=True)
class Family:
    """A member. All names of modules and settings are {ours, BERT's: theirs}; those that are not there are the same.

    architecture: the beginning of its classes' names. prefix: of its encoder, in a file with a head. layers: where its
    layers are. modules: of a layer. head: of the head. settings: of config.json. defaults: what a config.json means
    that does not say it. segments: whether it has any. from_padding: positions count real tokens from the row after
    that of padding. head_act: between the two layers of its head. pooled: its classifier always has two layers.
    """

    model_type: str
    architecture: str
    prefix: str
    layers: str = "encoder.layer"
    modules: Mapping = field(default_factory=dict)
    head: Mapping = field(default_factory=dict)
    settings: Mapping = field(default_factory=dict)
    defaults: Mapping = field(default_factory=dict)
    segments: bool = True
    from_padding: bool = False
    head_act: str = "tanh"
    pooled: bool = True

    def their_name(self, ours):
        """Of a tensor, without the prefix."""
        module, _, kind = ours.rpartition(".")
        if module.startswith("encoder.layer."):
            number, _, part = module.removeprefix("encoder.layer.").partition(".")
            return f"{self.layers}.{number}.{self.modules.get(part, part)}.{kind}"
        return f"{self.head.get(module, module)}.{kind}"

    def file_names(self, names):
        """{ours: theirs} of all tensors of a model, with the prefix if there is a classifier."""
        prefix = self.prefix if "classifier.weight" in names else ""
        theirs = {name: self.their_name(name) for name in names}
        return {n: t if t.startswith(OUTSIDE) else prefix + t for n, t in theirs.items()}

    def our_name(self, theirs):
        """Of a tensor, without the prefix; None for one that has no place, such as RoBERTa's own pooler."""
        module, _, kind = theirs.rpartition(".")
        if module.startswith(self.layers + "."):
            number, _, part = module.removeprefix(self.layers + ".").partition(".")
            return f"encoder.layer.{number}.{_inverse(self.modules).get(part, part)}.{kind}"
        heads = _inverse(self.head)
        return None if module in self.head and module not in heads else f"{heads.get(module, module)}.{kind}"

    def our_tensors(self, tensors):
        """{name: tensor} under BERT's names, from those of hugging_face_names."""
        named = {self.our_name(name): tensor for name, tensor in tensors.items()}
        return {name: tensor for name, tensor in named.items() if name is not None}

    def config(self, raw, labels, where):
        """The TeacherConfig of a config.json."""
        values = dict(self.defaults) | raw
        values |= {ours: values[theirs] for ours, theirs in self.settings.items() if theirs in values}
        own = {"segments": self.segments, "head_act": self.head_act, "num_labels": labels}
        own["embedding_size"] = values.get("embedding_size", 0)
        own["first_position"] = self._first_position(values, where)
        if not self.segments:
            own["type_vocab_size"] = SECOND
        return read_config(TeacherConfig, values | own, where)

    def _first_position(self, values, where):
        padding = values.get("pad_token_id")
        if not self.from_padding:
            return 0
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise InputError(f"{where}: pad_token_id: found {padding!r}, expected a whole number of at least 0")
        return padding + 1

    def raw_config(self, config, headed):
        """What a config.json says of a model of this family. headed: whether it has a classifier."""
        values = {f.name: getattr(config, f.name) for f in fields(BertConfig)}
        if not self.segments:
            del values["type_vocab_size"]
        named = {self.settings.get(n, n): v for n, v in values.items()}
        if config.embedding_size != config.hidden_size:
            named["embedding_size"] = config.embedding_size
        classes = f"{self.architecture}{'ForSequenceClassification' if headed else 'Model'}"
        return named | {"model_type": self.model_type, "architectures": [classes]}


def _inverse(names):
    return {theirs: ours for ours, theirs in names.items()}


BERT = Family(model_type="bert", architecture="Bert", prefix="bert.", pooled=False)
DISTILBERT = Family(
    model_type="distilbert",
    architecture="DistilBert",
    prefix="distilbert.",
    layers="transformer.layer",
    modules={
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    },
    head={"pooler.dense": "pre_classifier"},
    settings={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    segments=False,
    head_act="relu",
)
ROBERTA = {"prefix": "roberta.", "head": TWO_LAYERS, "defaults": {"pad_token_id": 1}, "from_padding": True}
FAMILIES = {
    f.model_type: f
    for f in (
        BERT,
        DISTILBERT,
        Family(model_type="roberta", architecture="Roberta", **ROBERTA),
        Family(model_type="xlm-roberta", architecture="XLMRoberta", **ROBERTA),
        Family(model_type="camembert", architecture="Camembert", **ROBERTA),
        Family(
            model_type="electra",
            architecture="Electra",
            prefix="electra.",
            head=TWO_LAYERS,
            defaults={"embedding_size": 128},
            head_act="gelu",
        ),
    )
}


def family_of(raw, where):
    """The Family that a config.json names; BERT, if it names none."""
    name = raw.get("model_type", "bert")
    if not isinstance(name, str) or name not in FAMILIES:
        raise InputError(f"{where}: model_type: found {name!r}, expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def student_shape(config):
    """BERT's part of the configuration of a student of the same sizes as a teacher of this TeacherConfig."""
    values = asdict(config) | {"max_position_embeddings": config.usable_positions}
    return {f.name: values[f.name] for f in fields(BertConfig)}


def student_embeddings(teacher):
    """{name: NumPy array} of the embedding that a student of the same sizes begins with.

    Word and segment rows and the norm are the teacher's, positions those of real tokens; a teacher without segments
    gives rows of zeros. A teacher that projects after its norm (ELECTRA) gives rows that are projected with the norm's
    gain, and a norm of one gain, at which currents are as large as the teacher's: the student normalises the projected
    rows, the teacher before it projects. These two are not the same function, and training takes care of the rest.
    """
    p, config = teacher.tree["embeddings"], teacher.config
    rows = {n: to_host(p[n]["weight"]) for n in ("word_embeddings", "position_embeddings") if n in p}
    rows["position_embeddings"] = rows["position_embeddings"][config.first_position :]
    like = rows["word_embeddings"]
    segments = to_host(p["token_type_embeddings"]["weight"]) if config.segments else np.zeros((SECOND, like.shape[1]))
    rows["token_type_embeddings"] = segments.astype(like.dtype)
    gain, shift = (to_host(p["LayerNorm"][n]) for n in ("weight", "bias"))
    if "embeddings_project" in teacher.tree:
        weight, bias = (to_host(teacher.tree["embeddings_project"][n]) for n in ("weight", "bias"))
        rows = {n: r @ (weight * gain).T for n, r in rows.items()}
        size = np.sqrt(np.square(weight * gain).sum() / len(weight))  # of what a row of variance 1 becomes
        gain, shift = np.full(len(weight), size, like.dtype), weight @ shift + bias
    tensors = {f"embeddings.{n}.weight": r for n, r in rows.items()}
    return tensors | {"embeddings.LayerNorm.weight": gain, "embeddings.LayerNorm.bias": shift}
