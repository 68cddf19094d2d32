"use strict";
// The page of `stepvideo telemetry page` (figures inside) and `serve` (figures from the server, after api.js).
// A cube holds seconds of a step by section, rank and stretch of steps; everything on the map is worked out from it.

const at = id => document.getElementById(id);
let data = null;
let cube = null; // { sections, waiting, first, width, stretches, log: Float32Array }
let view = null; // rows of the map: { labels, members, relative, time, order }
let chosen = { row: -1, stretch: -1 };

function make(tag, properties = {}, ...children) {
  const e = Object.assign(document.createElement(tag), properties);
  e.append(...children);
  return e;
}

function draw(tag, attributes, ...children) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

const digits = v => (v === null || v === undefined || Number.isNaN(v) ? "–" : Number(v.toPrecision(4)).toLocaleString("en"));
const percent = (v, n = 1) => (v === null || v === undefined || Number.isNaN(v) ? "–" : `${(100 * v).toFixed(n)} %`);
const time = s => (s === null || Number.isNaN(s) ? "–" : s >= 1 ? `${digits(s)} s` : s >= 1e-3 ? `${digits(1e3 * s)} ms` : `${digits(1e6 * s)} µs`);

function median(values) {
  const known = Float64Array.from(values).filter(v => !Number.isNaN(v)).sort();
  return known.length ? known[(known.length - 1) >> 1] : NaN;
}

// ---------------------------------------------------------------------------------------------------------------- cube

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const numbers = new DataView(await new Response(stream).arrayBuffer());
  const log = new Float32Array(numbers.byteLength / 2);
  for (let i = 0; i < log.length; i++) {
    const v = numbers.getUint16(2 * i, true);
    log[i] = v ? (v - 1) / packed.scale - Math.log(1e9) : NaN; // log of seconds
  }
  return { ...packed, data: null, log };
}

const cell = (section, rank, stretch) => cube.log[(section * data.ranks.length + rank) * cube.stretches + stretch];
const steps = stretch => [cube.first + stretch * cube.width, Math.min(cube.first + (stretch + 1) * cube.width - 1, data.steps[1])];
const said = stretch => { const [a, b] = steps(stretch); return a === b ? `step ${a}` : `steps ${a} to ${b}`; };

/** Ranks as rows: alone, by node, or by the group that they exchange in. */
function grouped(by) {
  if (by === "rank") return { labels: data.ranks.map((r, i) => `rank ${r} on ${data.nodes[i]}`), members: data.ranks.map((_, i) => [i]) };
  const found = new Map();
  data.ranks.forEach((rank, i) => {
    const key = by === "node" ? data.nodes[i] : Math.floor(rank / data.block);
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(i);
  });
  const name = (key, members) => (by === "node" ? `node ${key}` : `group ${key} (ranks ${data.ranks[members[0]]} to ${data.ranks[members.at(-1)]})`);
  return { labels: [...found].map(([key, m]) => name(key, m)), members: [...found.values()] };
}

/** What the map shows: log time of each row and stretch, and its difference to the median of the ranks. */
function compute() {
  const section = at("section").selectedIndex, { labels, members } = grouped(at("rows").value);
  const wide = cube.stretches, time = new Float32Array(members.length * wide), relative = new Float32Array(time.length);
  for (let t = 0; t < wide; t++) {
    const middle = median(data.ranks.map((_, i) => cell(section, i, t)));
    members.forEach((ranks, row) => {
      const v = ranks.length === 1 ? cell(section, ranks[0], t) : median(ranks.map(i => cell(section, i, t)));
      time[row * wide + t] = v;
      relative[row * wide + t] = v - middle;
    });
  }
  const score = members.map((_, row) => median(relative.subarray(row * wide, (row + 1) * wide)));
  const order = members.map((_, row) => row);
  if (at("order").value === "slow") order.sort((a, b) => (score[b] || -99) - (score[a] || -99));
  view = { section, labels, members, time, relative, order };
}

// ----------------------------------------------------------------------------------------------------------------- map

