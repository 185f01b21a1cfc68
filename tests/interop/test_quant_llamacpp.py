"""A whole SmolLM2, quantised by us and by llama.cpp from one F32 file: the same types, the same bytes, and llama.cpp's perplexity
of ours within 1 % of that of its own file; our perplexity of our file near llama.cpp's of it.

Needs QL_QLORAD, QL_SMOL and QL_NODE_MODULES (llama.cpp's library, llamacpp.py).  QL_FULL=1: more types, the whole text, and
llama.cpp's file is judged even where it holds the same tensors.
"""
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

import llamacpp

gguf = pytest.importorskip("gguf")
QLORAD, SMOL = os.environ.get("QL_QLORAD"), os.environ.get("QL_SMOL")
pytestmark = pytest.mark.skipif(not QLORAD or not SMOL or not llamacpp.library_dir(),
                                reason="QL_QLORAD, QL_SMOL or QL_NODE_MODULES (x86-64) is not set")
FULL = os.environ.get("QL_FULL") == "1"
KINDS = ["q4_k_m", "q8_0", "f16"] + (["bf16", "q4_0", "q5_k_m", "q6_k"] if FULL else [])
TEXT = pathlib.Path(__file__).resolve().parents[1] / "data" / "prose.txt"
WINDOWS = None if FULL else 1


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "f32.gguf"
    subprocess.run([QLORAD, "quantize", SMOL, path, "--type", "f32"], check=True)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def llama():
    return llamacpp.Llama(threads=os.cpu_count() or 2)


def ours(model, *more):
    out = subprocess.run([QLORAD, "perplexity", model, TEXT, "--json", *more, *(["--windows", str(WINDOWS)] if WINDOWS else [])],
                         check=True, stdout=subprocess.PIPE)
    return json.loads(out.stdout)["perplexity"]


@pytest.mark.parametrize("kind", KINDS)
def test_perplexity_as_llamacpps_own(source, llama, tmp_path, kind):
    mine, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    subprocess.run([QLORAD, "quantize", source, mine, "--type", kind], check=True)
    llama.quantize(source, theirs, kind)
    a, b = ({t.name: t for t in gguf.GGUFReader(p).tensors} for p in (mine, theirs))
    assert {n: t.tensor_type for n, t in a.items()} == {n: t.tensor_type for n, t in b.items()}
    same = [n for n in a if np.array_equal(a[n].data, b[n].data)]
    differ = [(n, a[n].tensor_type.name) for n in a if n not in same]
    text = TEXT.read_text()
    p = llama.perplexity(mine, text, windows=WINDOWS)
    q = llama.perplexity(theirs, text, windows=WINDOWS) if FULL or differ else p
    own = ours(mine)
    print(f"{kind}: {len(same)} of {len(a)} tensors have llama.cpp's bytes, others {differ}; perplexity in llama.cpp {p:.4f}, "
          f"of its own file {q:.4f}; in qlorad {own:.4f}")
    for path in (mine, theirs):
        path.unlink()
    assert not differ
    assert abs(p / q - 1) <= 0.01
    assert abs(own / p - 1) <= 0.02  # llama.cpp multiplies in 8 bit, we in fp32


def test_four_bit_weights():
    """The daemon's own types on the same text: 4 bits cost something, NF4 least (QLoRA, table 2)."""
    full = ours(SMOL)
    p = {kind: ours(SMOL, "--weights", kind) for kind in (("nf4", "fp4", "int4") if FULL else ("nf4",))}
    print("as stored", full, p)
    assert full < p["nf4"] < 1.5 * full
    assert min(p.values()) == p["nf4"] and max(p.values()) < 2 * full
