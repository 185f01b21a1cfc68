"""R18, R20, R21: framing that two readers could read in two ways, bodies and heads beyond the limits, and slow clients."""
import re
import socket
import threading
import time

import pytest


def head(d, method="GET", path="/v1/models", extra=(), host="127.0.0.1", token=True, version="HTTP/1.1"):
    lines = [f"{method} {path} {version}"]
    if host is not None:
        lines.append("Host: " + host)
    if token:
        lines.append("Authorization: Bearer " + d.token)
    return "\r\n".join(lines + list(extra) + ["", ""]).encode()


def status(out):
    assert out.startswith(b"HTTP/1."), out[:200]
    return int(out.split(b" ", 2)[1])


J = ["Content-Type: application/json"]
SMUGGLING = {
    "two lengths": J + ["Content-Length: 2", "Content-Length: 2"],
    "two different lengths": J + ["Content-Length: 2", "Content-Length: 40"],
    "length and chunked": J + ["Content-Length: 2", "Transfer-Encoding: chunked"],
    "chunked and length": J + ["Transfer-Encoding: chunked", "Content-Length: 2"],
    "gzip, chunked": J + ["Transfer-Encoding: gzip, chunked"],
    "identity": J + ["Transfer-Encoding: identity"],
    "chunked twice": J + ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "xchunked": J + ["Transfer-Encoding: xchunked"],
    "chunked with a space": J + ["Transfer-Encoding : chunked"],
    "length with plus": J + ["Content-Length: +2"],
    "negative length": J + ["Content-Length: -2"],
    "hex length": J + ["Content-Length: 0x2"],
    "length list": J + ["Content-Length: 2, 2"],
    "huge length": J + ["Content-Length: 99999999999999999999999"],
    "two hosts": ["Host: 127.0.0.1"],
    "two types": J + J + ["Content-Length: 2"],
    "two tokens": ["Authorization: Bearer x"],
    "two origins": ["Origin: http://a", "Origin: http://b"],
    "folded header": ["X-A: b", " c: d", "Content-Length: 2", "Content-Length: 3"],
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("name", SMUGGLING)
def test_smuggling(daemon, name, method):
    inner = b"{}GET /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    out, closed = daemon.raw(head(daemon, method, "/v1/chat/completions", SMUGGLING[name]) + inner, timeout=12)
    assert closed, "the connection must be closed"
    assert 400 <= status(out) < 500, out[:300]
    # the bytes behind are never a request (the library writes the head of its own refusals twice)
    assert set(re.findall(rb"HTTP/1\.1 (\d+)", out)) == {b"%d" % status(out)}, out
    assert b"No such" not in out and b'"data"' not in out


TARGETS = [b"http://127.0.0.1/v1/models", b"*", b"v1/models", b"/v1/models%00", b"/v1/%2e%2e/models", b"/../models", b"/v1/models\x00x",
           b"/v1/models\x01", b"/v1/mod\xffels", b"/v1/models#x", b"/v1/models?a=%zz", b"/v1/models?a=%00", b"\\v1\\models", b"/v1/models/%0d%0aX:%20y",
           b"/" + b"a" * 4096, b"/v1/models x"]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: repr(t)[:40])
def test_targets(daemon, target):
    data = b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + daemon.token.encode() + b"\r\n\r\n"
    out, closed = daemon.raw(data, timeout=8)
    assert closed
    assert out == b"" or 400 <= status(out) < 500, out[:300]
    assert b"\nX: y" not in out


def test_request_line(daemon):
    for line in (b"GET /v1/models", b"GET  /v1/models HTTP/1.1", b"GET /v1/models HTTP/9.9", b"GET /v1/models FTP/1.1", b"\x16\x03\x01\x02\x00\x01",
                 b"GET\t/v1/models\tHTTP/1.1", b"G\x00T /v1/models HTTP/1.1", b"GET /livez\x00 HTTP/1.1"):
        out, _ = daemon.raw(line + b"\r\nHost: 127.0.0.1\r\n\r\n", timeout=7)
        assert b" 200 " not in out[:20], (line, out[:100])
    daemon.alive()


def test_missing_host(daemon):
    out, _ = daemon.raw(head(daemon, host=None), timeout=8)
    assert 400 <= status(out) < 500
    out, _ = daemon.raw(head(daemon, host=None, version="HTTP/1.0"), timeout=8)
    assert status(out) == 403