const LIMIT = 0.3; // log: colours are full at +35 % and -26 %
const mixed = (a, b, s) => a.map((v, i) => v + (b[i] - v) * s);
const WHITE = [247, 247, 244], RED = [178, 24, 43], BLUE = [33, 102, 172], DARK = [68, 1, 84], GREEN = [33, 145, 140], YELLOW = [253, 231, 37];
const diverging = v => mixed(WHITE, v > 0 ? RED : BLUE, Math.min(1, Math.abs(v) / LIMIT) ** 0.7);
const sequential = s => (s < 0.5 ? mixed(DARK, GREEN, 2 * s) : mixed(GREEN, YELLOW, 2 * s - 1));

function paint() {
  const rows = view.order.length, wide = cube.stretches, canvas = at("heat"), relative = at("colour").value === "relative";
  canvas.width = wide;
  canvas.height = rows;
  canvas.style.height = `${rows * Math.max(1, Math.min(18, Math.floor(640 / rows)))}px`;
  const known = Float32Array.from(view.time).filter(v => !Number.isNaN(v)).sort();
  const low = known[Math.floor(known.length * 0.01)], high = known[Math.ceil(known.length * 0.99) - 1];
  const image = canvas.getContext("2d").createImageData(wide, rows);
  view.order.forEach((row, y) => {
    for (let t = 0; t < wide; t++) {
      const v = (relative ? view.relative : view.time)[row * wide + t], o = 4 * (y * wide + t);
      if (Number.isNaN(v)) continue; // nothing was told: the ground shows
      image.data.set(relative ? diverging(v) : sequential(Math.max(0, Math.min(1, (v - low) / (high - low || 1)))), o);
      image.data[o + 3] = 255;
    }
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  const ramp = make("i"), marks = [0, 0.25, 0.5, 0.75, 1].map(s => `rgb(${(relative ? diverging((2 * s - 1) * LIMIT) : sequential(s)).map(Math.round)})`);
  ramp.style.background = `linear-gradient(to right, ${marks})`;
  const ends = relative ? ["26 % faster", "35 % slower than the median of the ranks"] : [time(Math.exp(low)), time(Math.exp(high))];
  const waits = cube.waiting[view.section] ? " This section is waiting for others: the slow ranks wait least." : "";
  at("legend").replaceChildren(ends[0], ramp, `${ends[1]}. Down: ${at("rows").value}s, across: steps. A click shows what the step was made of.${waits}`);
  mark();
}

function mark() {
  const y = view.order.indexOf(chosen.row), cursor = at("cursor"), canvas = at("heat");
  cursor.hidden = y < 0 || chosen.stretch < 0;
  if (cursor.hidden) return;
  const w = 100 / cube.stretches, h = canvas.clientHeight / view.order.length;
  Object.assign(cursor.style, { left: `${w * chosen.stretch}%`, width: `${w}%`, top: `${h * y - 1}px`, height: `${h + 2}px` });
}

function under(event) {
  const box = at("heat").getBoundingClientRect();
  const stretch = Math.min(cube.stretches - 1, Math.floor((event.clientX - box.left) / box.width * cube.stretches));
  const y = Math.min(view.order.length - 1, Math.floor((event.clientY - box.top) / box.height * view.order.length));
  return { row: view.order[Math.max(0, y)], stretch: Math.max(0, stretch) };
}

function tellCell({ row, stretch }) {
  const i = row * cube.stretches + stretch;
  at("under").textContent = `${view.labels[row]}, ${said(stretch)}: ${time(Math.exp(view.time[i]))}, ${percent(Math.expm1(view.relative[i]))} over the median`;
}

function choose(place) {
  chosen = place;
  mark();
  if (place.row < 0) return at("detail").replaceChildren();
  tellCell(place);
  const members = view.members[place.row], t = place.stretch, head = ["section", "here", "median", "difference", "most"];
  const rows = cube.sections.map((name, s) => {
    const here = Math.exp(median(members.map(i => cell(s, i, t))));
    const all = data.ranks.map((_, i) => Math.exp(cell(s, i, t))), middle = median(all);
    const over = here / middle - 1, costs = here - middle;
    const bad = !cube.waiting[s] && name !== "step" && over > 0.05 && costs > 0.005 * Math.exp(cell(0, members[0], t));
    return make("tr", {}, make("td", { textContent: name + (cube.waiting[s] ? " (waiting)" : "") }),
      ...[time(here), time(middle)].map(v => make("td", { textContent: v })),
      make("td", { textContent: percent(over), className: bad ? "bad" : "" }),
      make("td", { textContent: time(all.reduce((a, b) => (b > a ? b : a), 0)) }));
  });
  const table = make("table", {}, make("tr", {}, ...head.map(h => make("th", { textContent: h }))), ...rows);
  const x = [...Array(cube.stretches).keys()].map(t => steps(t)[0]), s = view.section;
  const line = f => x.map((_, t) => Math.exp(f(t)));
  const curves = [["here", line(t => median(members.map(i => cell(s, i, t))))], ["median of the ranks", line(t => median(data.ranks.map((_, i) => cell(s, i, t))))]];
  at("detail").replaceChildren(make("h3", { textContent: `${view.labels[place.row]}, ${said(t)}` }), make("div", { className: "wide" }, table),
    make("div", {}, lines(`${cube.sections[s]}, seconds of a step`, x, curves)));
}

// --------------------------------------------------------------------------------------------------------------- charts

function lines(title, x, curves, from0 = false) {
  const W = 520, H = 230, L = 52, R = 10, T = 40, B = 24;
  const values = curves.flatMap(c => c[1]).filter(v => v !== null && !Number.isNaN(v));
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  svg.append(draw("text", { x: L, y: 14, class: "title" }, title));
  if (!values.length) { svg.append(draw("text", { x: L, y: 60 }, "nothing was told")); return svg; }
  const sorted = values.toSorted((a, b) => a - b);
  let low = from0 ? 0 : sorted[0], high = Math.min(sorted.at(-1), 3 * sorted[sorted.length >> 1]); // a spike does not flatten the rest
  if (high - low < 1e-3 * high) { low = 0.98 * low; high = 1.02 * high; }
  const px = v => L + (W - L - R) * (v - x[0]) / (x.at(-1) - x[0] || 1), py = v => H - B - (H - T - B) * Math.min(1, (v - low) / (high - low));
  for (let i = 0; i <= 4; i++) {
    const v = low + (high - low) * i / 4;
    svg.append(draw("line", { x1: L, x2: W - R, y1: py(v), y2: py(v), class: "grid" }), draw("text", { x: L - 6, y: py(v) + 4, "text-anchor": "end" }, digits(v)));
  }
  for (const v of [x[0], x[x.length >> 1], x.at(-1)]) svg.append(draw("text", { x: px(v), y: H - 8, "text-anchor": v === x[0] ? "start" : v === x.at(-1) ? "end" : "middle" }, `${v}`));
  let left = L;
  curves.forEach(([name, ys], i) => {
    let d = "", pen = "M";
    ys.forEach((v, j) => { if (v === null || Number.isNaN(v)) { pen = "M"; return; } d += `${pen}${px(x[j]).toFixed(1)} ${py(v).toFixed(1)}`; pen = "L"; });
    svg.append(draw("path", { d: d || "M0 0", class: `s${i}` }), draw("rect", { x: left, y: 22, width: 12, height: 4, class: `f${i}` }), draw("text", { x: left + 16, y: 29 }, name));
    left += 26 + 6.2 * name.length;
  });
  return svg;
}

/** Parts of a step over the steps, one on the other: seconds of the mean rank. */
function stack() {
  const W = 1080, H = 260, L = 52, R = 10, T = 34, B = 24, n = data.ranks.length;
  const parts = cube.sections.map((name, s) => [name, s]).filter(([name]) => name !== "step" && !name.includes("/")).slice(0, 8);
  const mean = (s, t) => { let sum = 0, k = 0; for (let i = 0; i < n; i++) { const v = cell(s, i, t); if (!Number.isNaN(v)) { sum += Math.exp(v); k++; } } return k ? sum / k : 0; };
  const sums = parts.map(([, s]) => [...Array(cube.stretches).keys()].map(t => mean(s, t)));
  const high = Math.max(...sums[0]?.map((_, t) => sums.reduce((a, p) => a + p[t], 0)) ?? [1], 1e-9);
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "what a step is made of, over the steps" });
  const wide = (W - L - R) / cube.stretches, y = v => (H - T - B) * v / high;
  const base = new Array(cube.stretches).fill(H - B);
  for (let i = 0; i <= 4; i++) svg.append(draw("text", { x: L - 6, y: H - B - y(high * i / 4) + 4, "text-anchor": "end" }, digits(high * i / 4)));
  let left = L;
  parts.forEach(([name], p) => {
    let top = "", down = "";
    for (let t = 0; t < cube.stretches; t++) {
      const a = (L + t * wide).toFixed(1), b = (L + (t + 1) * wide).toFixed(1), under = base[t].toFixed(1);
      base[t] -= y(sums[p][t]);
      top += `${t ? "L" : "M"}${a} ${base[t].toFixed(1)}L${b} ${base[t].toFixed(1)}`;
      down = `L${b} ${under}L${a} ${under}` + down;
    }
    svg.append(draw("path", { d: `${top}${down}Z`, class: `f${p}` }, draw("title", {}, name)));
    svg.append(draw("rect", { x: left, y: 12, width: 10, height: 10, class: `f${p}` }), draw("text", { x: left + 14, y: 21 }, name));
    left += 26 + 6.4 * name.length;
  });
  for (const t of [0, cube.stretches - 1]) svg.append(draw("text", { x: L + t * wide, y: H - 8 }, `${steps(t)[0]}`));
  return svg;
}

