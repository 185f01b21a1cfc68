"""HF `tokenizers` judges the tokenizer: ids, decoded texts and offsets.

Families: SmolLM2 (conftest.py's smol_json), and what scripts/fetch-vocab fetches.
Environment: QL_TOK_TOOL = the helper program tool_tok; QL_SMOL = a SmolLM2-135M GGUF; QL_VOCAB = that directory."""
import json
import os
import pathlib
import subprocess
import unicodedata

import numpy
import pytest

from test_tok_strings import strings, unique_strings

tokenizers = pytest.importorskip("tokenizers")
TOOL = os.environ.get("QL_TOK_TOOL")
SMOL = os.environ.get("QL_SMOL")
VOCAB = os.environ.get("QL_VOCAB")
MANY = 100_000
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_TOK_TOOL is not set")


def ours(kind, path, texts, *options):
    p = subprocess.run([TOOL, kind, path, *options], input=json.dumps(texts).encode(), capture_output=True)
    assert p.returncode == 0, p.stderr.decode()
    return json.loads(p.stdout)


def differing(texts, a, b):
    wrong = [x for x in zip(texts, a, b) if x[1] != x[2]]
    return f"{len(wrong)} of {len(texts)} differ, such as {wrong[0]!r}" if wrong else None


def missing_bytes(path):
    """The bytes that have no token (SmolLM2's vocabulary lacks 21)."""
    present = {t for t in json.loads(path.read_text())["model"]["vocab"] if len(t) == 1}
    alphabet, extra = {}, 0
    for b in range(256):
        plain = 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b
        alphabet[b] = chr(b if plain else 256 + extra)
        extra += not plain
    return {b for b in range(256) if alphabet[b] not in present}


def known_bytes(path, texts):
    """The texts all of whose bytes have a token."""
    missing = missing_bytes(path)
    assert len(missing) == 21
    return [t for t in texts if not missing & set(t.encode())]


def test_smol_from_gguf(smol_json):
    texts = known_bytes(smol_json, strings(12000, seed=2))
    assert len(texts) > 9000
    hf = tokenizers.Tokenizer.from_file(str(smol_json))
    theirs = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    assert not differing(texts, ours("gguf", SMOL, texts, "parse_special"), theirs)


@pytest.fixture(scope="module")
def many():
    texts = unique_strings(MANY, seed=3)
    assert len(set(texts)) == MANY
    return texts, json.dumps(texts).encode()


