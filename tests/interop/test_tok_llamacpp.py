"""llama.cpp (npm node-llama-cpp) judges the tokenizer read from a GGUF file: the same ids for thousands of strings.

Environment: QL_TOK_TOOL = the helper program tool_tok; QL_SMOL = a SmolLM2-135M GGUF; QL_NODE_MODULES = a directory with
node-llama-cpp."""
import functools
import json
import os
import pathlib
import shutil
import subprocess
import unicodedata

import pytest

from test_tok_strings import strings

TOOL = os.environ.get("QL_TOK_TOOL")
MODULES = os.environ.get("QL_NODE_MODULES")
FILES = [f for f in [os.environ.get("QL_SMOL")] if f]
pytestmark = [
    pytest.mark.skipif(not TOOL, reason="QL_TOK_TOOL is not set"),
    pytest.mark.skipif(not FILES, reason="QL_SMOL is not set"),
    pytest.mark.skipif(not MODULES or not shutil.which("node"), reason="QL_NODE_MODULES is not set, or no node"),
]
N = 6000


def ours(path, texts, *options):
    p = subprocess.run([TOOL, "gguf", path, *options], input=json.dumps(texts).encode(), capture_output=True)
    assert p.returncode == 0, p.stderr.decode()
    return json.loads(p.stdout)


def vocabulary_file(path, model, pre, tokens, types, scores=None, merges=None, **more):
    """A GGUF file with metadata and no tensors, which llama.cpp loads as a vocabulary."""
    gguf = pytest.importorskip("gguf")
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1)
    w.add_context_length(512)
    w.add_embedding_length(64)
    w.add_feed_forward_length(64)
    w.add_head_count(4)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model(model)
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if scores:
        w.add_token_scores(scores)
    if merges:
        w.add_token_merges(merges)
    for key, value in more.items():
        getattr(w, "add_" + key)(value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


@functools.cache
def smol_lists():
    fields = pytest.importorskip("gguf").GGUFReader(FILES[0]).fields
    return [fields["tokenizer.ggml." + key].contents() for key in ("tokens", "token_type", "merges")]


def with_pre(path, pre):
    """SmolLM2's vocabulary under another pre-tokenizer, and some user-defined tokens."""
    tokens, types, merges = smol_lists()
    vocabulary_file(path, "gpt2", pre, tokens + ["<think>", "      ", "é<x>"], list(types) + [4, 4, 4], merges=merges, bos_token_id=1,
                    eos_token_id=2)


def sentencepiece(path, prefix):
    """A SentencePiece-like vocabulary trained on the spot: scores fall with the rank of the merge."""
    tokenizers = pytest.importorskip("tokenizers")
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    t.train_from_iterator(strings(5000, seed=9), tokenizers.trainers.BpeTrainer(vocab_size=4000, limit_alphabet=900, show_progress=False))
    learnt = [p for p, _ in sorted(t.get_vocab().items(), key=lambda x: x[1]) if not p.startswith("<") and "\0" not in p]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + learnt + ["<think>", "   "]
    types = [2, 3, 3] + [6] * 256 + [1] * len(learnt) + [4, 4]
    scores = [0.0] * 259 + [-float(i // 3) for i in range(len(learnt))] + [0.0, 0.0]  # with ties
    assert len(set(tokens)) == len(tokens) > 3500
    vocabulary_file(path, "llama", "default", tokens, types, scores=scores, bos_token_id=1, eos_token_id=2, unk_token_id=0,
                    add_space_prefix=prefix)


MADE = {
    **{"pre " + pre: (lambda path, pre=pre: with_pre(path, pre))
       for pre in ("gpt-2", "llama-bpe", "qwen2", "qwen35", "tekken", "gpt-4o", "default")},
    "sentencepiece": lambda path: sentencepiece(path, True),
    "sentencepiece without prefix": lambda path: sentencepiece(path, False),
}


@pytest.fixture(scope="module", params=FILES + list(MADE), ids=lambda f: pathlib.Path(f).name)
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llamacpp")
    path, n = request.param, N
    if path in MADE:
        path, n = folder / "vocabulary.gguf", 1500
        MADE[request.param](path)
    texts = strings(n)
    if request.param in ("pre tekken", "pre gpt-4o"):
        # there llama.cpp only approximates the models' expressions (case is A-Z and a-z, marks are no letters); we do not
        texts = [t for t in texts if all(unicodedata.category(c) not in ("Lu", "Ll", "Lt", "Mn", "Mc", "Me", "Cn") or c < "\x80"
                                         for c in t)]
    script = pathlib.Path(__file__).with_name("tok_llamacpp.mjs")
    (folder / "texts.json").write_text(json.dumps(texts))
    p = subprocess.run(["node", script, path, folder / "texts.json", folder / "ids.json"], capture_output=True)
    assert p.returncode == 0, p.stderr.decode()
    return path, texts, json.loads((folder / "ids.json").read_text())


@pytest.mark.parametrize("mode, options", [("plain", ()), ("special", ("parse_special",))])
def test_same_ids(both, mode, options):
    path, texts, theirs = both
    got = ours(path, texts, *options)
    assert len(got) == len(theirs[mode]) == len(texts)
    wrong = [(t, a, b) for t, a, b in zip(texts, got, theirs[mode]) if a != b]
    if mode == "plain":
        # llama.cpp lets merges end in a control token ("<" + "s>" in a SentencePiece vocabulary); we never do
        assert not any(id in (1, 2) for ids in got for id in ids)
        wrong = [x for x in wrong if "<s>" not in x[0] and "</s>" not in x[0]]
    assert not wrong, f"{len(wrong)} differ, such as {wrong[0]!r}"


def test_the_comparison_can_fail(both):
    _, texts, theirs = both
    assert theirs["plain"] != theirs["special"]
    assert sum(map(len, theirs["plain"])) > 5 * len(texts)


def test_text_survives(both):
    """decode(encode(x)) = x where the vocabulary has all bytes of x.  (Behind an added token a SentencePiece vocabulary puts
    another space.)"""
    path, texts, _ = both
    texts = [t for t in texts if "<think>" not in t and "   " not in t]
    got = ours(path, texts, "decode")
    same = sum(a == b for a, b in zip(texts, got))
    assert same > 0.85 * len(texts)
    assert all(a == b for a, b in zip(texts, got) if a.isascii() and a.isprintable())
