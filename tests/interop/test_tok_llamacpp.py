"""llama.cpp (npm node-llama-cpp) judges the tokenizer read from a GGUF file: the same ids for thousands of strings.

Environment: QL_TOK_TOOL = the helper program tool_tok; QL_SMOL = a SmolLM2-135M GGUF; QL_NODE_MODULES = a directory with
node-llama-cpp.  QL_TOK_GGUFS = more GGUF files to compare (optional, separated by ':')."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from test_tok_strings import strings

TOOL = os.environ.get("QL_TOK_TOOL")
MODULES = os.environ.get("QL_NODE_MODULES")
FILES = [f for f in [os.environ.get("QL_SMOL")] + os.environ.get("QL_TOK_GGUFS", "").split(":") if f]
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


@pytest.fixture(scope="module", params=FILES, ids=lambda f: pathlib.Path(f).name)
def both(request, tmp_path_factory):
    texts = strings(N)
    out = tmp_path_factory.mktemp("llamacpp") / "ids.json"
    script = pathlib.Path(__file__).with_name("tok_llamacpp.mjs")
    p = subprocess.run(["node", script, request.param, out], input=json.dumps(texts).encode(), capture_output=True)
    assert p.returncode == 0, p.stderr.decode()
    return request.param, texts, json.loads(out.read_text())


@pytest.mark.parametrize("mode, options", [("plain", ()), ("special", ("parse_special",))])
def test_same_ids(both, mode, options):
    path, texts, theirs = both
    got = ours(path, texts, *options)
    assert len(got) == len(theirs[mode]) == N
    wrong = [(t, a, b) for t, a, b in zip(texts, got, theirs[mode]) if a != b]
    assert not wrong, f"{len(wrong)} differ, such as {wrong[0]!r}"


def test_the_comparison_can_fail(both):
    _, texts, theirs = both
    assert theirs["plain"] != theirs["special"]
    assert sum(map(len, theirs["plain"])) > 5 * N


def test_text_survives(both):
    """decode(encode(x)) = x where the vocabulary has all bytes of x."""
    path, texts, _ = both
    got = ours(path, texts, "decode")
    same = sum(a == b for a, b in zip(texts, got))
    assert same > 0.85 * N
    assert all(a == b for a, b in zip(texts, got) if a.isascii() and a.isprintable())
