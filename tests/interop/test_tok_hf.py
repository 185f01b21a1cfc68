"""HF `tokenizers` judges the tokenizer: ids, decoded texts and offsets.

SmolLM2: the vocabulary and merges of the GGUF in a tokenizer.json with Sequence[Digits(individual), ByteLevel(regex)].
(AutoTokenizer from the GGUF is wrong: it forgets the digit split.)
Environment: QL_TOK_TOOL = the helper program tool_tok; QL_SMOL = a SmolLM2-135M GGUF;
QL_TOK_JSONS = tokenizer.json files to compare as well (optional, separated by ':'); QL_TOK_N = strings for each."""
import json
import os
import subprocess
import unicodedata

import pytest

from test_tok_strings import strings

tokenizers = pytest.importorskip("tokenizers")
TOOL = os.environ.get("QL_TOK_TOOL")
SMOL = os.environ.get("QL_SMOL")
JSONS = [f for f in os.environ.get("QL_TOK_JSONS", "").split(":") if f]
N = int(os.environ.get("QL_TOK_N", "12000"))
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_TOK_TOOL is not set")


def ours(kind, path, texts, *options):
    p = subprocess.run([TOOL, kind, path, *options], input=json.dumps(texts).encode(), capture_output=True)
    assert p.returncode == 0, p.stderr.decode()
    return json.loads(p.stdout)


def differing(texts, a, b):
    wrong = [x for x in zip(texts, a, b) if x[1] != x[2]]
    return f"{len(wrong)} of {len(texts)} differ, such as {wrong[0]!r}" if wrong else None


@pytest.fixture(scope="module")
def smol_json(tmp_path_factory):
    if not SMOL:
        pytest.skip("QL_SMOL is not set")
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(SMOL).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    out = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                          "special": True} for i, (t, k) in enumerate(zip(tokens, types)) if k == 3],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)},
                  "merges": fields["tokenizer.ggml.merges"].contents()},
    }
    path = tmp_path_factory.mktemp("smol") / "tokenizer.json"
    path.write_text(json.dumps(out, ensure_ascii=False))
    return path


def known_bytes(path, texts):
    """The texts all of whose bytes have a token (SmolLM2's vocabulary lacks 21)."""
    present = {t for t in json.loads(path.read_text())["model"]["vocab"] if len(t) == 1}
    alphabet, extra = {}, 0
    for b in range(256):
        plain = 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b
        alphabet[b] = chr(b if plain else 256 + extra)
        extra += not plain
    missing = {b for b in range(256) if alphabet[b] not in present}
    assert len(missing) == 21
    return [t for t in texts if not missing & set(t.encode())]


def test_smol_from_gguf(smol_json):
    texts = known_bytes(smol_json, strings(N, seed=2))
    assert len(texts) > 0.8 * N and len(texts) >= min(N, 10000) * 0.8
    hf = tokenizers.Tokenizer.from_file(str(smol_json))
    theirs = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    assert not differing(texts, ours("gguf", SMOL, texts, "parse_special"), theirs)


def compare(path, n):
    texts = strings(n, seed=3)
    hf = tokenizers.Tokenizer.from_file(str(path))
    theirs = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    assert not differing(texts, ours("json", path, texts, "parse_special"), theirs)
    with_special = [e.ids for e in hf.encode_batch(texts[:500], add_special_tokens=True)]
    got = ours("json", path, texts[:500], "parse_special", "add_special")
    bos = hf.encode("", add_special_tokens=True).ids
    for text, a, b in zip(texts, got, with_special):
        if bos and b[:2] == bos * 2:  # a BOS written out in the text: HF doubles it, we do not
            b = b[1:]
        assert a == b, text
    decoded = hf.decode_batch(theirs, skip_special_tokens=False)
    assert not differing(texts, ours("json", path, texts, "parse_special", "decode"), decoded)


def test_smol_from_json(smol_json):
    compare(smol_json, N)


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


@pytest.mark.parametrize("path", JSONS or [None])
def test_real_files(path):
    if path is None:
        pytest.skip("QL_TOK_JSONS is not set")
    compare(path, N)


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
