"""llama.cpp's C library, as node-llama-cpp ships it, called from Python: its quantisers, its perplexity.

QL_NODE_MODULES names the directory with node-llama-cpp.  Structs that llama.cpp passes by value are declared by their first
fields, with room behind them: a longer struct on the caller's side is harmless, and the package is pinned (package.json).
"""
import ctypes as C
import math
import os
import pathlib
import platform

import numpy as np

QUANTIZE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25,
                  "bf16": 32}  # enum llama_ftype


def library_dir():
    """Where libllama and libggml-base lie, or None."""
    root = os.environ.get("QL_NODE_MODULES")
    if not root or platform.machine() != "x86_64":
        return None
    for d in sorted(pathlib.Path(root, "@node-llama-cpp", "linux-x64", "bins").glob("*")):
        if (d / "libggml-base.so").exists() and list(d.glob("libllama.*so")):
            return d
    return None


def ggml_base():
    """libggml-base.so's path (built for baseline x86-64: nothing is contracted), or None."""
    d = library_dir()
    return str(d / "libggml-base.so") if d else None


class Params(C.Structure):
    """Any params struct: its bytes."""
    _fields_ = [("raw", C.c_uint64 * 128)]

    def put(self, offset, kind, value):
        C.memmove(C.byref(self, offset), C.byref(kind(value)), C.sizeof(kind))

    def get(self, offset, kind):
        return kind.from_buffer_copy(bytes(self)[offset:offset + C.sizeof(kind)]).value


class Batch(C.Structure):
    _fields_ = [("n_tokens", C.c_int32), ("token", C.POINTER(C.c_int32)), ("embd", C.c_void_p), ("pos", C.c_void_p),
                ("n_seq_id", C.c_void_p), ("seq_id", C.c_void_p), ("logits", C.POINTER(C.c_int8))]