FAMILIES = ["smollm2", "llama3", "qwen3", "mistral", "gemma3"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """Path of a family's tokenizer.json, and HF's tokenizer of it."""
    if request.param == "smollm2":
        path = request.getfixturevalue("smol_json")
    elif not VOCAB:
        pytest.skip("QL_VOCAB is not set")
    else:
        path = pathlib.Path(VOCAB, request.param, "tokenizer.json")
    return path, tokenizers.Tokenizer.from_file(str(path))


def test_families(family, many, tmp_path):
    """100,000 strings: the same ids, and decoded again the same texts, so decode(encode(x)) = x wherever HF's is."""
    texts, lines = many
    path, hf = family
    out = tmp_path / "ids"
    p = subprocess.run([TOOL, "json", path, "parse_special", "decode", f"ids={out}"], input=lines, capture_output=True)
    assert p.returncode == 0, p.stderr.decode()
    got = numpy.fromfile(out, dtype="<i4")
    ends = numpy.flatnonzero(got == -1)
    decoded = json.loads(p.stdout)
    assert len(ends) == len(decoded) == MANY
    at = wrong = same = 0
    example = None
    for i in range(0, MANY, 10_000):
        ids = [e.ids for e in hf.encode_batch_fast(texts[i:i + 10_000], add_special_tokens=False)]
        for k, (theirs, text) in enumerate(zip(ids, hf.decode_batch(ids, skip_special_tokens=False)), i):
            same += text == texts[k]
            if got[at:ends[k]].tolist() != theirs or decoded[k] != text:
                wrong += 1
                example = example or (texts[k], got[at:ends[k]].tolist(), theirs, decoded[k], text)
            at = ends[k] + 1
    assert wrong == 0, f"{wrong} of {MANY} differ, such as {example!r}"
    assert same > MANY // 2, same


def test_family_affixes(family):
    """What is put around a text (BOS, EOS)."""
    texts = strings(1500, seed=6)
    path, hf = family
    got = ours("json", path, texts, "parse_special", "add_special")
    bos = hf.encode("", add_special_tokens=True).ids
    for text, a, b in zip(texts, got, [e.ids for e in hf.encode_batch(texts, add_special_tokens=True)]):
        if bos and b[:2] == bos * 2:  # a BOS written out in the text: HF doubles it, we do not
            b = b[1:]
        assert a == b, text


def test_offsets(smol_json):
    texts = known_bytes(smol_json, strings(3000, seed=4))
    hf = tokenizers.Tokenizer.from_file(str(smol_json))
    got = ours("json", smol_json, texts, "parse_special", "begin")
    for text, g, e in zip(texts, got, hf.encode_batch(texts, add_special_tokens=False)):
        # HF counts characters; where a token starts inside one, it gives that character
        place, at = {}, 0
        for i, c in enumerate(text):
            for _ in c.encode():
                place[at] = i
                at += 1
        assert [place[b] for b in g["begin"]] == [o[0] for o in e.offsets], text


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NO_REGEX = dict(BYTES, use_regex=False)


def split(pattern, behaviour="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behaviour, "invert": invert}


VARIANTS = {
    "plain": {},
    "ignore_merges": {"model": {"ignore_merges": True}},
    "unk": {"model": {"unk_token": "!", "fuse_unk": False}},
    "fused unk": {"model": {"unk_token": "!", "fuse_unk": True}},
    "NFC": {"normalizer": {"type": "NFC"}},
    "NFKC": {"normalizer": {"type": "NFKC"}},
    "NFD": {"normalizer": {"type": "NFD"}},
    "replace": {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        {"type": "Replace", "pattern": {"String": "the"}, "content": "THE"}, {"type": "Prepend", "prepend": "x"}]}},
    "prefix space": {"pre_tokenizer": dict(BYTES, add_prefix_space=True)},
    "digits": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, BYTES]}},
    **{f"split {b}{' inverted' if i else ''}": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        split({"Regex": "[a-z]+| +"}, b, i), NO_REGEX]}}
       for b in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous") for i in (False, True)},
    "look-ahead": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split({"Regex": "(?=\\d{3})"}), NO_REGEX]}},
    "literal": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split({"String": "."}, "MergedWithNext"), NO_REGEX]}},
    "qwen2": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split({"Regex": (
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")}),
        NO_REGEX]}},
    "gpt-4o": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split({"Regex": (
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")}), NO_REGEX]}},
    "added tokens": {"normalizer": {"type": "NFC"}, "added_tokens": [
        {"id": 49152, "content": "café", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False},
        {"id": 49153, "content": "they've", "single_word": True, "lstrip": False, "rstrip": False, "normalized": False, "special": False},
        {"id": 49154, "content": "|>", "single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": False},
        {"id": 49155, "content": "the time", "single_word": False, "lstrip": False, "rstrip": True, "normalized": True, "special": True}]},
}


def test_word_characters(smol_json, tmp_path):
    """single_word: beside every character but the most numerous letters, an added token is one or is none as in HF."""
    file = json.loads(smol_json.read_text())
    file["added_tokens"].append({"id": 49152, "content": "they've", "single_word": True, "lstrip": False, "rstrip": False,
                                 "normalized": False, "special": False})
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file, ensure_ascii=False))
    chars = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Lo", "Cn", "Co", "Cs")]
    texts = [c + "they've" for c in chars] + ["they've" + c for c in chars]
    hf = tokenizers.Tokenizer.from_file(str(path))
    theirs = [49152 in e.ids for e in hf.encode_batch_fast(texts, add_special_tokens=False)]
    assert 10000 < sum(theirs) < len(theirs) - 10000
    assert not differing(texts, [49152 in ids for ids in ours("json", path, texts, "parse_special")], theirs)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(smol_json, tmp_path, name):
    """Components in combinations, on SmolLM2's vocabulary."""
    file = json.loads(smol_json.read_text())
    change = dict(VARIANTS[name])
    file["model"].update(change.pop("model", {}))
    file["added_tokens"] += change.pop("added_tokens", [])
    file.update(change)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file, ensure_ascii=False))
    texts = strings(3000, seed=5)
    if name.startswith("NF"):  # the normal forms of characters newer than the system's libraries may differ
        texts = [t for t in texts if all(unicodedata.category(c) != "Cn" for c in t)]
    hf = tokenizers.Tokenizer.from_file(str(path))
    theirs = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    assert not differing(texts, ours("json", path, texts, "parse_special"), theirs)