def test_large_heads(daemon):
    for extra, want in ((["X: " + "a" * 17000], (431,)), ([f"X{i}: y" for i in range(65)], (431,)), (["X: " + "a" * 70000], (431, 413, 400))):
        out, closed = daemon.raw(head(daemon, extra=extra), timeout=8)
        assert closed and status(out) in want, out[:200]
    out, _ = daemon.raw(head(daemon, extra=[f"X{i}: y" for i in range(60)] + ["Connection: close"]), timeout=8)
    assert status(out) == 200


def test_large_bodies(daemon):
    limit = 4 << 20
    path = "/v1/chat/completions"
    # declared too large: refused before a byte of it is read
    for n in (limit + 1, 2**63, 2**64 - 1):
        out, closed = daemon.raw(head(daemon, "POST", path, J + [f"Content-Length: {n}"]), timeout=8)
        assert status(out) == 413 and closed and b"request_too_large" in out
    out, closed = daemon.raw(head(daemon, "POST", path, J + [f"Content-Length: {limit + 1}", "Expect: 100-continue"]), timeout=8)
    assert status(out) == 413 and b"100 Continue" not in out
    # at the limit: read (and not valid)
    r = daemon.post(path, b" " * limit, headers={"Content-Type": "application/json"})
    assert r.status == 400 and r.error["code"] == "invalid_json"
    # a small body where none belongs is dropped, a large one refused
    assert daemon.request("GET", "/v1/models", body=b"x" * 1000).status == 200
    out, _ = daemon.raw(head(daemon, "GET", "/v1/models", ["Content-Length: 70000"]), timeout=8)
    assert status(out) == 413


def chunk(data):
    return b"%x\r\n" % len(data) + data + b"\r\n"


