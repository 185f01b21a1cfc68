"""qlorad bench: each measurement runs with the daemon's code and prints figures that fit together."""
import json
import subprocess

import pytest

from conftest import EXE


def bench(*args, status=0):
    p = subprocess.run([EXE, "bench", *args, "--device", "cpu", "--arch", "tiny", "--json"], capture_output=True, text=True, timeout=100)
    assert p.returncode == status, p.stderr
    return json.loads(p.stdout) if p.stdout else {}


def test_train_with_and_without_recomputing():
    off = bench("train", "--micro-batch", "1,3", "--seq", "64", "--steps", "3", "--recompute", "off")
    on = bench("train", "--micro-batch", "3", "--seq", "64", "--steps", "3", "--recompute", "on")
    a, b = off["runs"][1], on["runs"][0]
    assert [r["micro_batch"] for r in off["runs"]] == [1, 3]
    assert a["layers_keep_all"] == 2 and b["layers_keep_all"] == b["layers_keep_main"] == 0
    assert a["loss_last"] == b["loss_last"] != a["loss_first"]  # recomputing changes no bit
    assert a["peak_gib"] > b["peak_gib"] and a["planned_gib"] > b["planned_gib"]
    for r in (*off["runs"], *on["runs"]):
        assert r["tokens_per_s"] > 0 and r["ceiling_products_tokens_per_s"] > 0  # measured one after the other: no order on a busy machine
        assert r["share_of_ceiling"] == pytest.approx(r["tokens_per_s"] / r["ceiling_products_tokens_per_s"], rel=1e-4)


def test_train_with_inputs_on_the_host():
    on, off = (bench("train", "--layers", "5", "--seq", "64", "--steps", "3", "--recompute", mode)["runs"][0] for mode in ("on", "offload"))
    assert (on["layers_offloaded"], on["host_gib"]) == (0, 0)
    assert off["layers_offloaded"] == 5 and off["layers_keep_all"] == off["layers_keep_main"] == 0
    assert off["host_gib"] > 0
    assert abs(off["planned_gib"] - on["planned_gib"]) < 1e-9  # on the CPU both sides of a copy are the same memory
    assert off["loss_last"] == on["loss_last"] != on["loss_first"]


def test_train_that_does_not_fit():
    got = bench("train", "--memory-limit", "0.002", status=1)
    assert "training needs" in got["error"] and "are available" in got["error"]


def test_decode():
    got = bench("decode", "--batch", "1,4", "--adapters", "0,2", "--tokens", "24")
    assert [(r["batch"], r["adapters"]) for r in got["runs"]] == [(1, 0), (4, 2)]
    for r in got["runs"]:
        assert r["tokens_per_s"] > 0 and r["inter_token_p99_ms"] >= r["inter_token_p50_ms"] > 0
    assert got["prefill_tokens_per_s"] > 0 and got["prefill_adapter_tokens_per_s"] > 0


def test_serve_mixed():
    got = bench("serve-mixed", "--seq", "64", "--steps", "5", "--tokens", "600")  # long enough that steps end meanwhile
    assert got["batch"] == 4 and got["decode_tokens_per_s"] > 0
    for k in ("alone", "idle", "beside", "idle_again"):
        assert got[f"train_{k}_tokens_per_s"] > 0, got


def test_quantize_and_load():
    got = bench("quantize")
    assert got["quantize_gb_per_s"] > 0 and got["dequantize_gb_per_s"] > 0
    got = bench("load")
    assert got["first_start"]["from_cache"] is False and got["warm_start"]["from_cache"] is True


@pytest.mark.parametrize("args", [["bogus"], ["train", "--micro-batch", "x"], ["train", "--base", "/nowhere"], ["train", "--frob", "1"]])
def test_wrong_command_lines(args):
    bench(*args, status=64)