class Llama:
    def __init__(self, threads=2):
        d = library_dir()
        ggml = C.CDLL(str(next(d.glob("libggml.*so"))), mode=C.RTLD_GLOBAL)
        self.lib = lib = C.CDLL(str(next(d.glob("libllama.*so"))))
        self.threads = threads
        for name, result, args in (
                ("llama_model_default_params", Params, []), ("llama_context_default_params", Params, []),
                ("llama_model_quantize_default_params", Params, []),
                ("llama_model_load_from_file", C.c_void_p, [C.c_char_p, Params]),
                ("llama_init_from_model", C.c_void_p, [C.c_void_p, Params]),
                ("llama_model_quantize", C.c_uint32, [C.c_char_p, C.c_char_p, C.POINTER(Params)]),
                ("llama_model_get_vocab", C.c_void_p, [C.c_void_p]), ("llama_vocab_n_tokens", C.c_int32, [C.c_void_p]),
                ("llama_vocab_get_add_bos", C.c_bool, [C.c_void_p]), ("llama_vocab_bos", C.c_int32, [C.c_void_p]),
                ("llama_tokenize", C.c_int32, [C.c_void_p, C.c_char_p, C.c_int32, C.POINTER(C.c_int32), C.c_int32, C.c_bool, C.c_bool]),
                ("llama_set_n_threads", None, [C.c_void_p, C.c_int32, C.c_int32]),
                ("llama_get_memory", C.c_void_p, [C.c_void_p]), ("llama_memory_clear", None, [C.c_void_p, C.c_bool]),
                ("llama_decode", C.c_int32, [C.c_void_p, Batch]), ("llama_get_logits_ith", C.POINTER(C.c_float), [C.c_void_p, C.c_int32]),
                ("llama_free", None, [C.c_void_p]), ("llama_model_free", None, [C.c_void_p]), ("llama_backend_init", None, []),
                ("llama_log_set", None, [C.c_void_p, C.c_void_p])):
            f = getattr(lib, name)
            f.restype, f.argtypes = result, args
        self.quiet = C.CFUNCTYPE(None, C.c_int, C.c_char_p, C.c_void_p)(lambda level, text, data: None)
        lib.llama_log_set(C.cast(self.quiet, C.c_void_p), None)
        ggml.ggml_backend_load_all_from_path.argtypes = [C.c_char_p]
        ggml.ggml_backend_load_all_from_path(str(d).encode())
        lib.llama_backend_init()

    def quantize(self, source, result, kind):
        """llama-quantize without options: nthread, ftype are the first two fields."""
        p = self.lib.llama_model_quantize_default_params()
        p.put(0, C.c_int32, self.threads)
        p.put(4, C.c_int32, QUANTIZE_TYPES[kind])
        assert self.lib.llama_model_quantize(str(source).encode(), str(result).encode(), C.byref(p)) == 0

    def perplexity(self, model, text, context=512, windows=None, keep=None):
        """llama-perplexity's figure: windows that do not overlap, the second half of each scored.  keep: a list that gets each
        window's log-probabilities [scored, vocabulary], fp32."""
        lib = self.lib
        m = lib.llama_model_load_from_file(str(model).encode(), lib.llama_model_default_params())
        assert m, f"llama.cpp does not load {model}"
        p = lib.llama_context_default_params()
        assert p.get(0, C.c_uint32) == 512 and p.get(4, C.c_uint32) == 2048, "llama_context_params is laid out otherwise"
        for offset in (0, 4, 8):  # n_ctx, n_batch, n_ubatch
            p.put(offset, C.c_uint32, context)
        c = lib.llama_init_from_model(m, p)
        assert c
        lib.llama_set_n_threads(c, self.threads, self.threads)
        try:
            return self._score(m, c, text, context, windows, keep)
        finally:
            lib.llama_free(c)
            lib.llama_model_free(m)

    def _score(self, m, c, text, context, windows, keep):
        lib, v = self.lib, self.lib.llama_model_get_vocab(m)
        n_vocab, raw = lib.llama_vocab_n_tokens(v), text.encode()
        buf = (C.c_int32 * (len(raw) + 8))()
        n = lib.llama_tokenize(v, raw, len(raw), buf, len(buf), True, False)
        assert n >= context
        wanted = (C.c_int8 * context)(*[int(i >= context // 2) for i in range(context)])
        count, total, first = n // context if windows is None else min(windows, n // context), 0.0, context // 2
        for w in range(count):
            ids = (C.c_int32 * context)(*buf[w * context:(w + 1) * context])
            if lib.llama_vocab_get_add_bos(v):
                ids[0] = lib.llama_vocab_bos(v)
            lib.llama_memory_clear(lib.llama_get_memory(c), True)
            assert lib.llama_decode(c, Batch(context, ids, None, None, None, None, wanted)) == 0
            z = np.ctypeslib.as_array(lib.llama_get_logits_ith(c, first), (context - first, n_vocab))[:-1].astype(np.float64)
            top = z.max(axis=1)
            lse = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
            total += float((lse - z[np.arange(len(z)), list(ids)[first + 1:]]).sum())
            if keep is not None:
                keep.append((z - lse[:, None]).astype(np.float32))
        return math.exp(total / (count * (context - 1 - first)))


def divergence(p, q):
    """Mean KL(p ‖ q) of two lists of log-probabilities, nats a token (llama-perplexity --kl-divergence)."""
    return float(np.mean([(np.exp(a.astype(np.float64)) * (a.astype(np.float64) - b)).sum(axis=1).mean() for a, b in zip(p, q, strict=True)]))


# from the best to the worst
RECIPES = ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]


def known_order(got, tie):
    """got: {recipe: (perplexity, divergence)}.  A recipe's perplexity may lie above a worse one's by the share `tie` at most (the
    texts are short), and the unquantised ones are equal to 0.5 %; the divergences, which tell more, must grow."""
    kinds = [k for k in RECIPES if k in got]
    best = got[kinds[0]][0]
    for k in kinds:
        if k in ("f32", "f16", "bf16"):
            assert abs(got[k][0] / best - 1) <= 0.005, (k, got)
    for i, a in enumerate(kinds):
        for b in kinds[i + 1:]:
            assert got[a][0] <= got[b][0] * (1 + tie), (a, b, got)
            if a not in ("f32", "f16"):
                assert got[a][1] < got[b][1], (a, b, got)
