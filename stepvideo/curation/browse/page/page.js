"use strict";
// The page of `stepvideo browse`, after api.js. Filters become conditions in the server's language; the server counts and
// sorts. A token travels in a header only, so with one films are fetched as blobs.

const PAGE = 24; // clips at a time

let offset = 0;
let asked = 0; // number of the newest question: late answers of older ones are dropped
let timer = 0;
let urls = []; // blobs of the shown clips

// -------------------------------------------------------------------------------------------------------------- start

async function start() {
  let about;
  try { about = await json("v1/catalog"); } catch (e) {
    if ($("login").hidden) { $("app").hidden = false; tell("error", e.message); }
    return;
  }
  enter();
  const options = values => values.map(v => element("option", { value: v, textContent: v }));
  for (const name of ["kind", "subset"]) $(name).replaceChildren(element("option", { value: "", textContent: "all" }), ...options(about[name]));
  $("sort").replaceChildren(...options([...about.texts, ...about.numbers.map(c => c.name)]));
  $("filters").replaceChildren(...about.numbers.filter(c => c.max > c.min).map(slider));
  look();
}

// --------------------------------------------------------------------------------------------------------------- filters

const short = v => Number(v.toPrecision(4)).toString();

/** A column's histogram with two sliders; at its ends a slider asks for nothing. */
function slider(column) {
  const most = Math.max(...column.bins, 1);
  const bars = element("div", { className: "bars" }, ...column.bins.map(n => {
    const bar = element("i");
    bar.style.height = `${n ? Math.max(100 * n / most, 4) : 0}%`;
    return bar;
  }));
  for (const [subset, limit] of column.thresholds) {
    const at = (limit - column.min) / (column.max - column.min);
    if (at < 0 || at > 1) continue;
    const mark = element("b", { title: `${subset}: ${short(limit)}` });
    mark.style.left = `${100 * at}%`;
    bars.append(mark);
  }
  const said = element("small", { className: "effect" });
  const box = element("div", { className: "filter" }, element("p", {}, element("span", { textContent: column.name }), said), bars);
  box.dataset.name = column.name;
  for (const [side, sign, end] of [["low", ">=", column.min], ["high", "<=", column.max]]) {
    const value = element("input", { type: "number", step: "any", value: short(end) });
    value.ariaLabel = `${column.name} ${sign}`;
    const range = element("input", { type: "range", min: 0, max: 1000, value: side === "low" ? 0 : 1000, className: side });
    range.ariaLabel = `${column.name} ${sign}`;
    const condition = v => { box.dataset[side] = v === null ? "" : `${column.name} ${sign} ${v}`; };
    range.addEventListener("input", () => {
      const open = range.value === (side === "low" ? "0" : "1000");
      const v = column.min + (column.max - column.min) * range.value / 1000;
      value.value = short(open ? end : v);
      condition(open ? null : value.value);
      soon();
    });
    value.addEventListener("input", () => {
      const v = value.valueAsNumber;
      range.value = Number.isNaN(v) ? (side === "low" ? 0 : 1000) : 1000 * (v - column.min) / (column.max - column.min);
      condition(Number.isNaN(v) || value.value === short(end) ? null : v);
      soon();
    });
    box.append(element("div", { className: "side" }, range, value));
  }
  return box;
}

const quoted = text => (text.includes('"') ? `'${text.replaceAll("'", "")}'` : `"${text}"`);

/** Every condition, and the box that says what it does. */
function conditions() {
  const found = [];
  for (const name of ["kind", "subset"]) if ($(name).value) found.push([`${name} = "${$(name).value}"`, null]);
  if ($("caption").value) found.push([`caption contains ${quoted($("caption").value)}`, null]);
  if ($("condition").value.trim()) found.push([$("condition").value, null]);
  for (const box of document.querySelectorAll(".filter")) {
    for (const side of ["low", "high"]) if (box.dataset[side]) found.push([box.dataset[side], box]);
  }
  return found;
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(() => { offset = 0; look(); }, 60);
}