function table(target, head, rows) {
  target.replaceChildren(make("tr", {}, ...head.map(h => make("th", { textContent: h }))),
    ...rows.map(cells => make("tr", {}, ...cells.map(c => make("td", { textContent: c })))));
  return target;
}

const titled = (title, head, rows, more = "") => make("div", {}, make("h3", { textContent: title }), make("p", { textContent: more, className: "soft" }), table(make("table"), head, rows));

// ----------------------------------------------------------------------------------------------------------------- page

function goTo(anomaly) {
  const section = cube.sections.indexOf(String(anomaly.evidence.section || "").replace(" (own)", ""));
  if (section >= 0) at("section").selectedIndex = section;
  const kind = ["rank", "node", "group"].includes(anomaly.where.kind) ? anomaly.where.kind : "rank";
  at("rows").value = kind === "group" && data.block < 2 ? "rank" : kind;
  compute();
  paint();
  const wanted = anomaly.where.ranks[0];
  const row = wanted === undefined ? -1 : view.members.findIndex(m => m.some(i => data.ranks[i] === wanted));
  const stretch = Math.max(0, Math.min(cube.stretches - 1, Math.floor((anomaly.since_step - cube.first) / cube.width)));
  choose({ row: row < 0 ? 0 : row, stretch });
  at("map").scrollIntoView({ block: "center" });
}

