#!/usr/bin/env python3
"""quant_report.py - what each quantisation costs and keeps: writes docs/quantisation.md and docs/img/quantisation.svg.

    bench/quant_report.py [--tables-only]        about ten minutes on two cores; needs build/ (ninja -C build), QL_SMOL or
                                                 scripts/fetch-model's file, numpy

Everything is measured through what users have: libqlora's public functions (bits, error, speed on a 4096 x 4096 matrix of normal
numbers) and the sub-commands quantize, inspect and perplexity (SmolLM2 on tests/data/prose.txt).  The page's text stands here too, so
that page and figures cannot part; --tables-only prints the tables and writes nothing.
"""
import ctypes as C
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from common import BUILD, ROOT, machine, note, smol

N = 4096
TEXT = ROOT / "tests" / "data" / "prose.txt"
QLORAD = str(BUILD / "qlorad")
TYPES = {"f32": 0, "f16": 1, "bf16": 2, "q4_0": 16, "q4_1": 17, "q5_0": 18, "q5_1": 19, "q8_0": 20, "q4_k": 21, "q5_k": 22, "q6_k": 23,
         "iq4_nl": 24, "nf4": 32, "fp4": 33, "int4": 34}
BLOCKS = ["bf16", "f16", "q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "iq4_nl", "q4_1", "q4_0"]


class Options(C.Structure):
    _fields_ = [("size", C.c_uint32), ("type", C.c_int), ("block", C.c_uint32), ("double_quant", C.c_int), ("threads", C.c_int)]


class Error(C.Structure):
    _fields_ = [("code", C.c_int), ("offset", C.c_uint64), ("param", C.c_char * 64), ("message", C.c_char * 512)]


lib = C.CDLL(str(BUILD / "lib" / "libqlora.so"))
lib.qlora_type_bytes.restype = lib.qlora_q4_bytes.restype = lib.qlora_asym_bytes.restype = C.c_uint64
for f in ("qlora_q4_bytes", "qlora_q4_free", "qlora_asym_bytes", "qlora_asym_free"):
    getattr(lib, f).argtypes = [C.c_void_p]
for f in ("qlora_q4_quantize", "qlora_asym_quantize"):
    getattr(lib, f).argtypes = [C.POINTER(C.c_void_p), C.c_void_p, C.c_int, C.c_uint64, C.c_uint64, C.POINTER(Options), C.POINTER(Error)]
for f in ("qlora_q4_dequantize", "qlora_asym_dequantize"):
    getattr(lib, f).argtypes = [C.c_void_p, C.c_uint64, C.c_uint64, C.c_void_p, C.c_int, C.POINTER(Error)]
lib.qlora_type_bytes.argtypes = [C.c_int, C.c_uint64]
lib.qlora_blocks_quantize.argtypes = [C.c_int, C.c_void_p, C.c_uint64, C.c_uint64, C.c_void_p, C.c_void_p, C.c_int, C.POINTER(Error)]
lib.qlora_blocks_dequantize.argtypes = [C.c_int, C.c_void_p, C.c_uint64, C.c_void_p, C.POINTER(Error)]
lib.qlora_int8_quantize.argtypes = [C.c_void_p, C.c_int, C.c_uint64, C.c_uint32, C.c_void_p, C.c_void_p, C.c_int, C.POINTER(Error)]
lib.qlora_int8_dequantize.argtypes = [C.c_void_p, C.c_void_p, C.c_uint32, C.c_uint64, C.c_uint64, C.c_void_p, C.POINTER(Error)]


def ok(rc, e):
    assert rc == 0, e.message.decode()


def timed(function, rounds):
    """Best of some rounds, in GB of fp32 per second of this thread's time (what else runs matters less so)."""
    best = 1e9
    for _ in range(rounds):
        t = time.thread_time()
        function()
        best = min(best, time.thread_time() - t)
    return N * N * 4 / best / 1e9


def with_book(x, kind, block, nested, asym):
    o, e, y = Options(C.sizeof(Options), TYPES[kind], block, int(nested), 1), Error(), np.empty_like(x)
    name = "asym" if asym else "q4"
    quantize, dequantize, size, free = (getattr(lib, f"qlora_{name}_{what}") for what in ("quantize", "dequantize", "bytes", "free"))
    held = C.c_void_p()

    def q():
        free(held)
        ok(quantize(C.byref(held), x.ctypes.data, 0, N, N, C.byref(o), C.byref(e)), e)

    def d():
        ok(dequantize(held, 0, N * N, y.ctypes.data, 0, C.byref(e)), e)
    speed = timed(q, 5), timed(d, 5)
    bits = size(held) * 8 / N / N
    free(held)
    return bits, y, speed


def with_blocks(x, kind):
    t, e, y = TYPES[kind], Error(), np.empty_like(x)
    b = np.zeros(lib.qlora_type_bytes(t, N * N), np.uint8)
    q = timed(lambda: ok(lib.qlora_blocks_quantize(t, x.ctypes.data, N, N, None, b.ctypes.data, 1, C.byref(e)), e), 2)
    d = timed(lambda: ok(lib.qlora_blocks_dequantize(t, b.ctypes.data, N * N, y.ctypes.data, C.byref(e)), e), 5)
    return b.size * 8 / N / N, y, (q, d)


def with_int8(x, block):
    e, y = Error(), np.empty_like(x)
    codes, scales = np.zeros(N * N, np.int8), np.zeros(N * N // block, np.float32)
    q = timed(lambda: ok(lib.qlora_int8_quantize(x.ctypes.data, 0, N * N, block, codes.ctypes.data, scales.ctypes.data, 1, C.byref(e)), e), 5)
    d = timed(lambda: ok(lib.qlora_int8_dequantize(codes.ctypes.data, scales.ctypes.data, block, 0, N * N, y.ctypes.data, C.byref(e)), e), 5)
    return 8 + 32 / block, y, (q, d)


def matrices():
    """[(name, bits, relative error, quantise GB/s, dequantise GB/s)]"""
    x = (np.random.default_rng(1).standard_normal((N, N)) * 0.02).astype(np.float32)
    forms = [(k, lambda k=k: with_blocks(x, k)) for k in BLOCKS[:3]] + [("int8, 64", lambda: with_int8(x, 64))]
    forms += [(k, lambda k=k: with_blocks(x, k)) for k in BLOCKS[3:]]
    for kind in ("nf4", "fp4", "int4"):
        forms.append((f"{kind}, 64, double", lambda kind=kind: with_book(x, kind, 64, True, False)))
        forms.append((f"{kind}, 64", lambda kind=kind: with_book(x, kind, 64, False, False)))
    for block in (32, 128, 256):
        forms.append((f"nf4, {block}, double", lambda block=block: with_book(x, "nf4", block, True, False)))
    forms.append(("nf4, per row", lambda: with_book(x, "nf4", 0, False, False)))
    for kind in ("nf4", "int4"):
        forms.append((f"{kind}, 64, zero point", lambda kind=kind: with_book(x, kind, 64, False, True)))
    out = []
    for name, measure in forms:
        bits, y, (q, d) = measure()
        out.append((name, bits, float(np.linalg.norm((y - x).astype(np.float64)) / np.linalg.norm(x.astype(np.float64))), q, d))
        note(out[-1])
    return out


def run(*args):
    return subprocess.run([QLORAD, *map(str, args)], check=True, stdout=subprocess.PIPE).stdout


def linear_bits(path):
    """Bits per weight of the seven linears of each layer, as stored."""
    t = [t for t in json.loads(run("inspect", path, "--json"))["tensors"] if ".attn_" in t["name"] or ".ffn_" in t["name"]]
    t = [x for x in t if "norm" not in x["name"]]
    return sum(x["bytes"] for x in t) * 8 / sum(x["elements"] for x in t)


def model():
    """[(name, bits of the linears, MiB of the file or None, perplexity, standard error)]"""
    out = []
    with tempfile.TemporaryDirectory() as d:
        source = pathlib.Path(d) / "f32.gguf"
        run("quantize", smol(), source, "--type", "f32")

        def add(name, bits, size, path, *more):
            r = json.loads(run("perplexity", path, TEXT, "--json", *more))
            out.append((name, bits, size, r["perplexity"], r["standard_error"], r["scored"]))
            note(out[-1])
        add("f32", 32.0, source.stat().st_size / 2**20, source)
        for kind in ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "iq4_nl", "q4_1", "q4_0"):
            path = pathlib.Path(d) / "q.gguf"
            run("quantize", source, path, "--type", kind)
            add(kind, linear_bits(path), path.stat().st_size / 2**20, path)
        for kind in ("nf4", "fp4", "int4"):
            for block in (64, 128, 256):
                add(f"{kind}, {block}, double", 4 + 8 / block + 32 / (block * 256), None, source, "--weights", kind, "--block", block)
    return out


def svg(points, title, y_label, log):
    """One scatter plot: [(label, x, y)] → SVG text of 460 x 400."""
    w, h, left, top, right, bottom = 460, 400, 60, 30, 16, 44
    xs, ys = [p[1] for p in points], [p[2] for p in points]
    f = (lambda v: np.log10(v)) if log else (lambda v: v)
    x0, x1 = 3.1, max(xs) + 0.6
    y0, y1 = f(min(ys)), f(max(ys))
    y0, y1 = y0 - 0.06 * (y1 - y0), y1 + 0.06 * (y1 - y0)
    px = lambda v: left + (v - x0) / (x1 - x0) * (w - left - right)
    py = lambda v: h - bottom - (f(v) - y0) / (y1 - y0) * (h - top - bottom)
    s = [f'<text x="{w / 2:.0f}" y="18" text-anchor="middle" font-weight="bold">{title}</text>',
         f'<rect x="{left}" y="{top}" width="{w - left - right}" height="{h - top - bottom}" fill="none" stroke="#888"/>']
    for v in range(4, int(x1) + 1):
        s.append(f'<text x="{px(v):.1f}" y="{h - bottom + 16}" text-anchor="middle">{v}</text>'
                 f'<line x1="{px(v):.1f}" x2="{px(v):.1f}" y1="{h - bottom}" y2="{h - bottom + 4}" stroke="#888"/>')
    ticks = [t for t in ([0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2] if log else range(0, 1000, 2)) if y0 <= f(t) <= y1]
    for t in ticks:
        s.append(f'<text x="{left - 6}" y="{py(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
                 f'<line x1="{left}" x2="{w - right}" y1="{py(t):.1f}" y2="{py(t):.1f}" stroke="#ddd"/>')
    s.append(f'<text x="{(left + w - right) / 2:.0f}" y="{h - 8}" text-anchor="middle">bits per weight</text>')
    s.append(f'<text x="14" y="{(top + h - bottom) / 2:.0f}" text-anchor="middle" transform="rotate(-90 14 {(top + h - bottom) / 2:.0f})">{y_label}</text>')
    used = []
    for label, x, y in sorted(points, key=lambda p: -p[2]):
        book = label.split(",")[0] in ("nf4", "fp4", "int4")  # their labels stand on the left
        cx, cy, side = px(x), py(y), -1 if book else 1
        shift = next(d for d in (0, 11, -11, 22, -22, 33, -33, 44) if all(abs(cy + d - b) >= 10 or a != side or abs(cx - c) > 70 for a, b, c in used))
        used.append((side, cy + shift, cx))
        if shift:
            s.append(f'<line x1="{cx:.1f}" y1="{cy:.1f}" x2="{cx + 12 * side:.1f}" y2="{cy + shift:.1f}" stroke="#999" stroke-width="0.6"/>')
        s.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.2" fill="{"#c33" if book else "#36c"}"/>'
                 f'<text x="{cx + (14 if shift else 7) * side:.1f}" y="{cy + shift + 3.5:.1f}" font-size="9" text-anchor="{"end" if book else "start"}">'
                 f'{label.replace(", double", "").replace(", 64", "")}</text>')
    return "\n".join(s)


