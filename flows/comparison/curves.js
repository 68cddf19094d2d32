// Curves of the same stage in several runs: drawn from the numbers in the page, so that smoothing, scale and metric can
// be changed and every value can be read.
const DATA = JSON.parse(document.getElementById("data").textContent);
const by = id => document.getElementById(id);

(() => {
  if (!DATA.charts.length) return;
  const W = 420, H = 240, LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 30;
  const NS = "http://www.w3.org/2000/svg";
  const log = () => by("curve-log").checked;

  const el = (name, attributes, text) => {
    const e = document.createElementNS(NS, name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const said = v => v === 0 ? "0" : Math.abs(v) >= 1e4 || Math.abs(v) < 1e-3 ? v.toExponential(2) : String(+v.toPrecision(4));

  // Exponential moving average without start-up bias; the same decay whatever the number of points.
  const smooth = (points, decay) => {
    let total = 0, weight = 0;
    return points.map(([x, y]) => {
      total = decay * total + (1 - decay) * y;
      weight = decay * weight + 1 - decay;
      return [x, total / weight];
    });
  };

  const ticks = (low, high, count) => {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= raw * 0.999);
    const out = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) out.push(+(i * step).toPrecision(12));
    return out;
  };

  const scale = (values, start, end, logarithmic) => {
    let low = Math.min(...values), high = Math.max(...values);
    if (logarithmic) {
      const [a, b] = [Math.log10(low), Math.log10(high)], room = Math.max(b - a, 1e-6);
      const at = v => start + (end - start) * (Math.log10(v) - a) / room;
      const marks = [];
      for (let e = Math.floor(a); e <= Math.ceil(b); e++) for (const m of [1, 2, 5]) marks.push(m * 10 ** e);
      return { at, ticks: marks.filter(v => v >= low && v <= high) };
    }
    if (high - low < 1e-12) { low -= 0.5; high += 0.5; }
    const at = v => start + (end - start) * (v - low) / (high - low);
    return { at, ticks: ticks(low, high, 4) };
  };

  const draw = (box, chart, metric) => {
    const logarithmic = log(), decay = +by("curve-smooth").value;
    const usable = chart.metrics[metric].map(p => p && p.filter(([, y]) => !logarithmic || y > 0)).map(p => p && p.length ? p : null);
    box.svg.replaceChildren();
    const all = usable.flatMap(p => p || []);
    if (!all.length) { box.svg.append(el("text", { x: LEFT, y: 60, class: "tick" }, "no positive value")); return; }
    const x = scale(all.map(p => p[0]), LEFT, W - RIGHT, false), y = scale(all.map(p => p[1]), H - BOTTOM, TOP, logarithmic);
    for (const t of y.ticks) {
      box.svg.append(el("line", { x1: LEFT, x2: W - RIGHT, y1: y.at(t), y2: y.at(t), class: "grid" }));
      box.svg.append(el("text", { x: LEFT - 5, y: y.at(t) + 3.5, class: "tick end" }, said(t)));
    }
    for (const t of x.ticks) box.svg.append(el("text", { x: x.at(t), y: H - 12, class: "tick mid" }, said(t)));
    usable.forEach((points, i) => {
      if (!points) return;
      const path = p => p.map(([a, b]) => `${x.at(a).toFixed(2)},${y.at(b).toFixed(2)}`).join(" ");
      if (decay > 0) box.svg.append(el("polyline", { points: path(points), class: `line faint c${i % 8}` }));
      box.svg.append(el("polyline", { points: path(smooth(points, decay)), class: `line main c${i % 8}` }));
    });
    const cursor = box.svg.appendChild(el("line", { x1: 0, x2: 0, y1: TOP, y2: H - BOTTOM, class: "mark", visibility: "hidden" }));
    box.svg.onpointermove = e => {
      const r = box.svg.getBoundingClientRect();
      const at = (e.clientX - r.left) / r.width * W;
      const near = all.reduce((best, p) => Math.abs(x.at(p[0]) - at) < Math.abs(x.at(best[0]) - at) ? p : best)[0];
      cursor.setAttribute("x1", x.at(near)); cursor.setAttribute("x2", x.at(near)); cursor.setAttribute("visibility", "visible");
      const values = usable.map((points, i) => {
        if (!points) return `${DATA.names[i]}: –`;
        const p = points.reduce((best, q) => Math.abs(q[0] - near) < Math.abs(best[0] - near) ? q : best);
        return `${DATA.names[i]}: ${said(p[1])}${p[0] === near ? "" : ` (step ${said(p[0])})`}`;
      });
      box.tip.textContent = `step ${said(near)} · ${values.join(" · ")}`;
    };
    box.svg.onpointerleave = () => { cursor.setAttribute("visibility", "hidden"); box.tip.textContent = ""; };
  };

  const boxes = DATA.charts.map(chart => {
    const root = document.createElement("div"), head = document.createElement("div");
    const choose = document.createElement("select"), tip = document.createElement("div");
    const svg = el("svg", { viewBox: `0 0 ${W} ${H}`, class: "plot", role: "img", "aria-label": `curves of ${chart.stage}` });
    for (const name of Object.keys(chart.metrics)) choose.add(new Option(name, name));
    if (chart.left_out) choose.title = `${chart.left_out} more are in events.jsonl`;
    choose.setAttribute("aria-label", `metric of ${chart.stage}`);
    head.append(Object.assign(document.createElement("b"), { textContent: chart.stage }), " ", choose);
    tip.className = "tip";
    root.append(head, svg, tip);
    root.dataset.stage = chart.stage;
    by("curve-plots").append(root);
    const box = { svg, tip, draw: () => draw(box, chart, choose.value) };
    choose.onchange = box.draw;
    return box;
  });
  DATA.names.forEach((name, i) => {
    const item = document.createElement("span"), mark = document.createElement("b");
    mark.className = `swatch s${i % 8}`;
    item.append(mark, name);
    by("curve-legend").append(item);
  });
  const redraw = () => { by("curve-smooth-said").textContent = (+by("curve-smooth").value).toFixed(2); boxes.forEach(b => b.draw()); };
  by("curve-smooth").oninput = by("curve-log").onchange = redraw;
  redraw();
})();