function anomalies() {
  const items = data.anomalies.map(a => {
    const figures = Object.entries(a.evidence).map(([k, v]) => `${k} ${typeof v === "number" ? digits(v) : v}`).join(", ");
    const go = make("button", { type: "button", textContent: `${a.said}, since step ${a.since_step}` });
    go.addEventListener("click", () => goTo(a));
    return make("li", { className: a.severity }, make("b", { textContent: a.kind.replaceAll("_", " ") + ": " }), go,
      make("div", { textContent: figures, className: "num" }), make("div", { textContent: a.suggestion, className: "soft" }));
  });
  at("anomalies").replaceChildren(...(items.length ? items : [make("li", { className: "note", textContent: "None was found." })]));
}

function figures() {
  const s = data.summary, tiles = [
    ["a step", time(s.step_s)], ["predicted", time(s.predicted_step_s)], ["measured / predicted", digits(s.measured_over_predicted)],
    ["tokens a second", digits(s.tokens_per_s)], ["samples a second", digits(s.samples_per_s)], ["MFU", percent(s.mfu)], ["waiting for data", percent(s.data_wait_share)],
  ].filter(t => t[1] !== "–");
  at("tiles").replaceChildren(...tiles.map(([name, value]) => make("div", {}, make("small", { textContent: name }), make("b", { textContent: value }))));
  table(at("breakdown"), ["section", "of a step", "share", "median", "90 %", "99 %", ""], data.breakdown.map(r => [
    r.section, time(r.seconds), percent(r.share), time(r.p50 ?? null), time(r.p90 ?? null), time(r.p99 ?? null), r.waiting ? "waiting for others" : ""]));
  const c = data.series;
  at("speed").replaceChildren(lines("seconds of a step", c.step, [["measured", c.seconds], ["predicted", c.predicted]].filter(l => l[1].some(v => v !== null))));
  at("rate").replaceChildren(lines("tokens a second", c.step, [["tokens/s", c.tokens_per_s]], true));
  const used = by => data.consumption[by].map(r => [r[by], digits(r.samples), percent(r.share), percent(r.token_share), digits(r.different)]);
  const d = data.duplicates, head = ["samples", "of samples", "of tokens", "different"];
  at("data").replaceChildren(
    titled("By source", ["source", ...head], used("source")), titled("By kind", ["kind", ...head], used("kind")),
    titled("By bucket", ["bucket", "samples", "share", "expected"], data.mix.map(r => [r.bucket, digits(r.samples), percent(r.share), percent(r.expected)])),
    titled("Duplicates", ["sample", "source", "times", "again in its epoch", "steps"], d.worst.map(r => [r.sample_id, r.source, r.times, r.again, `${r.first} to ${r.last}`]),
      `${digits(d.repeated)} of ${digits(d.samples)} samples (${percent(d.rate, 2)}) came again within an epoch of their bucket and source.`));
}

