#!/usr/bin/env python3
"""idle.py - what the daemon costs when nothing happens, and how quickly it answers while a job trains.

    bench/idle.py [SECONDS]

CPU share of control and engine over SECONDS of idling (default 20), memory of control (peak, after the load below), and the
time of GET /v1/fine_tuning/jobs/{id} while that job trains: 500 requests on one connection, 100 on fresh ones.
"""
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

from common import ROOT, machine, note, program, table
from served import Daemon


def cpu_seconds(pid):
    f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid, key):
    return next(int(x.split()[1]) for x in open(f"/proc/{pid}/status") if x.startswith(key)) / 1024


def timed(d, path, conn):
    t = time.perf_counter()
    conn.request("GET", path, headers={"Authorization": "Bearer " + d.token})
    r = conn.getresponse()
    body = r.read()
    t = time.perf_counter() - t
    assert r.status == 200, (r.status, body)
    return t * 1000, body


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20
    where = machine()
    tiny = os.environ.get("QL_BENCH_TINY") is not None
    with tempfile.TemporaryDirectory(prefix="qlorad-bench-") as tmp, Daemon(tmp + "/state") as d:
        time.sleep(2)
        before = cpu_seconds(d.control), cpu_seconds(d.engine)
        time.sleep(seconds)
        idle = [(cpu_seconds(p) - b) / seconds * 100 for p, b in zip((d.control, d.engine), before)]
        at_rest = memory(d.control, "VmRSS")
        engine_rss = memory(d.engine, "VmRSS")
        job = subprocess.run([program("qlorad"), "submit", str(ROOT / "examples/pirate.jsonl"), "--epochs", "4", "--batch-size", "8"],
                             env=d.env, check=True, capture_output=True, text=True).stdout.split()[0]
        path = "/v1/fine_tuning/jobs/" + job
        host = urllib.parse.urlparse(d.url).netloc
        conn = http.client.HTTPConnection(host, timeout=30)
        while b'"status":"running"' not in timed(d, path, conn)[1]:
            time.sleep(0.2)
        time.sleep(1 if tiny else 5)
        kept, fresh = [], []
        for i in range(50 if tiny else 500):
            t, body = timed(d, path, conn)
            assert b'"status":"running"' in body, "the job ended too early"
            kept.append(t)
            if i % 5 == 0:
                c = http.client.HTTPConnection(host, timeout=30)
                fresh.append(timed(d, path, c)[0])
                c.close()
            time.sleep(0.01)
        peak = memory(d.control, "VmHWM")
        note(subprocess.run([program("qlorad"), "cancel", job], env=d.env, capture_output=True, text=True).stdout.strip())
    q = lambda v, p: sorted(v)[min(len(v) - 1, int(p * len(v)))]
    table("The daemon at rest and under way", ["what", "figure"], [
        ["control, idle, CPU %", f"{idle[0]:.2f}"], ["engine, idle, CPU %", f"{idle[1]:.2f}"],
        ["control, memory at rest, MiB", f"{at_rest:.1f}"], ["control, peak memory, MiB", f"{peak:.1f}"],
        ["engine, memory at rest (SmolLM2-135M resident), MiB", f"{engine_rss:.0f}"],
        ["GET job while it trains, median ms", f"{statistics.median(kept):.2f}"],
        ["… 99th percentile ms", f"{q(kept, 0.99):.2f}"],
        ["… each on a new connection, median ms", f"{statistics.median(fresh):.2f}"]], where + ".")


if __name__ == "__main__":
    main()