async function look() {
  const mine = ++asked;
  const parts = conditions();
  const question = {
    filters: parts.map(p => p[0]), sort: $("sort").value || "clip_id", descending: $("descending").checked, offset, limit: PAGE,
  };
  let answer;
  try { answer = await json("v1/clips", sent(question)); } catch (e) {
    if (mine === asked) tell("error", e.message);
    return;
  }
  if (mine !== asked) return;
  tell("error", "");
  $("count").textContent = `${answer.count.toLocaleString("en")} clips, counted in ${answer.ms} ms`;
  for (const e of document.querySelectorAll(".effect")) e.textContent = "";
  parts.forEach(([, box], i) => {
    if (box) box.querySelector(".effect").textContent += ` −${answer.alone[i].toLocaleString("en")}`;
  });
  const last = Math.min(offset + PAGE, answer.count);
  $("page").textContent = answer.count ? `${offset + 1} to ${last} of ${answer.count}` : "none";
  $("back").disabled = !offset;
  $("next").disabled = last >= answer.count;
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
  $("clips").replaceChildren(...answer.clips.map(card));
}

for (const id of ["kind", "subset", "caption", "condition", "sort", "descending"]) $(id).addEventListener("input", soon);
$("back").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); look(); });
$("next").addEventListener("click", () => { offset += PAGE; look(); });
$("reset").addEventListener("click", () => {
  for (const id of ["kind", "subset", "caption", "condition"]) $(id).value = "";
  offset = 0;
  start();
});

for (const button of document.querySelectorAll(".export")) {
  button.addEventListener("click", async () => {
    try {
      const { form } = button.dataset;
      const answer = await api(`v1/ids?form=${form}`, sent({ filters: conditions().map(p => p[0]) }));
      const href = URL.createObjectURL(await answer.blob());
      element("a", { href, download: `clips.${form}` }).click();
      setTimeout(() => URL.revokeObjectURL(href), 10000);
    } catch (e) { tell("error", e.message); }
  });
}

// ----------------------------------------------------------------------------------------------------------------- clips

/** An address that an element can load: the server's own, or a blob where a token is needed to ask for it. */
async function source(path) {
  if (!sessionStorage.getItem(TOKEN)) return path;
  const url = URL.createObjectURL(await (await api(path)).blob());
  urls.push(url);
  return url;
}

function card(clip) {
  const path = `v1/clips/${clip.clip_id}`;
  const picture = element("img", { alt: `${clip.kind} ${clip.clip_id}`, loading: "lazy" });
  const failed = () => picture.replaceWith(element("p", { className: "error", textContent: "It cannot be decoded." }));
  picture.addEventListener("error", failed);
  source(`${path}/still.jpg`).then(url => { picture.src = url; }, failed);
  const stage = element("button", { type: "button", className: "stage" }, picture);
  if (clip.kind === "clip") {
    stage.ariaLabel = `play ${clip.clip_id}`;
    stage.addEventListener("click", async () => {
      try {
        const film = element("video", { src: await source(`${path}/film.mp4`), controls: true, loop: true, muted: true, playsInline: true, autoplay: true });
        stage.replaceWith(film);
      } catch (e) { tell("error", e.message); }
    });
  }
  const rows = Object.entries(clip).filter(([name, v]) => typeof v === "number" && name !== "level");
  const tags = element("dl", {}, ...rows.flatMap(([name, v]) => [element("dt", { textContent: name }), element("dd", { textContent: short(v) })]));
  return element("article", { className: "card" }, stage,
    element("p", { className: "where" }, element("b", { textContent: clip.subset }), ` ${clip.file}`),
    element("p", { className: "why", textContent: clip.why }),
    element("p", { className: "caption", textContent: clip.caption.split("\n")[0] }),
    element("details", {}, element("summary", { textContent: "all of it" }), tags,
      element("p", { className: "where", textContent: clip.caption }), element("p", { className: "where", textContent: clip.clip_id })));
}

start();