def test_endless_chunks(daemon):
    limit, block = 4 << 20, chunk(b" " * 65536)
    s = socket.create_connection(("127.0.0.1", daemon.port), timeout=20)
    s.sendall(head(daemon, "POST", "/v1/chat/completions", J + ["Transfer-Encoding: chunked"]))
    sent = 0
    try:
        while sent < 4 * limit:
            s.sendall(block)
            sent += 65536
    except OSError:
        pass
    s.close()
    assert sent < 3 * limit, "the connection must be cut soon after the limit"
    daemon.alive()
    # a little over the limit still gets its 413
    body = b"".join(chunk(b" " * 32768) for _ in range(limit // 32768)) + chunk(b" " * 1000) + b"0\r\n\r\n"
    out, closed = daemon.raw(head(daemon, "POST", "/v1/chat/completions", J + ["Transfer-Encoding: chunked"]) + body, timeout=15)
    assert status(out) == 413 and closed


def test_bad_chunks(daemon):
    for body in (b"zz\r\n", b"-1\r\nx\r\n", b"ffffffffffffffffff\r\n", b"2\r\n{}x\r\n0\r\n\r\n", b"2;" + b"a" * 70000):
        out, closed = daemon.raw(head(daemon, "POST", "/v1/chat/completions", J + ["Transfer-Encoding: chunked"]) + body, timeout=13)
        assert closed and (out == b"" or 400 <= status(out) < 500), out[:200]
    # the whole request in small chunks is fine
    body = b"".join(chunk(bytes([c])) for c in b'{"model":"nope","messages":[{"role":"user","content":"x"}]}') + b"0\r\n\r\n"
    out, _ = daemon.raw(head(daemon, "POST", "/v1/chat/completions", J + ["Transfer-Encoding: chunked", "Connection: close"]) + body, timeout=8)
    assert status(out) == 404 and b"model_not_found" in out


def test_pipelined(daemon):
    one = head(daemon, path="/livez", token=False)
    out, _ = daemon.raw(one * 5 + head(daemon, path="/livez", extra=["Connection: close"]), timeout=8)
    assert out.count(b"HTTP/1.1 200") == 6


def test_keep_alive_after_faults(daemon):
    import http.client
    c = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=10)
    for _ in range(3):
        assert daemon.request("GET", "/v1/models", token=None, conn=c).status == 401
        sock = c.sock
        assert daemon.request("POST", "/v1/chat/completions", {"model": 5}, conn=c).status == 400
        assert daemon.request("POST", "/v1/nothing", {"a": "b" * 1000}, conn=c).status == 404
        assert daemon.request("GET", "/v1/models", conn=c).status == 200
        assert c.sock is sock, "the connection was dropped"
    c.close()


@pytest.mark.slow
def test_slow_clients(make_daemon):
    """64 connections that drip a byte a second, in heads, in bodies and on kept-alive connections: each is closed within its
    deadline, and healthy requests are served meanwhile."""
    d = make_daemon()
    first = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    body = head(d, "POST", "/v1/chat/completions", J + ["Content-Length: 1000"])
    kinds = {"head": b"", "headers": first, "body": body, "keep-alive": first + b"\r\n"}
    closed_after, lock, lost = {k: [] for k in kinds}, threading.Lock(), []

    def drip(kind):
        s = socket.create_connection(("127.0.0.1", d.port), timeout=5)
        s.sendall(kinds[kind])
        if kind == "keep-alive":
            assert b"200" in s.recv(4096)
        begin = time.monotonic()
        s.settimeout(0.05)
        text = first if kind in ("head", "keep-alive") else b"X-Slow: " + b"y" * 100
        for i in range(40):
            try:
                s.sendall(text[i:i + 1])
                time.sleep(0.5)
                if s.recv(4096) == b"":
                    break
            except socket.timeout:
                continue
            except OSError:
                break
        else:
            with lock:
                lost.append(kind)
        with lock:
            closed_after[kind].append(time.monotonic() - begin)
        s.close()
    threads = [threading.Thread(target=drip, args=(k,)) for k in kinds for _ in range(16)]
    for t in threads:
        t.start()
    for _ in range(10):
        assert d.get("/livez", token=None, timeout=5).status == 200
        time.sleep(0.3)
    for t in threads:
        t.join()
    assert not lost, lost
    assert d.metric("qlorad_http_rejected_total", 'reason="deadline"') >= 60
    d.alive()


@pytest.mark.slow
def test_idle_connections(daemon):
    """Silent connections cost nothing but a descriptor, and are closed."""
    socks = [socket.create_connection(("127.0.0.1", daemon.port), timeout=20) for _ in range(300)]
    assert daemon.get("/livez", token=None, timeout=5).status == 200
    assert daemon.metric("qlorad_http_connections") >= 300
    for s in socks:
        assert s.recv(100) == b""   # by the deadline of the head
        s.close()
    daemon.until(lambda: daemon.metric("qlorad_http_connections") < 10, 10, "connections counted down")


def test_bodies_together(make_daemon):
    """JSON bodies on their way have a limit in all; small ones always pass, and what was held comes back."""
    d = make_daemon()
    size = 4 << 20
    start = head(d, "POST", "/v1/chat/completions", J + [f"Content-Length: {size}"])
    part = b" " * (size - 1)
    socks = []
    try:
        before = d.metric("process_resident_memory_bytes")
        for _ in range(65):
            socks.append(socket.create_connection(("127.0.0.1", d.port), timeout=20))
            socks[-1].sendall(start + part)
        whole = socket.create_connection(("127.0.0.1", d.port), timeout=20)
        socks.append(whole)
        whole.sendall(start + part + b" ")
        out = whole.recv(4096)
        assert b" 429 " in out and b"rate_limit_exceeded" in out and b"Retry-After: 1" in out, out
        assert d.post("/v1/chat/completions", {"model": "none", "messages": [{"role": "user", "content": "x"}]}).status == 404
        assert d.metric("process_resident_memory_bytes") - before < 600 << 20
    finally:
        for s in socks:
            s.close()

    def again():
        s = socket.create_connection(("127.0.0.1", d.port), timeout=20)
        s.sendall(start + part + b" ")
        out = s.recv(4096)
        s.close()
        return b" 400 " in out  # an empty body, read to its end
    d.until(again, 20, "room for large bodies again")


def test_connection_limit(make_daemon):
    """Within 16 of the total the answer is 503, and it goes away with the connections."""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2200:
        pytest.skip("needs 2,200 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2200), hard))
    d = make_daemon()
    socks = []
    try:
        for _ in range(1024):
            socks.append(socket.create_connection(("127.0.0.1", d.port), timeout=5))
        extra = socket.create_connection(("127.0.0.1", d.port), timeout=5)
        extra.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        out = extra.recv(4096)
        assert b" 503 " in out and b"Retry-After" in out, out
        extra.close()
        # beyond the reserve they wait in the backlog; when all go at once, the listener must come back
        for _ in range(60):
            socks.append(socket.create_connection(("127.0.0.1", d.port), timeout=5))
    finally:
        for s in socks:
            s.close()
    d.until(lambda: d.get("/livez", token=None).status == 200, 15, "serving again")
