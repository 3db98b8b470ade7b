"""The tokenizer of a model's directory: what transformers would make of its files, or a refusal that names one of them.

Its classes for BERT (versions 4 and 5) read tokenizer.json, but take letter case, accents and Chinese characters from
tokenizer_config.json, where what is not said is the default of BERT; its general classes take tokenizer.json as it is.
"""

import json
import warnings
from pathlib import Path

from ..config.errors import InputError
from ..files.model_files import read_json, replacing
from .tables import file_text, lines_of

SETTINGS = "tokenizer_config.json"
# key of tokenizer_config.json: (that of a BertNormalizer, values, default)
CLEANING = {
    "do_lower_case": ("lowercase", (True, False), True),
    "strip_accents": ("strip_accents", (True, False, None), None),  # None: as the letter case
    "tokenize_chinese_chars": ("handle_chinese_chars", (True, False), True),
}
ROLES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
SPECIAL_TOKENS = tuple(ROLES.values())
LIKE_BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
AS_IT_STANDS = ("PreTrainedTokenizer", "TokenizersBackend")
NO_FILE = ("BertJapaneseTokenizer", "BertweetTokenizer", "PhobertTokenizer", "BertGenerationTokenizer")
BYTE_LEVEL = ("RobertaTokenizer", "CamembertTokenizer")  # vocab.json and merges.txt
BYTE_LEVEL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MOST_IDS = 2**24  # where nothing is known of the model
STRANGE = "\u0378\ue000 q"  # of no script: an unknown piece, if there is one


def load_tokenizer(directory, vocabulary=None):
    """The `tokenizers.Tokenizer` of a Hugging Face directory: tokenizer.json, or a BERT one made of vocab.txt, or a
    RoBERTa one made of vocab.json and merges.txt.

    InputError for one that does not put a piece before and after a text, cannot encode every text, or has an id beyond
    the `vocabulary` word pieces of the model.
    """
    try:
        return _loaded(Path(directory), vocabulary)
    except UnicodeEncodeError as error:
        raise InputError(f"{directory}: half a surrogate pair in a file of its tokenizer: {error.object!r}") from None


def _loaded(directory, vocabulary):
    settings = _settings(directory / SETTINGS)
    kind = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    if kind in NO_FILE:
        raise InputError(f"{directory / SETTINGS}: tokenizer_class: {kind} splits words by a program of its own")
    path = directory / "tokenizer.json"
    if path.exists():
        tokenizer = _from_file(path)
        if kind in LIKE_BERT or not kind:
            _clean_as(tokenizer, settings, path)
    elif (directory / "merges.txt").exists() and (not kind or kind in BYTE_LEVEL):
        path = directory / "vocab.json"
        tokenizer = _byte_level(path, directory / "merges.txt", settings)
    else:
        path = directory / "vocab.txt"
        if not path.exists():
            raise InputError(f"{directory}: found neither tokenizer.json nor vocab.txt, nor vocab.json and merges.txt")
        if kind and kind not in (*LIKE_BERT, *AS_IT_STANDS):
            found = f"found {kind}; vocab.txt alone is for BertTokenizer"
            raise InputError(f"{directory / SETTINGS}: tokenizer_class: {found}")
        tokenizer = _from_vocabulary(path, settings)
    _require_usable(tokenizer, path, settings, vocabulary)
    return tokenizer


def save_tokenizer(tokenizer, directory):
    """Write tokenizer.json, unless the directory has one."""
    path = Path(directory) / "tokenizer.json"
    if not path.exists():
        with replacing(path) as temporary:
            tokenizer.save(str(temporary))


def frame(tokenizer):
    """(first, last): the ids that are put before and after a single text, [CLS] and [SEP] of a BERT."""
    encoded = tokenizer.encode("a")
    return tuple(i for i, added in zip(encoded.ids, encoded.special_tokens_mask, strict=True) if added)


def ids_end(tokenizer):
    """One more than the largest id that the tokenizer can give."""
    special = tokenizer.encode("", "").ids
    return 1 + max(*special, *tokenizer.get_vocab(with_added_tokens=True).values())


def _settings(path):
    """tokenizer_config.json, {} if there is none; InputError where a value of CLEANING is of another type."""
    settings = read_json(path) if path.exists() else {}
    for key, (_, values, default) in CLEANING.items():
        if not any(settings.get(key, default) is value for value in values):
            expected = "true, false or null" if None in values else "true or false"
            raise InputError(f"{path}: {key}: found {settings[key]!r}, expected {expected}")
    return settings


def _from_file(path):
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # the library raises plain Exception, and its panics are not even that
        if not isinstance((described := read_json(path)).get("model"), dict):
            raise InputError(f"{path}: model: found {described.get('model')!r}, expected an object") from None
        raise InputError(f"{path}: not a tokenizer: {error}") from None


def _clean_as(tokenizer, settings, path):
    """Give the BertNormalizer of a tokenizer the settings of tokenizer_config.json; a warning if they were others."""
    from tokenizers import normalizers

    found = _described(tokenizer.normalizer)
    if found.get("type") != "BertNormalizer":
        return
    wanted = {name: settings.get(key, default) for key, (name, _, default) in CLEANING.items()}
    if changed := [key for key, (name, *_) in CLEANING.items() if found[name] is not wanted[name]]:
        told = ", ".join(f"{key} {json.dumps(wanted[CLEANING[key][0]])}" for key in changed)
        source = SETTINGS if all(key in settings for key in changed) else f"{SETTINGS} or BERT's default"
        warnings.warn(f"{path}: normalizer: {source} says otherwise; taken, as transformers does: {told}", stacklevel=3)
        tokenizer.normalizer = normalizers.BertNormalizer(clean_text=found["clean_text"], **wanted)


