// The dashboard: polls /v1/status and the jobs (both answer 304 while nothing changed), and follows one job's event stream.
// The token stays in this tab's sessionStorage.  Text from the server is only ever put in as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const KEY = "qlorad.token";
let token = sessionStorage.getItem(KEY) || "";
let chosen = null;        // id of the job shown below
let follow = null;        // AbortController of its stream
let points = { train: [], valid: [] };
const tags = {};          // ETag by path
const cache = {};         // last body by path

function headers() {
  return token ? { Authorization: "Bearer " + token } : {};
}

class Refused extends Error {}

async function get(path) {
  const h = headers();
  if (tags[path]) h["If-None-Match"] = tags[path];
  const resp = await fetch(path, { headers: h, cache: "no-store" });
  if (resp.status === 304) return cache[path];
  if (resp.status === 401 || resp.status === 403) throw new Refused("the token was not accepted");
  if (!resp.ok) throw new Error("HTTP " + resp.status);
  const tag = resp.headers.get("ETag");
  if (tag) tags[path] = tag;
  return (cache[path] = await resp.json());
}

function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i === 0 ? n : n.toFixed(n < 10 ? 2 : 1)) + " " + units[i];
}

function duration(s) {
  if (!Number.isFinite(s)) return "";
  s = Math.max(0, Math.round(s));
  if (s < 90) return s + " s";
  if (s < 5400) return Math.round(s / 60) + " min";
  return (s / 3600).toFixed(1) + " h";
}

function node(tag, text, cls) {
  const e = document.createElement(tag);
  if (text !== undefined && text !== null) e.textContent = String(text);
  if (cls) e.className = cls;
  return e;
}

function facts(list, entries) {
  list.replaceChildren();
  for (const [name, value] of entries) list.append(node("dt", name, "dim"), node("dd", value));
}

function showStatus(s) {
  const engine = s.engine || {};
  const state = s.draining ? "draining" : engine.state || "unknown";
  $("engine").textContent = state;
  $("engine").className = "badge " + state;
  $("model").textContent = typeof engine.model === "string" ? engine.model : engine.model ? engine.model.name || "" : "";
  const inference = s.inference || {};
  $("running").textContent = inference.running || 0;
  $("waiting").textContent = inference.waiting || 0;
  $("tps").textContent = Number(inference.tokens_per_second || 0).toFixed(1);
  facts($("engine-facts"), [["device", engine.device || "–"], ["up", duration(s.uptime)], ["restarts", engine.restarts || 0],
    ["last exit", engine.last_exit === null || engine.last_exit === undefined ? "–" : JSON.stringify(engine.last_exit)]]);
  facts($("memory"), Object.entries(s.memory || {}).map(([k, v]) => [k, bytes(Number(v))]));
  facts($("disk"), Object.entries(s.disk || {}).map(([k, v]) => [k, bytes(Number(v))]));
  $("updated").textContent = new Date().toLocaleTimeString();
}

function jobRow(job) {
  const q = job.qlora || {}, p = q.progress || {}, tr = node("tr");
  const share = p.total_steps ? p.step / p.total_steps : job.status === "succeeded" ? 1 : 0;
  const bar = node("progress"), cell = node("td"), id = node("td");
  bar.max = 1;
  bar.value = share;
  id.append(node("code", job.id));
  cell.append(bar, " " + (p.total_steps ? p.step + "/" + p.total_steps : ""));
  tr.append(id, node("td", q.state || job.status, job.status === "failed" ? "bad" : ""), cell,
    node("td", Number.isFinite(p.train_loss) ? p.train_loss.toFixed(3) : ""),
    node("td", Number.isFinite(p.tokens_per_second) ? Math.round(p.tokens_per_second) + " tok/s" : ""),
    node("td", job.status === "running" ? duration(p.eta_seconds) : ""),
    node("td", new Date(job.created_at * 1000).toLocaleString()));
  tr.classList.toggle("chosen", job.id === chosen);
  tr.addEventListener("click", () => choose(job.id));
  return tr;
}

function showJobs(list) {
  $("jobs").replaceChildren(...list.data.map(jobRow));
  $("no-jobs").hidden = list.data.length > 0;
  if (!chosen && list.data.length > 0) choose(list.data[0].id);
}

