"""The vocabulary of a GGUF export, made from a real tokenizer.json (SmolLM2's by conftest.py, the others as scripts/fetch-vocab gets
them): our GGUF tokenizer and llama.cpp both give Hugging Face's token ids with it.

What GGUF has no key for, and so is left out of the comparison and counted: NFC (Qwen), added tokens for runs of U+2581 written out in
a text (Gemma; to llama.cpp they are spaces), and what happens at bytes without a token (SmolLM2: Hugging Face drops them and joins
what stood around them, llama.cpp does not join).
Environment: QL_FORMATS_TOOL, QL_TOK_TOOL, QL_VOCAB (that directory), QL_NODE_MODULES for llama.cpp; QL_FULL=1: 100,000 strings."""
import json
import os
import pathlib
import shutil
import subprocess
import unicodedata

import numpy
import pytest

from test_tok_hf import missing_bytes
from test_tok_strings import strings, unique_strings

tokenizers = pytest.importorskip("tokenizers")
HERE = pathlib.Path(__file__).resolve().parent
TOOL, TOK, VOCAB, NODE = (os.environ.get(k) for k in ("QL_FORMATS_TOOL", "QL_TOK_TOOL", "QL_VOCAB", "QL_NODE_MODULES"))
pytestmark = pytest.mark.skipif(not TOOL, reason="QL_FORMATS_TOOL is not set")
FULL = os.environ.get("QL_FULL") == "1"
N, N_LLAMACPP = (100_000, 20_000) if FULL else (4000, 1200)


class Family:
    def __init__(self, name, folder, out):
        self.name, self.gguf = name, out
        self.missing = missing_bytes(folder / "tokenizer.json") if name == "smollm2" else set()
        self.hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        size = max(self.hf.get_vocab(with_added_tokens=True).values()) + 7  # some ids without a token
        p = subprocess.run([TOOL, "vocab", folder / "tokenizer.json", folder / "tokenizer_config.json", str(size), out],
                           capture_output=True, text=True)
        assert p.returncode == 0, p.stderr

    def inexpressible(self, text):
        """What GGUF cannot say about this text, or None."""
        if self.name == "qwen3" and not unicodedata.is_normalized("NFC", text):
            return "NFC"
        if self.name == "gemma3" and "\u2581\u2581" in text:
            return "U+2581"
        return "byte" if self.missing and self.missing & set(text.encode()) else None

    def ids(self, texts):
        return [e.ids for e in self.hf.encode_batch_fast(texts, add_special_tokens=False)]


@pytest.fixture(scope="module", params=["smollm2", "llama3", "qwen3", "mistral", "gemma3"])
def family(request, tmp_path_factory):
    if request.param == "smollm2":
        folder = request.getfixturevalue("smol_json").parent
    elif not VOCAB:
        pytest.skip("QL_VOCAB is not set")
    else:
        folder = pathlib.Path(VOCAB, request.param)
    return Family(request.param, folder, tmp_path_factory.mktemp(request.param) / "v.gguf")


@pytest.mark.skipif(not TOK, reason="QL_TOK_TOOL is not set")
def test_our_gguf_tokenizer_gives_the_same_ids(family, tmp_path):
    texts = unique_strings(N, seed=3)
    p = subprocess.run([TOK, "gguf", family.gguf, "parse_special", "decode", f"ids={tmp_path / 'ids'}"], input=json.dumps(texts).encode(),
                       capture_output=True)
    assert p.returncode == 0, p.stderr.decode()
    got = numpy.fromfile(tmp_path / "ids", dtype="<i4")
    ends = numpy.flatnonzero(got == -1)
    decoded = json.loads(p.stdout)
    assert len(ends) == len(decoded) == len(texts)
    want = family.ids(texts)
    bad, left_out, at = [], {}, 0
    for text, ids, back, theirs, end in zip(texts, want, decoded, family.hf.decode_batch(want, skip_special_tokens=False), ends):
        mine, at = got[at:end].tolist(), end + 1
        why = family.inexpressible(text)
        if why:
            count = left_out.setdefault(why, [0, 0])
            count[0] += 1
            count[1] += mine != ids
        elif mine != ids or back != theirs:
            bad.append((text, mine, ids, back, theirs))
    print(f"{family.name}: {len(bad)} of {len(texts)} differ; left out (texts, of them different): {left_out}")
    assert not bad, (len(bad), bad[:3])
    assert sum(n for n, _ in left_out.values()) < len(texts) // 4
    if family.name == "qwen3":  # normalised by the caller, they are equal as well
        texts = [unicodedata.normalize("NFC", t) for t in texts if family.inexpressible(t) == "NFC"]
        p = subprocess.run([TOK, "gguf", family.gguf, "parse_special"], input=json.dumps(texts).encode(), capture_output=True)
        assert len(texts) > 100 and json.loads(p.stdout) == family.ids(texts)


@pytest.mark.skipif(not NODE or not shutil.which("node"), reason="QL_NODE_MODULES is not set, or no node")
def test_llamacpp_gives_the_same_ids(family, tmp_path):
    if family.name in ("smollm2", "llama3") and not FULL:
        pytest.skip("test_tok_llamacpp.py compares these kinds")
    texts = [t for t in strings(N_LLAMACPP, seed=4) if not family.inexpressible(t)]
    if family.name == "qwen3":  # an ordinary token of it is named </s>, which llama.cpp takes for a control token by its name
        texts = [t for t in texts if "</s>" not in t]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    p = subprocess.run(["node", str(HERE / "tok_llamacpp.mjs"), family.gguf, str(tmp_path / "texts.json"),
                        str(tmp_path / "out.json")], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr[-2000:]
    theirs = json.loads((tmp_path / "out.json").read_text())["special"]
    bad = [x for x in zip(texts, family.ids(texts), theirs) if x[1] != x[2]]
    assert len(texts) > N_LLAMACPP // 2 and not bad, (len(bad), bad[:5])
