"use strict";
// The page of `stepvideo serve`, after api.js. A token travels in a header only, so files are fetched here and shown as
// blobs.

const PAGE = 20; // rows of history at a time
const OVER = ["done", "failed", "cancelled"];
const NAMES = { frames: "num_frames", steps: "num_inference_steps", cfg: "guidance_scale", cfg_schedule: "guidance_schedule" };
const LABELS = {
  negative_prompt: "Negative prompt", positive_suffix: "Suffix", seed: "Seed", frames: "Frames", steps: "Steps",
  cfg: "Guidance", cfg_schedule: "Schedule", time_shift: "Time shift", motion_score: "Motion score",
};

let shown = ""; // id of the video on the stage
let urls = []; // blobs of the stage
let oldest = ""; // where the history goes on
let eta = null; // {end, text}: the clock between two events

// ---------------------------------------------------------------------------------------------------------- start, token

async function start() {
  try {
    const { model, limits } = await json("v1/model");
    enter();
    describe(model, limits);
    await listHistory(true);
  } catch (e) {
    if (e.status !== 401) $("model").textContent = e.message;
  }
}

function describe(model, limits) {
  const kind = model.image_to_video ? "image to video" : "text to video";
  $("model").textContent = [model.name, kind, model.device, model.precision].filter(Boolean).join(" · ");
  $("image-field").hidden = !model.image_to_video;
  $("image").required = model.image_to_video;
  $("prompt").maxLength = limits.max_prompt;
  $("prompt").placeholder = model.examples[0] || "";
  $("form").elements.num_videos_per_prompt.max = limits.max_videos;
  $("form").elements.num_inference_steps.max = limits.max_steps;
  for (const [name, value] of Object.entries(model.defaults)) {
    const field = $("form").elements[NAMES[name] || name];
    if (field.options) field.options[0].textContent = `(${value})`;
    else field.placeholder = value;
  }
  $("examples").replaceChildren(...model.examples.map(text => {
    const chip = element("button", { type: "button", textContent: text });
    chip.addEventListener("click", () => { $("prompt").value = text; $("prompt").focus(); });
    return chip;
  }));
}

// --------------------------------------------------------------------------------------------------------------- request

const asBase64 = file => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
  reader.readAsDataURL(file);
});

