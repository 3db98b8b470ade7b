"""Write the golden reference vectors in tests/golden with Hugging Face transformers and PyTorch.

The project itself never imports torch or transformers: this program is an independent implementation
to compare with, run by hand in a scratch environment. Made with torch 2.13.0 (CPU) and transformers 4.57.1;
transformers 5 no longer has the slow, pure-Python BertTokenizer that is the reference here.

    python -m venv golden_env
    golden_env/bin/pip install torch
    golden_env/bin/pip install transformers==4.57.1 safetensors numpy
    golden_env/bin/python tools/make_golden.py [--minilm DIRECTORY_OF_ALL_MINILM_L6_V2]

It writes, below --output (tests/golden of this repository unless told otherwise):

tiny_bert/             a BertForSequenceClassification with random float32 weights, and its vocabulary
tiny_bert.safetensors  input_ids, attention_mask, token_type_ids (B, L), labels (B,) int64; then, in float64:
                       hidden_states.N (B, L, hidden), N = 0 the embeddings; attention_scores.N
                       (B, heads, L, L): query . key / sqrt(head size) before mask and softmax;
                       logits (B, labels); loss (), the mean cross-entropy;
                       grad.NAME, the gradient of the loss with respect to every parameter NAME
tokens.json            a list of text, pair (or null), input_ids, token_type_ids (special tokens, not cut)
minilm.json            only with --minilm: for each flattened (C order) float64 tensor of one unpadded example
                       the `values` at `indices`, and mean, std (population) and l2 of the whole tensor
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

SEED = 20240607
SAMPLES = 24  # values stored for each tensor of the large model
DIGITS = 12  # significant digits of those values

VOCABULARY = """
[PAD] [UNK] [CLS] [SEP] [MASK] . , ! ? ' " - ( ) : ; / $ % & # @ 0 1 2 7 9 a b c d e i o s t u x z
the of and to in is was it that this for not very good bad movie film story great no yes we you they he
run walk play un re over cafe naive hotel service food love hate time day quick brown fox jump dog lazy
##s ##ed ##ing ##ly ##er ##est ##able ##ness ##un ##a ##b ##e ##i ##n ##o ##t
##0 ##1 ##9 ##play ##lov 中 国 人 ß ☺
""".split()

EXAMPLES = [  # texts or (text, pair) of different lengths, and their labels
    ("the movie was not very good, it was bad.", 2),
    (("is it good?", "yes, very."), 0),
    ("great story!", 1),
]

TEXTS = [
    "",
    " ",
    "the",
    "the quick brown fox jumped over the lazy dog.",
    "The QUICK Brown FOX!",
    "running runs runner walked walking",
    "unlovable unplayable replayed replays",
    "goodness loveliest quickly",
    "café naïve CAFÉ NAÏVE",
    "cafe\u0301 nai\u0308ve",
    "Ångström ÀÉÎÕÜ ñ ç",
    "straße ß ẞ",
    "İt ıt ǅ ﬁlm ﬀ",
    "ΣΑΣ привет שלום مرحبا हिन्दी",
    "中国人",
    "the中国good人is",
    "日本語 中文 カタカナ 한국어",
    "中國 𠀀 豈",
    "\tthe\tmovie\n\nwas\r\ngood\t",
    "the\u00a0movie\u2003was\u3000good\u2028yes\u200bno",
    "go\u0000od mo\u0007vie the\u007f st\u0085ory \ufffdfilm\ufeff",
    "soft\u00adly the\u200d dog\u200e",
    "good ☺ great 😀 👩\u200d👩\u200d👧 ❤️ 🇨🇳",
    "☺☺good☺",
    "!!!...???",
    "it's not (very) good: 'bad' - \"no\"; yes/no, $9 & 10% #1 @you",
    "“the” ‘movie’ — was… good–bad ¿no? ¡yes! «film»",
    "a+b=c <d> e^x ~z` |t| [a] {b} _s_ \\o/",
    "[ MASK ] [mask] (SEP)",
    "$€£¥ §7 ©2 ™ ° ½ ² ①",
    "1 10 100 1999 7.9 -2 1,000,000 ７９",
    "x" * 100,
    "a" * 100,
    "a" * 101,
    "the " + "unplayable" * 11 + " good",
    "e\u0301" * 60 + " was e" + "\u0301" * 120,
    "the lazy dog and the quick fox, " * 60,
    "qwrtpk good qwrtpk!",
    ("is the food good?", "yes, very."),
    ("The Café", "中国 good\tfilm"),
    ("", "the dog"),
    ("the dog", ""),
    ("qq ww", "ééé !"),
    ("the lazy dog " * 20, "and the quick fox " * 20),
    "the [MASK] was good [SEP] it was [UNK]",
]

SENTENCES = [
    "A thoughtful, beautifully acted film that stays with you.",
    "The café's service was slow; I won't be going back!",
    "Rain.",
    ("How many people live in Berlin?", "Berlin had 3,520,031 registered inhabitants in 2015."),
]


def write_directory(directory):
    """Write the small model with its vocabulary into `directory`."""
    assert len(set(VOCABULARY)) == len(VOCABULARY), "a piece is in the vocabulary twice"
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        type_vocab_size=2,
        num_labels=3,
        layer_norm_eps=1e-12,
    )
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if name.endswith("LayerNorm.weight") else noise)
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "model_max_length": 40, "tokenizer_class": "BertTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def encode(tokenizer, text, **options):
    """Ids and segment ids of a text or of a (text, pair), with special tokens and without truncation."""
    return tokenizer(*([text] if isinstance(text, str) else text), truncation=False, **options)


def forward_with_scores(model, inputs):
    """The model's output, and each layer's scores: query . key / sqrt(head size), before mask and softmax."""
    heads, projections, hooks = model.config.num_attention_heads, {}, []

    def keep(key):
        return lambda _module, _inputs, output: projections.update({key: output})

    for i, layer in enumerate(model.base_model.encoder.layer):
        for kind in ("query", "key"):
            hooks.append(getattr(layer.attention.self, kind).register_forward_hook(keep((i, kind))))
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    for hook in hooks:
        hook.remove()
    scores = []
    for i, expected in enumerate(output.attentions):
        q, k = (projections[i, kind].unflatten(-1, (heads, -1)).transpose(1, 2) for kind in ("query", "key"))
        scores.append(q @ k.mT / math.sqrt(q.shape[-1]))
        masked = scores[i].masked_fill(inputs["attention_mask"][:, None, None] == 0, -torch.inf)
        torch.testing.assert_close(masked.softmax(-1), expected, rtol=1e-10, atol=1e-12)
    return output, scores


def write_tensors(directory, tokenizer, path):
    """Inputs, and the small model's hidden states, scores, logits, loss and gradients in float64."""
    model = BertForSequenceClassification.from_pretrained(directory, attn_implementation="eager")
    model = model.double().eval()  # eval: no dropout
    texts, labels = zip(*EXAMPLES, strict=True)
    encoded = [encode(tokenizer, text, padding=False) for text in texts]
    inputs = dict(tokenizer.pad(encoded, padding="longest", return_tensors="pt"))
    labels = torch.tensor(labels)
    output, scores = forward_with_scores(model, inputs)
    loss = torch.nn.functional.cross_entropy(output.logits, labels)
    loss.backward()
    tensors = inputs | {"labels": labels, "logits": output.logits, "loss": loss}
    tensors |= {f"hidden_states.{i}": state for i, state in enumerate(output.hidden_states)}
    tensors |= {f"attention_scores.{i}": score for i, score in enumerate(scores)}
    tensors |= {f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


def write_json(path, rows):
    """A JSON list with one row to a line, in ASCII."""
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="ascii")