def plot(m, p):
    short = [(n, b, e) for n, b, e, _, _ in m if b < 9 and (n.endswith("double") or "," not in n or n.startswith("int8"))]
    left = svg(short, "Error on normal numbers", "relative RMSE", True)
    right = svg([(n, b, q) for n, b, _, q, _, _ in p if b < 9], "SmolLM2-135M on prose.txt", "perplexity", False)
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="940" height="400" font-family="sans-serif" font-size="11">\n'
            f'<rect width="940" height="400" fill="#fff"/>\n<g>{left}</g>\n<g transform="translate(475 0)">{right}</g>\n</svg>\n')


def rows(head, body):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "|".join([" --- "] + [" ---: "] * (len(head) - 1)) + "|"] +
                     ["| " + " | ".join(r) + " |" for r in body])


def said(order):
    if order["nf4"] < order["fp4"] < order["int4"]:
        return ("The same order; FP4 and INT4 are near each other, though, and change places on other texts: bitsandbytes' FP4 spends one of its eight "
                "magnitudes on a value near zero, which the paper's E2M1 does not, so that its error on normal numbers is above INT4's.")
    if order["nf4"] < min(order["fp4"], order["int4"]):
        return ("NF4 is best here too; FP4 and INT4 change places, as their errors on normal numbers do: bitsandbytes' FP4 spends one of its eight "
                "magnitudes on a value near zero, which the paper's E2M1 does not.")
    return "Not the same order."