// ---- the chart: two polylines on a canvas, axes with a few round numbers
function draw() {
  const canvas = $("chart"), g = canvas.getContext("2d"), css = getComputedStyle(document.documentElement);
  const all = points.train.concat(points.valid), W = canvas.width, H = canvas.height, L = 48, B = 24, T = 10, R = 10;
  g.clearRect(0, 0, W, H);
  g.font = "12px system-ui, sans-serif";
  g.fillStyle = g.strokeStyle = css.getPropertyValue("--dim");
  if (all.length === 0) { g.fillText("no steps yet", L, H / 2); return; }
  const x1 = Math.max(...all.map((p) => p[0]), 2), ys = all.map((p) => p[1]);
  let y0 = Math.min(...ys), y1 = Math.max(...ys);
  if (y1 - y0 < 1e-6) { y0 -= 0.5; y1 += 0.5; }
  const X = (s) => L + (W - L - R) * (s - 1) / Math.max(1, x1 - 1), Y = (v) => T + (H - T - B) * (y1 - v) / (y1 - y0);
  g.lineWidth = 1;
  for (let i = 0; i <= 4; i++) {
    const v = y0 + (y1 - y0) * i / 4, s = Math.round(1 + (x1 - 1) * i / 4);
    g.globalAlpha = 0.25;
    g.beginPath(); g.moveTo(L, Y(v)); g.lineTo(W - R, Y(v)); g.stroke();
    g.globalAlpha = 1;
    g.fillText(v.toFixed(2), 6, Y(v) + 4);
    g.fillText(String(s), Math.min(X(s), W - R - 24), H - 6);
  }
  for (const [name, list] of Object.entries(points)) {
    g.strokeStyle = g.fillStyle = css.getPropertyValue("--" + name);
    g.lineWidth = 1.6;
    g.beginPath();
    list.forEach(([s, v], i) => (i ? g.lineTo(X(s), Y(v)) : g.moveTo(X(s), Y(v))));
    g.stroke();
    if (name === "valid" || list.length === 1) for (const [s, v] of list) g.fillRect(X(s) - 2, Y(v) - 2, 4, 4);
  }
}

function onEvent(ev) {
  const d = ev.data || {}, li = node("li", null, ev.level);
  if (Number.isFinite(d.step) && Number.isFinite(d.train_loss)) points.train.push([d.step, d.train_loss]);
  const valid = Number.isFinite(d.full_valid_loss) ? d.full_valid_loss : d.valid_loss;
  if (Number.isFinite(d.step) && Number.isFinite(valid)) points.valid.push([d.step, valid]);
  li.append(node("time", new Date(ev.created_at * 1000).toLocaleTimeString()), ev.message);
  $("events").prepend(li);
  while ($("events").childElementCount > 300) $("events").lastChild.remove();
}

// Server-sent events over fetch, since EventSource cannot send the token.
async function stream(id, signal) {
  let last = "";
  while (!signal.aborted) {
    try {
      const h = headers();
      if (last) h["Last-Event-ID"] = last;
      const resp = await fetch("/v1/fine_tuning/jobs/" + encodeURIComponent(id) + "/events?stream=true", { headers: h, signal });
      if (resp.status === 204) return;
      if (!resp.ok) throw new Error("HTTP " + resp.status);
      const reader = resp.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        let end, fresh = false;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const block = text.slice(0, end).split("\n");
          text = text.slice(end + 2);
          const data = block.filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
          const eid = block.find((l) => l.startsWith("id: "));
          if (data === "[DONE]") { draw(); return; }
          if (eid) last = eid.slice(4);
          if (data) { onEvent(JSON.parse(data)); fresh = true; }
        }
        if (fresh) requestAnimationFrame(draw);
      }
    } catch (e) {
      if (signal.aborted) return;
    }
    await new Promise((r) => setTimeout(r, 2000));
  }
}

function choose(id) {
  if (id === chosen && follow) return;
  if (follow) follow.abort();
  chosen = id;
  points = { train: [], valid: [] };
  $("events").replaceChildren();
  $("detail").hidden = false;
  $("detail-id").textContent = id;
  draw();
  follow = new AbortController();
  stream(id, follow.signal);
}

function askToken(message) {
  $("login").hidden = false;
  $("main").hidden = true;
  $("forget").hidden = true;
  $("login-error").textContent = message || "";
  $("token").focus();
}

let timer = 0;
async function poll() {
  clearTimeout(timer);
  let wait = document.hidden ? 10000 : 1500;
  try {
    const [status, jobs] = await Promise.all([get("/v1/status"), get("/v1/fine_tuning/jobs?limit=50")]);
    $("login").hidden = true;
    $("main").hidden = false;
    $("forget").hidden = !token;
    showStatus(status);
    showJobs(jobs);
  } catch (e) {
    if (e instanceof Refused) { askToken(token ? e.message : ""); return; }
    $("engine").textContent = "no connection";
    $("engine").className = "badge down";
    wait = 5000;
  }
  timer = setTimeout(poll, wait);
}

$("login").addEventListener("submit", (ev) => {
  ev.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem(KEY, token);
  $("token").value = "";
  poll();
});
$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  location.reload();
});
poll();