async function show(found) {
  const before = at("section").value;
  data = found;
  cube = await unpack(found.cube);
  at("app").hidden = false;
  at("title").textContent = document.title = `${data.stage || "Telemetry"} ${data.run === data.stage ? "" : data.run}`.trim();
  at("about").textContent = `steps ${data.steps[0]} to ${data.steps[1]}, ${data.ranks.length} ranks on ${new Set(data.nodes).size} nodes, ` +
    `${data.attempts} attempt${data.attempts === 1 ? "" : "s"}; a column of the map is ${cube.width} step${cube.width === 1 ? "" : "s"}`;
  at("section").replaceChildren(...cube.sections.map(s => make("option", { value: s, textContent: s })));
  const guilty = data.anomalies.find(a => a.kind.startsWith("slow_"))?.evidence.section;
  at("section").value = [before, guilty, cube.sections.find(s => s !== "step")].find(s => cube.sections.includes(s)) ?? cube.sections[0] ?? "";
  at("rows").querySelector("[value=group]").disabled = data.block < 2;
  figures();
  anomalies();
  if (!cube.stretches || !cube.sections.length) return;
  at("stack").replaceChildren(stack());
  compute();
  paint();
  document.body.dataset.ready = "yes";
}

for (const id of ["section", "rows", "order"]) at(id).addEventListener("input", () => { chosen = { row: -1, stretch: -1 }; compute(); paint(); choose(chosen); });
at("colour").addEventListener("input", paint);
at("heat").addEventListener("mousemove", e => tellCell(under(e)));
at("heat").addEventListener("click", e => choose(under(e)));
at("heat").addEventListener("keydown", e => {
  const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
  if (!move) return;
  e.preventDefault();
  const y = Math.max(0, Math.min(view.order.length - 1, Math.max(0, view.order.indexOf(chosen.row)) + move[0]));
  choose({ row: view.order[y], stretch: Math.max(0, Math.min(cube.stretches - 1, chosen.stretch + move[1])) });
});
addEventListener("resize", () => view && mark());

// --------------------------------------------------------------------------------------------------------------- server

let range = "";

async function start() {
  const held = at("held");
  if (held) return show(JSON.parse(held.textContent));
  try { await show(await json(`v1/telemetry${range}`)); enter(); tell("error", ""); } catch (e) {
    if (at("login").hidden) { at("app").hidden = false; tell("error", e.message); }
    return;
  }
  at("live").hidden = false;
}

at("zoom").addEventListener("click", () => { range = `?first=${at("first").valueAsNumber || 0}&last=${at("last").valueAsNumber || 0}`; start(); });
at("all").addEventListener("click", () => { range = ""; start(); });
setInterval(() => { if (at("follow").checked && !document.hidden) start(); }, 10000);
start();