def main():
    where = machine()
    m, p = matrices(), model()
    full = p[0][3]
    numbers = rows(["type, block, scales", "bits per weight", "relative RMSE", "quantise GB/s", "dequantise GB/s"],
                   [[n, f"{b:.3f}", f"{e:.5f}" if e < 0.01 else f"{e:.4f}", f"{q:.2f}", f"{d:.1f}"] for n, b, e, q, d in m])
    models = rows(["type", "bits of the linears", "file, MiB", "perplexity", "against f32"],
                  [[n, f"{b:.3f}", f"{s:.0f}" if s else "—", f"{q:.3f}", f"{100 * (q / full - 1):+.2f} %"] for n, b, s, q, _, _ in p])
    order = {k: next(q for n, _, _, q, _, _ in p if n == f"{k}, 64, double") for k in ("nf4", "fp4", "int4")}
    if "--tables-only" in sys.argv:
        print(numbers, models, order, sep="\n\n")
        return
    page = (ROOT / "bench" / "quant_report.md.in").read_text()
    for key, value in {"NUMBERS": numbers, "MODEL": models, "WHERE": where, "SCORED": str(p[0][5]), "STDERR": f"{100 * p[0][4] / full:.0f}",
                       "ORDER": said(order), **{k.upper(): f"{v:.2f}" for k, v in order.items()}}.items():
        assert "@" + key + "@" in page, key
        page = page.replace("@" + key + "@", value)
    assert "@" not in page, "a figure of the page is missing"
    (ROOT / "docs" / "quantisation.md").write_text(page)
    (ROOT / "docs" / "img" / "quantisation.svg").write_text(plot(m, p))
    note("written docs/quantisation.md, docs/img/quantisation.svg")


if __name__ == "__main__":
    main()