async function request() {
  const body = {};
  for (const field of $("form").elements) {
    if (!field.name || field.value === "" || field.closest("[hidden]")) continue;
    body[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  const [file] = $("image").files;
  if (file && $("image").required) body.image = await asBase64(file);
  return body;
}

$("form").addEventListener("submit", async event => {
  event.preventDefault();
  tell("form-error", "");
  $("generate").disabled = true;
  try {
    const once = { "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
    const job = await json("v1/videos", sent(await request(), once));
    show(job);
    listHistory(true);
    $("stage").scrollIntoView({ block: "nearest" });
  } catch (e) {
    tell("form-error", e.message);
  } finally {
    $("generate").disabled = false;
  }
});

$("prompt").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});

// ----------------------------------------------------------------------------------------------------------------- stage

const seconds = s => s < 90 ? `${Math.ceil(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;

function progressText(job) {
  if (job.cancelling) return "Cancelling, at the end of this step";
  if (job.state === "queued") return job.position ? `Waiting, ${job.position} before it` : "Waiting";
  if (job.phase === "loading") return "Preparing the model";
  if (job.phase === "decoding") return "Decoding the frames";
  return `Step ${job.step} of ${job.total}`;
}

/** Puts a job on the stage and follows it to its end. */
function show(job) {
  clear();
  shown = job.id;
  $("stage").hidden = false;
  $("stage-title").textContent = job.request.prompt || "(no prompt)";
  listSettings(job);
  update(job);
  if (!OVER.includes(job.state)) follow(job.id);
}

function clear() {
  for (const url of urls) URL.revokeObjectURL(url);
  urls = [];
  $("videos").replaceChildren();
}

function update(job) {
  const over = OVER.includes(job.state);
  $("running").hidden = over;
  $("again").hidden = !over;
  $("cancel").disabled = job.cancelling;
  $("notices").replaceChildren(...job.notices.map(text => element("li", { textContent: text })));
  tell("stage-error", job.state === "failed" ? job.error : job.state === "cancelled" ? "Cancelled." : "");
  const known = job.step > 0;
  if (known) $("bar").value = job.step; else $("bar").removeAttribute("value");
  $("bar").max = job.total || 1;
  eta = job.eta_s === null ? null : { end: Date.now() + 1000 * job.eta_s, text: progressText(job) };
  $("status").textContent = progressText(job);
  tick();
  if (job.state === "done") play(job);
}

function tick() {
  if (!eta) return;
  const left = (eta.end - Date.now()) / 1000;
  $("status").textContent = left > 0.5 ? `${eta.text} · ${seconds(left)} left` : eta.text;
}
setInterval(tick, 1000);

/** Server-sent events by fetch, which unlike EventSource can send the token; begins anew when the stream breaks. */
async function follow(id) {
  while (shown === id) {
    try {
      const stop = new AbortController();
      const reader = (await api(`v1/videos/${id}/events`, { signal: stop.signal })).body
        .pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (shown !== id) { stop.abort(); return; }
        if (done) break;
        const events = (text + value).split("\n\n");
        text = events.pop();
        for (const event of events) {
          const job = JSON.parse(event.slice(event.indexOf("data: ") + 6));
          update(job);
          if (OVER.includes(job.state)) { listHistory(true); return; }
        }
      }
    } catch (e) {
      if (shown !== id) return;
      if (e.status === 401) return;
      if (e.status === 404) { tell("stage-error", e.message); $("running").hidden = true; return; }
      eta = null;
      $("status").textContent = `${e.message || "The connection broke."} Trying again …`;
    }
    await new Promise(done => setTimeout(done, 1000));
  }
}

$("cancel").addEventListener("click", async () => {
  try { update(await json(`v1/videos/${shown}`, { method: "DELETE" })); } catch (e) { tell("stage-error", e.message); }
});

async function blobUrl(path) {
  return URL.createObjectURL(await (await api(path.slice(1))).blob());
}

async function play(job) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  clear();
  for (const [i, path] of job.links.files.entries()) {
    try {
      const url = await blobUrl(path);
      if (shown !== job.id) { URL.revokeObjectURL(url); return; }
      urls.push(url);
      const image = job.settings[i].frames === 1;
      const player = image ? element("img", { src: url, alt: job.request.prompt })
        : element("video", { src: url, controls: true, loop: true, muted: true, autoplay: !still, playsInline: true });
      const name = `${job.id}-${i}.${image ? "png" : "mp4"}`;
      const took = job.finished - job.started;
      const figure = element("figure", {}, player, element("figcaption", {},
        element("span", { className: "soft", textContent: `seed ${job.settings[i].seed} · made in ${seconds(took)}` }),
        element("a", { href: url, download: name, textContent: "Download" })));
      figure.style.setProperty("--ratio", job.settings[i].width / job.settings[i].height);
      $("videos").append(figure);
    } catch (e) { tell("stage-error", e.message); }
  }
}

function listSettings(job) {
  const s = job.settings[0] || {};
  const rows = [["Size", `${s.width}×${s.height}`], ["Frames a second", job.request.fps]];
  for (const [name, label] of Object.entries(LABELS)) if (s[name] !== undefined && s[name] !== "") rows.push([label, s[name]]);
  $("settings").replaceChildren(...rows.map(([label, value]) => element("div",
    { className: String(value).length > 30 ? "long" : "" },
    element("dt", { textContent: label }), element("dd", { textContent: value }))));
  $("again").onclick = () => {
    $("form").reset();
    for (const [name, value] of Object.entries(job.request)) {
      const field = $("form").elements[name];
      if (field) field.value = value;
    }
    document.querySelector("details").open = Object.keys(job.request).length > 4;
    $("prompt").focus();
  };
}

// --------------------------------------------------------------------------------------------------------------- history

async function listHistory(fresh) {
  try {
    const { videos } = await json(`v1/videos?limit=${PAGE}${fresh ? "" : `&before=${oldest}`}`);
    const rows = videos.map(historyRow);
    if (fresh) $("history").replaceChildren(...rows); else $("history").append(...rows);
    if (videos.length) oldest = videos[videos.length - 1].id;
    $("more").hidden = videos.length < PAGE;
    $("empty").hidden = $("history").children.length > 0;
  } catch (e) {
    tell("form-error", e.message);
  }
}

function historyRow(job) {
  const picture = job.links.previews.length ? element("img", { alt: "" }) : element("span", { className: "blank" });
  if (job.links.previews.length) {
    blobUrl(job.links.previews[0]).then(url => {
      picture.onload = () => URL.revokeObjectURL(url);
      picture.src = url;
    }).catch(() => picture.replaceWith(element("span", { className: "blank" })));
  }
  const when = new Date(1000 * job.created).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  const button = element("button", { type: "button" }, picture,
    element("span", { className: "text", textContent: job.request.prompt || "(no prompt)" }),
    element("span", { className: `state ${job.state}`, textContent: job.state === "done" ? when : job.state }));
  button.addEventListener("click", async () => {
    try {
      show(await json(`v1/videos/${job.id}`));
      $("stage").scrollIntoView({ block: "nearest" });
    } catch (e) { tell("form-error", e.message); }
  });
  return element("li", {}, button);
}

$("more").addEventListener("click", () => listHistory(false));
start();
