"""A whole SmolLM2, quantised by us and by llama.cpp from one F32 file: the same types, the same bytes, and llama.cpp's perplexity
of ours within 1 % of that of its own file; our perplexity of our file near llama.cpp's of it.  Every other type that we write runs
in llama.cpp, and the recipes come in their known order (for merged exports of an adapter: test_others_load.py).

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
# every other type we write; llama.cpp's own files of these names keep token_embd in Q6_K, or there are none
SINGLE = ["q5_k", "q4_k", "q5_1", "q5_0", "q4_1", "iq4_nl"]
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


def judged(source, llama, tmp_path, kinds, context):
    """Quantises source into each of the types: {kind: (llama.cpp's perplexity, divergence from the first)}, {kind: stored types}."""
    out, types, first = {}, {}, None
    for kind in kinds:
        path, kept = tmp_path / f"{kind}.gguf", []
        subprocess.run([QLORAD, "quantize", source, path, "--type", kind], check=True)
        p = llama.perplexity(path, TEXT.read_text(), context, WINDOWS, kept)
        first = first or kept
        out[kind] = p, llamacpp.divergence(first, kept)
        types[kind] = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
        print(f"{kind}: perplexity {p:.4f}, divergence {out[kind][1]:.2e}, {sorted(types[kind])}")
        if FULL:  # llama.cpp multiplies quantised weights by activations of 8 bit
            assert abs(ours(path) / p - 1) <= (0.005 if kind in ("f32", "f16", "bf16") else 0.05)
        path.unlink()
    return out, types


def test_every_other_type_runs_in_llamacpp(source, llama, tmp_path):
    """The types of one kind of block, on SmolLM2 as it is: rows of 576 are no whole K blocks and fall back as llama.cpp has it."""
    got, types = judged(source, llama, tmp_path, ["f16"] + SINGLE, 512 if FULL else 64)
    assert types["q4_k"] == {"F32", "Q4_K", "Q5_0"} and types["q5_k"] == {"F32", "Q5_K", "Q5_1"}
    for kind in SINGLE[2:]:
        assert types[kind] == {"F32", kind.upper()}
    for kind in SINGLE:
        assert got[kind][0] <= 1.5 * got["f16"][0] and got[kind][1] < 0.4


def test_known_order_of_the_recipes(source, llama, tmp_path):
    """The same model 768 wide (wide_model.py): every linear really is of the type that the file is named for."""
    import wide_model

    wide = tmp_path / "wide.gguf"
    wide_model.widen(source, wide)
    kinds = llamacpp.RECIPES if FULL else ["f16", "q5_k_m", "q4_k_m", "q4_0"]
    got, types = judged(wide, llama, tmp_path, kinds, 512 if FULL else 128)
    wide.unlink()
    assert types["q4_k_m"] == {"F32", "Q4_K", "Q6_K"} and types["q5_k_m"] == {"F32", "Q5_K", "Q6_K"}
    assert types["q4_0"] == {"F32", "Q4_0", "Q6_K"} and types.get("q6_k", {"F32", "Q6_K"}) == {"F32", "Q6_K"}
    llamacpp.known_order(got, tie=0.01 if FULL else 0.05)


def test_four_bit_weights():
    """The daemon's own types on the same text: 4 bits cost something, NF4 least (QLoRA, table 2)."""
    full = ours(SMOL)
    p = {kind: ours(SMOL, "--weights", kind) for kind in (("nf4", "fp4", "int4") if FULL else ("nf4",))}
    print("as stored", full, p)
    assert full < p["nf4"] < 1.5 * full
    assert min(p.values()) == p["nf4"] and max(p.values()) < 2 * full
