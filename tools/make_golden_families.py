"""Write the golden reference vectors of BERT's family in tests/golden/families with Hugging Face transformers.

Like tools/make_golden.py, and in the same scratch environment (with sentencepiece and protobuf for XLM-RoBERTa's
tokenizer): an independent implementation to compare with, which the project itself never imports. Made with
torch 2.13.0 (CPU) and transformers 4.57.1.

    golden_env/bin/pip install sentencepiece protobuf
    golden_env/bin/python tools/make_golden_families.py

It writes, for each of distilbert, roberta, xlm-roberta and electra:

NAME/              a ...ForSequenceClassification with random float32 weights, in Hugging Face's layout
NAME.safetensors   input_ids, attention_mask, token_type_ids (B, L), labels (B,) int64; then, in float64:
                   hidden_states.N, attention_scores.N, logits, loss, grad.NAME, as in tools/make_golden.py
roberta/           with vocab.json and merges.txt of a byte-level BPE; xlm-roberta/ with tokenizer.json of a Unigram
tokens.json        {family: list of text, pair (or null), input_ids} by the slow tokenizers of transformers
"""

import argparse
import io
import json
import math
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaTokenizer,
    XLMRobertaTokenizerFast,
)

SEED = 20261127
LENGTHS = (7, 4, 9)
TEXT = """the movie was not very good , it was bad . is it good ? yes , very . great story !
the quick brown fox jumped over the lazy dog . running runs runner walked walking . the food was cold and the room
was loud , but nobody said a word of it . we laughed all evening and want to go back in spring .""".splitlines()
TEXTS = [
    "the movie was good.",
    "",
    " ",
    "The Café was  LOUD!",
    "straße 中国 ☺ 👩\u200d👧",
    "a<mask> word </s> of <s> it<pad>",
    "running, walked; (jumped)",
    ("is it good?", "yes, very."),
    ("the fox", ""),
    "\tthe\nfood ",
]


def configs():
    """{name: (configuration, class)}; the activations differ, so that each is compared once."""
    size = {"num_labels": 3, "hidden_dropout_prob": 0.1}
    bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    distil = DistilBertConfig(
        vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=12, num_labels=3
    )
    roberta = {"max_position_embeddings": 14, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
    return {
        "distilbert": (distil, DistilBertForSequenceClassification),
        "roberta": (
            RobertaConfig(vocab_size=320, hidden_act="gelu_new", **roberta, **bert, **size),
            RobertaForSequenceClassification,
        ),
        "xlm-roberta": (
            XLMRobertaConfig(vocab_size=62, hidden_act="relu", **roberta, **bert, **size),
            XLMRobertaForSequenceClassification,
        ),
        "electra": (
            ElectraConfig(
                vocab_size=40, embedding_size=10, max_position_embeddings=12, hidden_act="silu", **bert, **size
            ),
            ElectraForSequenceClassification,
        ),
    }


def write_model(directory, config, kind, generator):
    model = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "ayer_norm.weight" in name or "LayerNorm.weight" in name else noise)
    model.save_pretrained(directory)


def batch(config, generator):
    """Ids of different lengths, padded as the model says; segments where it has two."""
    first = 5
    ids = torch.randint(first, config.vocab_size, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]).long()
    ids = torch.where(mask == 1, ids, torch.tensor(config.pad_token_id))
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.randint(0, 2, ids.shape, generator=generator)
    return inputs


def scores_of(model, inputs):
    """(output, each layer's query . key / sqrt(head size) before mask and softmax)."""
    heads, found, hooks = model.config.num_attention_heads, {}, []
    encoder = model.base_model
    layers = encoder.transformer.layer if hasattr(encoder, "transformer") else encoder.encoder.layer
    for i, layer in enumerate(layers):
        attention = getattr(layer.attention, "self", layer.attention)
        for kind, names in (("q", ("query", "q_lin")), ("k", ("key", "k_lin"))):
            module = next(getattr(attention, n) for n in names if hasattr(attention, n))
            hooks.append(module.register_forward_hook(lambda _m, _i, out, key=(i, kind): found.update({key: out})))
    output = model(**inputs, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    return output, [
        split(found[i, "q"]) @ split(found[i, "k"]).mT / math.sqrt(split(found[i, "q"]).shape[-1])
        for i in range(len(layers))
    ]


def write_vectors(directory, kind, path, generator):
    model = kind.from_pretrained(directory, attn_implementation="eager").double().eval()
    inputs, labels = batch(model.config, generator), torch.tensor([2, 0, 1])
    output, scores = scores_of(model, inputs)
    loss = torch.nn.functional.cross_entropy(output.logits, labels)
    loss.backward()
    tensors = inputs | {"labels": labels, "logits": output.logits, "loss": loss}
    tensors |= {f"hidden_states.{i}": state for i, state in enumerate(output.hidden_states)}
    tensors |= {f"attention_scores.{i}": score for i, score in enumerate(scores)}
    tensors |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def write_bpe(directory):
    """vocab.json and merges.txt of a byte-level BPE; the slow tokenizer that reads them."""
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(TEXT, vocab_size=320, min_frequency=1, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(directory))
    return RobertaTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"))


def write_unigram(directory):
    """tokenizer.json of a Unigram; the slow tokenizer, sentencepiece's own, of the same pieces."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=written, vocab_size=60, model_type="unigram", minloglevel=2
    )
    model = directory / "sentencepiece.bpe.model"
    model.write_bytes(written.getvalue())
    XLMRobertaTokenizerFast(str(model)).backend_tokenizer.save(str(directory / "tokenizer.json"))
    slow = XLMRobertaTokenizer(str(model))
    model.unlink()
    return slow


def rows(tokenizer):
    found = []
    for text in TEXTS:
        first, pair = (text, None) if isinstance(text, str) else text
        found.append({"text": first, "pair": pair, "input_ids": tokenizer(first, pair, truncation=False)["input_ids"]})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "tests" / "golden" / "families"
    parser.add_argument("--output", type=Path, default=default, help="folder to write (tests/golden/families)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator, tokens = torch.Generator().manual_seed(SEED), {}
    for name, (config, kind) in configs().items():
        directory = options.output / name
        directory.mkdir(parents=True, exist_ok=True)
        write_model(directory, config, kind, generator)
        write_vectors(directory, kind, options.output / f"{name}.safetensors", generator)
    for name, write in (("roberta", write_bpe), ("xlm-roberta", write_unigram)):
        tokens[name] = rows(write(options.output / name))
    lines = [f"{json.dumps(n)}: [\n" + ",\n".join(json.dumps(r) for r in found) + "\n]" for n, found in tokens.items()]
    (options.output / "tokens.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="ascii")


if __name__ == "__main__":
    main()
