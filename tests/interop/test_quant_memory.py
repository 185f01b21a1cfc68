"""Files far larger than what the tools may hold: peak memory (as the kernel counts it, mapped pages included) stays below a fixed
bound while a sparse safetensors file of 1 GiB (QL_FULL=1: 16 GiB, the size of an 8B model in 16 bit) is quantised, converted, inspected,
compared.  Needs QL_QLORAD and numpy."""
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

QLORAD = os.environ.get("QL_QLORAD")
pytestmark = pytest.mark.skipif(not QLORAD, reason="QL_QLORAD is not set")
MIB = 1 << 20
SIZE = (16384 if os.environ.get("QL_FULL") == "1" else 1024) * MIB
BOUND = 2048 if os.environ.get("QL_FULL") == "1" else 384  # MiB; the largest tensor is 112 MiB (QL_FULL: 1 GiB)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """bf16 tensors, the first rows of each random, all else a hole in the file."""
    d = tmp_path_factory.mktemp("big")
    cols, rows, header, at, i = 4096, 14336, {}, 0, 0
    if SIZE > 4096 * MIB:
        header["model.embed_tokens.weight"] = {"dtype": "BF16", "shape": [128256, cols], "data_offsets": [0, 128256 * cols * 2]}
        at = 128256 * cols * 2
    while at < SIZE:
        end = at + rows * cols * 2
        header[f"model.layers.{i}.mlp.up_proj.weight"] = {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [at, end]}
        at, i = end, i + 1
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    g = np.random.default_rng(1)
    with open(d / "big.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for t in header.values():
            f.seek(8 + len(text) + t["data_offsets"][0])
            f.write((g.standard_normal((16, cols)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())
        f.truncate(8 + len(text) + at)
    yield d / "big.safetensors"
    for p in d.iterdir():
        p.unlink()


# A child's peak counts the memory it was forked with, and this process may be large: a small one starts it.
LAUNCH = """import os, subprocess, sys
p = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, use = os.wait4(p.pid, 0)
p.returncode = os.waitstatus_to_exitcode(status)
print(p.returncode, use.ru_maxrss)"""


def peak(*args):
    """Runs qlorad; its peak memory in MiB."""
    out = subprocess.run([sys.executable, "-c", LAUNCH, QLORAD, *map(str, args)], check=True, stdout=subprocess.PIPE, text=True).stdout
    status, kib = map(int, out.split())
    assert status == 0, args
    return kib / 1024


@pytest.mark.parametrize("out, kind", [("nf4.safetensors", "nf4"), ("q8.gguf", "q8_0")])
def test_peak(big, out, kind):
    result = big.parent / out
    used = {"quantize": peak("quantize", big, result, "--type", kind), "compare": peak("compare", big, result, "--max-rel", "0.2"),
            "inspect": peak("inspect", result, "--values")}
    if kind == "nf4":
        used["convert"] = peak("convert", result, big.parent / "again.safetensors")
        (big.parent / "again.safetensors").unlink()
    result.unlink()
    print(f"{SIZE >> 20} MiB: peak MiB", {k: round(v) for k, v in used.items()})
    assert max(used.values()) <= BOUND
