"""The classes of code points in core/text/unicode_data.c are those of HF tokenizers' Oniguruma, code point by code point."""
import pathlib
import re

import pytest

tokenizers = pytest.importorskip("tokenizers")
SOURCE = pathlib.Path(__file__).resolve().parents[2] / "core" / "text" / "unicode_data.c"
CLASSES = ["Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "P", "S"]


def ask(pattern):
    """All code points that match."""
    splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "removed")
    found = set()
    for base in range(0, 0x110000, 0x1000):
        block = [c for c in range(base, base + 0x1000) if not 0xD800 <= c <= 0xDFFF]
        kept = set("".join(p for p, _ in splitter.pre_tokenize_str("".join(map(chr, block)))))
        found.update(c for c in block if chr(c) not in kept)
    return found


def test_table():
    text = SOURCE.read_text()
    runs = [int(x, 16) for x in re.findall(r"0x[0-9a-f]+(?=,)", text.split("ql_unicode_runs[] = {")[1].split("};")[0])]
    table = bytearray(0x110000)
    for run, following in zip(runs, runs[1:] + [0x110000 << 8]):
        table[run >> 8:following >> 8] = bytes([run & 0xFF]) * ((following >> 8) - (run >> 8))
    want = bytearray(0x110000)
    for number, name in enumerate(CLASSES, 1):
        for c in ask(r"\p{%s}+" % name):
            want[c] = number
    for c in ask(r"\s+"):
        want[c] = 10
    assert table == want, "unicode_data.c and the installed tokenizers speak of different versions of Unicode"
    index = [int(x) for x in re.findall(r"\d+(?=,)", text.split("0x200 + 1] = {")[1].split("};")[0])]
    assert len(index) == 0x201
    for block, run in enumerate(index):
        assert runs[run] >> 8 <= block << 8 and (run + 1 == len(runs) or runs[run + 1] >> 8 > block << 8)
