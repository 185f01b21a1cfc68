"""The vocabulary of a GGUF export, made from a tokenizer.json of SentencePiece's style (Mistral 1, Gemma 3, as scripts/fetch-vocab gets
them): llama.cpp gives Hugging Face's token ids with it.

Environment: QL_FORMATS_TOOL, QL_VOCAB (that directory), QL_NODE_MODULES."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from test_tok_strings import strings

HERE = pathlib.Path(__file__).resolve().parent
TOOL, VOCAB, NODE = (os.environ.get(k) for k in ("QL_FORMATS_TOOL", "QL_VOCAB", "QL_NODE_MODULES"))
pytestmark = pytest.mark.skipif(not TOOL or not VOCAB or not NODE or not shutil.which("node"),
                                reason="QL_FORMATS_TOOL, QL_VOCAB or QL_NODE_MODULES is not set, or no node")
N = 20000 if os.environ.get("QL_FULL") else 1200


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_llamacpp_gives_the_same_ids(name, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    d = pathlib.Path(VOCAB, name)
    hf = tokenizers.Tokenizer.from_file(str(d / "tokenizer.json"))
    size = max(hf.get_vocab(with_added_tokens=True).values()) + 7  # some ids without a token
    p = subprocess.run([TOOL, "vocab", str(d / "tokenizer.json"), str(d / "tokenizer_config.json"), str(size), str(tmp_path / "v.gguf")],
                       capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    # Gemma's added tokens for runs of U+2581 match only where a text holds that very character, which llama.cpp takes for a space
    texts = [t for t in strings(N, seed=4) if "\u2581\u2581" not in t]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    p = subprocess.run(["node", str(HERE / "tok_llamacpp.mjs"), str(tmp_path / "v.gguf"), str(tmp_path / "texts.json"),
                        str(tmp_path / "out.json")], capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr[-2000:]
    theirs = json.loads((tmp_path / "out.json").read_text())["special"]
    want = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    bad = [x for x in zip(texts, want, theirs) if x[1] != x[2]]
    assert len(texts) > N // 2 and not bad, (len(bad), bad[:5])
