"""Make the bundled teacher anew: a 4 x 128 BERT with its own WordPiece vocabulary, taught by a fine-tuned MiniLM.

    python tools/make_weights.py --teacher runs/minilm --data GLUE/SST-2 weights/text --corpus CORPUS/*.txt \
        --output-dir runs/bundled-teacher

1. A WordPiece tokenizer is trained on the training texts of all tasks and the corpus.
2. Every piece starts from the teacher's embedding of it, projected on the leading principal components.
3. The small BERT learns the teacher's logits, and by a linear map its mean last hidden state, on the training texts and
   on texts made from them by cutting and joining. No dev or test sentence is read but to report the accuracy.

What it writes (config.json, model.safetensors as float16, tokenizer.json) is copied to weights/teacher.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanospike.arrays import ops
from nanospike.arrays.backend import library, random_generator, to_device, to_host
from nanospike.arrays.tree import child, leaves, nest, summed
from nanospike.arrays.workers import Workers
from nanospike.config.models import BertConfig
from nanospike.config.options import option, parse
from nanospike.data.tasks import find_task, read_split, score
from nanospike.data.text import Encoded, collate, encode, in_length_order, read_lines
from nanospike.data.tokenizer import SPECIAL_TOKENS, bert_template, load_tokenizer
from nanospike.files.model_files import placed, replacing, write_json
from nanospike.finetune import dropping
from nanospike.model import bert
from nanospike.model.bert import Flow
from nanospike.model.loss import logits_loss
from nanospike.model.teacher import Teacher, load_teacher
from nanospike.results.inference import teacher_logits
from nanospike.start import begin, command
from nanospike.training.loop import Run, Stage
from nanospike.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class MakeWeights(TrainingOptions):
    """Train the small BERT that the package brings along."""

    teacher: Path = option("directory of the fine-tuned BERT that teaches")
    data: tuple[Path, ...] = option("directories with train.tsv and dev.tsv: columns sentence, label (0 or 1)")
    corpus: tuple[Path, ...] = option("general text for the vocabulary, a paragraph a line", ())
    vocabulary: int = option("word pieces", 8000)
    hidden_size: int = option("width", 128)
    encoders: int = option("encoders", 4)
    heads: int = option("attention heads", 4)
    positions: int = option("longest text, in word pieces", 128)
    spliced: int = option("texts made by cutting and joining training texts", 60000)
    temperature: float = option("temperature of the logits", 1.0)
    states: float = option("weight of the teacher's mean last hidden state in the loss", 0.5)
    dropout: float = option("dropout probability", 0.1)


def train_tokenizer(texts, size, length_limit=100):
    """A lower-casing BERT WordPiece tokenizer of `size` pieces."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=length_limit))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL_TOKENS),
            continuing_subword_prefix="##",
            limit_alphabet=100,
            show_progress=False,
        ),
    )
    tokenizer.post_processor = bert_template(tokenizer.get_vocab())
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def projected_embeddings(tokenizer, teacher, their_tokenizer, width, texts):
    """(V, width): each piece's embedding in the teacher (the mean of its pieces there), on the principal components of
    the pieces as often as they occur."""
    theirs = to_host(teacher.tree["embeddings"]["word_embeddings"]["weight"]).astype(float)
    their_vocabulary = their_tokenizer.get_vocab()
    rows = np.zeros((tokenizer.get_vocab_size(), theirs.shape[1]))
    for piece, i in tokenizer.get_vocab().items():
        ids = [their_vocabulary[piece]] if piece in their_vocabulary else _respelled(piece, their_tokenizer)
        rows[i] = theirs[ids].mean(axis=0)
    counts = np.bincount(np.concatenate(encode(tokenizer, texts, 128).ids), minlength=len(rows)) ** 0.5
    centre = (counts[:, None] * rows).sum(axis=0) / counts.sum()
    _, _, directions = np.linalg.svd((rows - centre) * np.sqrt(counts)[:, None], full_matrices=False)
    projected = (rows - centre) @ directions[:width].T
    return projected / projected.std() * 0.5


def _respelled(piece, tokenizer):
    """The teacher's word pieces for the letters of a piece that its vocabulary lacks."""
    continued = piece.startswith("##")
    ids = tokenizer.encode(piece.removeprefix("##"), add_special_tokens=False).ids
    if continued and ids:
        inner = tokenizer.id_to_token(ids[0])
        ids = [tokenizer.token_to_id("##" + inner) or ids[0], *ids[1:]]
    return ids or [tokenizer.token_to_id("[UNK]")]


def small_bert(options, embeddings, seed):
    config = BertConfig(
        vocab_size=len(embeddings),
        hidden_size=options.hidden_size,
        num_hidden_layers=options.encoders,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.hidden_size,
        max_position_embeddings=options.positions,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
    )
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in bert.parameter_shapes(config, labels=2, pooler=True).items():
        fresh = np.ones(shape) if "LayerNorm.weight" in name else np.zeros(shape)
        if not name.endswith("bias") and "LayerNorm" not in name:
            spread = 0.1 if "embeddings" in name else 1 / np.sqrt(shape[-1])
            spread *= 0.5 if ".query." in name or ".key." in name else 1  # attention starts even
            fresh = spread * rng.standard_normal(shape)
        tensors[name] = fresh.astype(np.float32)
    tensors["embeddings.word_embeddings.weight"] = embeddings.astype(np.float32)
    return Teacher(config, nest(placed(tensors, options.device, np.float32)), options.device)