def _from_vocabulary(path, settings):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    lines = [line for _, line in lines_of(file_text(path))]
    vocabulary = {piece: i for i, piece in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    roles = {role: _content(settings.get(role, piece), piece) for role, piece in ROLES.items()}
    if missing := [roles[r] for r in ("unk_token", "cls_token", "sep_token") if roles[r] not in vocabulary]:
        raise InputError(f"{path}: no {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=roles["unk_token"], max_input_chars_per_word=100))
    wanted = {name: settings.get(key, default) for key, (name, _, default) in CLEANING.items()}
    tokenizer.normalizer = normalizers.BertNormalizer(**wanted)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = bert_template(vocabulary, roles["cls_token"], roles["sep_token"])
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([piece for piece in roles.values() if piece in vocabulary])
    _add_tokens(tokenizer, path.parent, settings)
    return tokenizer


def _byte_level(path, merges, settings):
    """RoBERTa's tokenizer: pieces of bytes; <s> text </s>, or <s> text </s></s> pair </s>, without segments."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary, prefixed = read_json(path), settings.get("add_prefix_space", False)
    if not isinstance(prefixed, bool):
        raise InputError(f"{path.parent / SETTINGS}: add_prefix_space: found {prefixed!r}, expected true or false")
    if missing := [t for t in BYTE_LEVEL_TOKENS[:3] if not isinstance(vocabulary.get(t), int)]:
        raise InputError(f"{path}: no {', '.join(missing)}")
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(path), str(merges)))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}, {merges.name}: not a tokenizer: {error}") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefixed)
    tokenizer.decoder = decoders.ByteLevel()
    first, last = ((t, vocabulary[t]) for t in ("<s>", "</s>"))
    tokenizer.post_processor = processors.RobertaProcessing(last, first, add_prefix_space=prefixed)
    known = [AddedToken(t, lstrip=t == "<mask>", special=True) for t in BYTE_LEVEL_TOKENS if t in vocabulary]
    tokenizer.add_special_tokens(known)
    return tokenizer


def _content(value, default):
    """The text of a special token of tokenizer_config.json, which may be an object."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else default


def _add_tokens(tokenizer, directory, settings):
    """Add the tokens that stand beside vocab.txt; InputError unless their ids go on where its end."""
    from tokenizers import AddedToken

    path = directory / "added_tokens.json"
    known = tokenizer.get_vocab()
    added = read_json(path) if path.exists() else {}
    if not added and isinstance(settings.get("added_tokens_decoder"), dict):
        path, entries = directory / SETTINGS, settings["added_tokens_decoder"]
        added = {_content(e, ""): int(i) if str(i).isdecimal() else -1 for i, e in entries.items()}
    fresh = sorted((i, piece) for piece, i in added.items() if piece not in known and isinstance(i, int))
    if [i for i, _ in fresh] != list(range(len(known), len(known) + len(fresh))):
        raise InputError(f"{path}: found ids {[i for i, _ in fresh][:8]}, expected them to follow {len(known) - 1}")
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for _, piece in fresh])


def bert_template(vocabulary, first="[CLS]", last="[SEP]"):
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with segment ids 0 and 1."""
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(t, vocabulary[t]) for t in (first, last)],
    )


def _described(part):
    """A part of a tokenizer as tokenizer.json has it; {} of None. All of it would have the vocabulary in it, too."""
    return {} if part is None else json.loads(part.__getstate__())


def _require_template(described, path):
    """InputError if a TemplateProcessing names a piece that it does not have: the library would stop at it, loudly."""
    for part in described.get("processors") or [described]:
        if part.get("type") == "TemplateProcessing":
            used = {p["SpecialToken"]["id"] for key in ("single", "pair") for p in part[key] if "SpecialToken" in p}
            if missing := sorted(used - part["special_tokens"].keys()):
                raise InputError(f"{path}: post_processor: no {', '.join(missing)} in its special_tokens")


def _require_usable(tokenizer, path, settings, vocabulary):
    """InputError unless the tokenizer frames its texts, can encode every text, and has no id beyond the vocabulary."""
    from tokenizers.models import WordLevel, WordPiece

    unknown = tokenizer.model.unk_token if isinstance(tokenizer.model, (WordPiece, WordLevel)) else None
    if unknown is not None and tokenizer.token_to_id(unknown) is None:
        raise InputError(f"{path}: model: no {unknown} in the vocabulary, for what is not in it")
    _require_template(_described(tokenizer.post_processor), path)
    try:
        single, pair = tokenizer.encode(STRANGE), tokenizer.encode(STRANGE, STRANGE)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        raise InputError(f"{path}: some texts cannot be encoded: {error}") from None
    mask = single.special_tokens_mask
    if len(frame(tokenizer)) != 2 or mask[0] != 1 or mask[-1] != 1:
        pieces = [tokenizer.id_to_token(i) for i in frame(tokenizer)]
        raise InputError(
            f"{path}: post_processor: puts {pieces or 'nothing'} around a text, expected one piece before it and one "
            "after, such as [CLS] and [SEP]"
        )
    first = _content(settings.get("cls_token"), None)
    if first is not None and tokenizer.token_to_id(first) != single.ids[0]:
        found = f"{tokenizer.id_to_token(single.ids[0])} in {path.name}"
        raise InputError(f"{path.parent / SETTINGS}: cls_token: found {first}, and {found}")
    end, most = ids_end(tokenizer), vocabulary or MOST_IDS
    if end > most:  # the library writes a tokenizer down in memory as large as its ids
        raise InputError(f"{path}: has an id {end - 1}, the model has {most} word pieces (vocab_size)")
    if vocabulary is not None and len(pair.ids) and max(pair.type_ids) > 1:
        raise InputError(f"{path}: post_processor: segment {max(pair.type_ids)}, expected 0 and 1")