def write_tokens(tokenizer, path):
    rows = []
    for text in TEXTS:
        first, pair = (text, None) if isinstance(text, str) else text
        encoded = encode(tokenizer, text)
        rows.append({"text": first, "pair": pair} | {n: encoded[n] for n in ("input_ids", "token_type_ids")})
    write_json(path, rows)


def rounded(number):
    return float(f"{float(number):.{DIGITS}g}")


def summary(tensor, indices):
    """The values at the flat `indices`, and statistics of the whole tensor."""
    flat = tensor.detach().flatten()
    return {
        "values": [rounded(v) for v in flat[indices]],
        "mean": rounded(flat.mean()),
        "std": rounded(flat.std(correction=0)),
        "l2": rounded(flat.norm()),
    }


@torch.no_grad()
def write_minilm(source, path):
    """Samples of the hidden states and scores of the model in `source`, one unpadded example at a time."""
    model = BertModel.from_pretrained(source, attn_implementation="eager").double().eval()
    tokenizer = BertTokenizer.from_pretrained(source)
    generator = torch.Generator().manual_seed(SEED)
    rows = []
    for text in SENTENCES:
        first, pair = (text, None) if isinstance(text, str) else text
        inputs = dict(encode(tokenizer, text, return_tensors="pt"))
        row = {"text": first, "pair": pair}
        row |= {n: inputs[n][0].tolist() for n in ("input_ids", "token_type_ids")}
        output, scores = forward_with_scores(model, inputs)
        for name, tensors in (("hidden_states", output.hidden_states), ("attention_scores", scores)):
            indices = torch.randperm(tensors[0].numel(), generator=generator)[:SAMPLES].sort().values
            row[name] = {
                "shape": list(tensors[0].shape),
                "indices": indices.tolist(),
                "layers": [summary(tensor, indices) for tensor in tensors],
            }
        rows.append(row)
    write_json(path, rows)


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    default = Path(__file__).resolve().parent.parent / "tests" / "golden"
    parser.add_argument("--output", type=Path, default=default, help="folder to write (tests/golden)")
    parser.add_argument("--minilm", type=Path, help="directory of all-MiniLM-L6-v2, for minilm.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    directory = options.output / "tiny_bert"
    directory.mkdir(parents=True, exist_ok=True)
    write_directory(directory)
    tokenizer = BertTokenizer.from_pretrained(directory)
    write_tensors(directory, tokenizer, options.output / "tiny_bert.safetensors")
    write_tokens(tokenizer, options.output / "tokens.json")
    if options.minilm:
        write_minilm(options.minilm, options.output / "minilm.json")


if __name__ == "__main__":
    main()