def splice(texts, count, seed):
    """New texts: a part of one, or the end of one after the beginning of another."""
    rng = np.random.default_rng(seed)
    made = []
    for i, j in rng.integers(0, len(texts), (count, 2)):
        first, second = texts[i].split(), texts[j].split()
        cut = first[: rng.integers(1, len(first) + 1)]
        made.append(" ".join(cut + second[rng.integers(0, len(second)) :]) if rng.random() < 0.5 else " ".join(cut))
    return list(dict.fromkeys(made))


def mean_state(hidden, mask):
    """Mean over real tokens, and its vjp.   hidden (B, L, D), mask (B, L)  ->  (B, D)"""
    share = (mask / mask.sum(axis=1, keepdims=True)).astype(hidden.dtype)[:, :, None]
    return (hidden * share).sum(axis=1), lambda d: d[:, None, :] * share


def soft_targets(teacher, data, workers, batch_size=64):
    """(n, C + E): the teacher's logits, and its mean last hidden state in units of its spread, of all examples."""

    def of(index):
        batch = collate(data, index, teacher.device)
        out = teacher(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        states, _ = mean_state(out.hidden_states[-1], batch.attention_mask)
        return index, np.concatenate([to_host(out.logits), to_host(states)], axis=1)

    found = workers.map(of, in_length_order(data, batch_size))
    rows = np.zeros((len(data), found[0][1].shape[1]), np.float32)
    for index, values in found:
        rows[index] = values
    states = rows[:, -teacher.config.hidden_size :]
    states -= states.mean(axis=0)
    states /= states.std(axis=0)
    return rows


def gradients(student, state_map, options, workers):
    """Stage.gradients of the soft cross-entropy of logits and the squared error of the mapped mean states.

    The targets (see soft_targets) stand in as labels.
    """
    xp = library(options.device)
    labels = student.config.num_labels

    def part(batch, seed, totals):
        generator = random_generator(xp, seed)
        drop = dropping(options.dropout, generator)
        inputs = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        out, vjp = student.forward(inputs, Flow(drop=drop, drop_attention=drop))
        value, loss_vjp = logits_loss(out.logits, batch.labels[:, :labels], options.temperature, totals)
        states, states_vjp = mean_state(out.hidden_states[-1], batch.attention_mask)
        mapped, map_vjp = ops.linear(states, **state_map)
        error, grads = mapped - batch.labels[:, labels:], {}
        numbers = totals.examples * error.shape[1]
        dstates = map_vjp(error * (2 * options.states / numbers), child(grads, "state_map"))
        dhidden = [None] * options.encoders + [states_vjp(dstates)]
        vjp(dhidden, None, loss_vjp(1.0), grads)
        terms = {"logits": value, "states": options.states * (error * error).sum() / numbers}
        return terms, dict(leaves(grads))

    def step(batches, seed, totals):
        jobs = [(batch, (*seed, i), totals) for i, batch in enumerate(batches)]
        found = workers.map(lambda job: part(*job), jobs)
        terms = {name: sum(t[name] for t, _ in found) for name in found[0][0]}
        return terms, summed([grads for _, grads in found], workers), lambda: {"mean_rate": None}

    return step


def main(argv=None):
    options = parse(MakeWeights, argv, prog="python tools/make_weights.py")
    task = find_task("sst-2")  # the columns and the classes of all of them
    teacher, their_tokenizer = load_teacher(options.teacher, options.device), load_tokenizer(options.teacher)
    sets = {d: [read_split(task, d, s) for s in ("train", "dev")] for d in options.data}
    train = [text for of_train, _ in sets.values() for text in of_train.texts]
    general = read_lines(options.corpus) if options.corpus else []
    begin(options)
    tokenizer = train_tokenizer([*train, *general], options.vocabulary)
    tokenizer.save(str(options.output_dir / "tokenizer.json"))
    texts = [*train, *splice(train, options.spliced, options.seed)]
    cache = options.output_dir / "targets.npy"
    if not cache.exists():
        encoded = encode(their_tokenizer, texts, options.max_length)
        targets = soft_targets(teacher, encoded, Workers(options.workers, options.device))
        with replacing(cache) as temporary, open(temporary, "wb") as file:
            np.save(file, targets)
    targets = np.load(cache)
    embeddings = projected_embeddings(tokenizer, teacher, their_tokenizer, options.hidden_size, texts)
    student = small_bert(options, embeddings, options.seed)
    data = encode(tokenizer, texts, options.positions)
    data = Encoded(data.ids, data.types, targets)
    width = teacher.config.hidden_size
    state_map = {
        "weight": to_device(np.eye(width, options.hidden_size, dtype=np.float32), options.device),
        "bias": to_device(np.zeros(width, np.float32), options.device),
    }
    parameters = student.parameters() | {f"state_map.{n}": p for n, p in state_map.items()}
    job = Run(options, parameters)
    learn = gradients(student, state_map, options, job.workers)
    job.train([Stage("finetune", data, learn, options.epochs, options.learning_rate)])
    student.raw_config = {"id2label": task.id2label}
    student.save(options.output_dir, "float16")
    results = {}
    for directory, (_, dev) in sets.items():
        dev_data = encode(tokenizer, dev.texts, options.positions, dev.labels)
        results[directory.name] = score(task, teacher_logits(student, dev_data), dev_data.labels)
        print(f"{directory.name} dev {task.metric} {results[directory.name]:.4f}")
    write_json(options.output_dir / "eval_results.json", {"metric": task.metric, "teacher": results})
    print(f"saved in {options.output_dir}")


if __name__ == "__main__":
    command(lambda: main(sys.argv[1:]))
