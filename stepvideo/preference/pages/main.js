// The annotator's page: log in, read, watch, answer, until there is no more. The server knows where everybody stands;
// the page keeps only what must survive a reload: the token, an answer on its way, what was seen, the pace.

import { mount, playKey, player, say as sayControls, unmount } from "./controls.js";
import { makeForm, sayChoice } from "./form.js";
import { fill as fillGuide } from "./guide.js";
import { deliver, insist, post, waiting } from "./outbox.js";
import { takeToken } from "./token.js";
import { language, languageSwitch, local, t } from "./words.js";

export { player } from "./controls.js"; // for tests

const SEEN = "stepvideo-seen"; // {assignment: true} watched to the end
const BEGUN = "stepvideo-begun";
const PACE = "stepvideo-pace"; // seconds that the last answers took
const LAST = "stepvideo-last"; // {assignment, answer}: shown again when it is undone

let study = null;
let item = null; // as the server gave it, and the form
let busy = false;
let hinted = ""; // said until the next change
let onScreen = 0; // ms that the item has been on a visible page
let since = 0;
let early = new AbortController(); // of what is fetched for the next item: it may be another one after an undo or a skip
const blobs = new Map(); // media id → promise of its blob: address

const kept = (key, otherwise) => JSON.parse(sessionStorage.getItem(key)) ?? otherwise;
const keep = (key, value) => sessionStorage.setItem(key, JSON.stringify(value));

// --------------------------------------------------------------------------------------------------------------- start

async function start() {
  try { study = await insist(() => json("api/study")); } catch (e) {
    if (e.status !== 401) tell("banner", t("refused", { why: e.message }));
    return;
  }
  enter();
  $("help").hidden = false;
  languageSwitch($("languages"), study.languages || ["zh", "en"], say);
  if (waiting()) await settle(deliver);
  else if (kept(BEGUN)) await next();
  else { show("intro"); $("begin").focus({ preventScroll: true }); }
}

function show(id) {
  for (const section of ["intro", "work", "end"]) $(section).hidden = section !== id;
  document.body.dataset.screen = id;
  if (id !== "work") unmount();
}

function say() {
  if (!study) return;
  document.title = $("title").textContent = $("intro-title").textContent = $("guide-title").textContent = local(study.title);
  for (const id of ["intro-guide", "guide"]) fillGuide($(id), study);
  $("intro-practice").hidden = !study.practice;
  $("intro-practice").textContent = t("practiceFirst", { n: study.practice });
  fillReasons();
  if (!item) return;
  item.form?.say();
  sayControls();
  sayItem();
}

function sayItem() {
  $("prompt").textContent = local(item.prompt);
  $("prompt").lang = item.prompt[language] ? language : "";
  $("practice").hidden = !item.practice;
  $("progress").hidden = false;
  $("bar").max = item.total;
  $("bar").value = item.number - 1;
  $("count").textContent = t("count", item);
  const pace = kept(PACE, []).toSorted((a, b) => a - b);
  const left = pace[pace.length >> 1] * (item.total - item.number + 1) / 60;
  const time = left < 1 ? t("underMinute") : left < 90 ? t("minutes", { n: Math.round(left) }) : t("hours", { n: (left / 60).toFixed(1) });
  $("eta").textContent = pace.length > 2 ? t("eta", { time }) : "";
  hint();
}

// ---------------------------------------------------------------------------------------------------------------- item

async function next() {
  show("work");
  $("feedback").hidden = true;
  $("hint").textContent = t("loading");
  try {
    const given = await insist(() => json("api/next", sent({})));
    if (given.done === true) { await end(); return; }
    item = { ...given, form: null };
    item.form = makeForm(study, changed);
    $("answer").hidden = false;
    $("answer").replaceChildren(item.form.element);
    document.body.dataset.kind = study.kind;
    unmount();
    onScreen = 0;
    since = performance.now();
    sayItem();
    await watch();
  } catch (e) { refused(e); }
}

async function watch() {
  const { assignment, media } = item;
  try {
    const urls = await Promise.all(media.map(m => insist(() => fetched(m))));
    await mount(urls, item, hint);
  } catch (e) {
    if (e.status === 401) throw e;
    note(t("broken", { why: e.message }));
    return;
  }
  if (kept(SEEN, {})[assignment]) for (const s of player.seen) s.fill(1);
  const last = kept(LAST, {});
  if (last.assignment === assignment) item.form.fill(last.answer);
  sayControls();
  hint();
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) player.play(0);
  for (const [id, blob] of blobs) {
    if (media.some(m => m.id === id)) continue;
    blobs.delete(id);
    blob.then(url => URL.revokeObjectURL(url), () => {});
  }
  prepare(assignment);
}

/** Fetches the next item's films while this one is watched; what fails is fetched again when it is needed. */
async function prepare(assignment) {
  const { signal } = early = new AbortController();
  try {
    const { media } = await json("api/ahead", { ...sent({}), signal });
    for (const film of media) {
      if (item?.assignment !== assignment) return;
      await fetched(film, { signal, priority: "low" });
    }
  } catch (e) {
    if (!(e instanceof Refused) && e.name !== "AbortError") throw e;
  }
}

/** The blob: address of a film; a token travels in a header only, so the film is fetched. */
function fetched({ id, url }, options = {}) {
  if (!blobs.has(id)) {
    const blob = api(url.replace(/^\//, ""), options).then(async answer => URL.createObjectURL(await answer.blob()));
    blobs.set(id, blob);
    blob.catch(() => blobs.delete(id));
  }
  return blobs.get(id);
}

// -------------------------------------------------------------------------------------------------------------- answer

const allSeen = () => Boolean(player) && player.coverage().every(c => c === 1);

/** What stands between the annotator and the answer, and whether the answer may be given. */
function hint() {
  if (!item?.form || !player || busy) return;
  const seen = allSeen();
  if (seen && !kept(SEEN, {})[item.assignment]) keep(SEEN, { [item.assignment]: true });
  item.form.allow(seen);
  const missing = item.form.missing();
  const said = hinted || (!seen ? t(item.media.length > 1 ? "watchBoth" : "watchOne")
    : missing.length ? t("missing", { names: missing.join(language === "zh" ? "、" : ", ") }) : t("ready"));
  if ($("hint").textContent !== said) $("hint").textContent = said; // else it would be read aloud at every frame
  $("hint").classList.toggle("good", !hinted && seen && !missing.length);
}

function note(text) {
  hinted = text;
  $("hint").textContent = text;
}

function changed(submitted) {
  hinted = "";
  hint();
  const answer = submitted && item.form.value();
  if (!answer || !allSeen() || busy) return;
  const dwell_s = (onScreen + performance.now() - since) / 1000;
  const watched = player.seen.map(s => s.reduce((a, b) => a + b, 0) / player.fps);
  keep(LAST, { assignment: item.assignment, answer });
  if (!item.practice) keep(PACE, [...kept(PACE, []), dwell_s].slice(-21));
  settle(() => post("api/votes", { assignment: item.assignment, answer, watched, dwell_s }));
}

/** Does what ends an item, then goes on. */
async function settle(ask) {
  if (busy) return;
  busy = true;
  item?.form?.allow(false);
  note(t("saving"));
  try {
    const answer = await ask();
    busy = false;
    note("");
    if (answer.feedback) feedback(answer.feedback);
    else await next();
  } catch (e) {
    busy = false;
    if (e.status === 409) { await next(); note(t("already")); }
    else { refused(e); if (!item && e.status !== 401) await next(); }
  }
}

function refused(e) {
  if (!(e instanceof Refused)) throw e;
  if (e.status === 401) return; // the token is asked for, and `start` goes on from there
  hint();
  note(t("refused", { why: e.message }));
}

function feedback({ right, expected, why }) {
  player?.pause();
  $("answer").hidden = true;
  $("feedback").hidden = false;
  $("feedback").className = `card ${right ? "good" : "bad"}`;
  const wanted = Array.isArray(expected) ? expected : [expected];
  $("verdict").textContent = [right ? t("right_answer") : t("wrong_answer", { expected: wanted.map(sayChoice).join(" / ") }), local(why)].join(" ");
  $("on").focus();
}

async function undo() {
  if (busy || !study) return;
  early.abort();
  try {
    await json("api/undo", { method: "POST" });
    hinted = t("undone");
    keep(PACE, kept(PACE, []).slice(0, -1));
    await next();
  } catch (e) {
    if (e.status === 409 || e.status === 404) note(t("nothingToUndo"));
    else if (e.status === 0) note(e.message);
    else refused(e);
  }
}

async function end() {
  item = null;
  const me = await json("api/me").catch(() => ({}));
  show("end");
  $("progress").hidden = true;
  $("end-count").textContent = me.done === undefined ? t("endedPlain") : t("ended", { done: me.done, skipped: me.skipped ?? 0 });
  $("end-title").focus();
}

// ---------------------------------------------------------------------------------------------------------------- skip

function fillReasons() {
  const chosen = document.querySelector("#reasons input:checked")?.value;
  $("reasons").replaceChildren(...["reasonBroken", "reasonPrompt", "reasonContent", "reasonOther"].map((reason, i) => element("label", {},
    element("input", { type: "radio", name: "reason", value: reason, checked: reason === chosen }), element("kbd", { textContent: i + 1 }), ` ${t(reason)}`)));
}

function askReason() {
  if (!item || busy) return;
  player?.pause();
  $("skip-form").reset();
  $("skip-send").disabled = true;
  $("skip-dialog").showModal();
}

const REASONS = { reasonBroken: "broken video", reasonPrompt: "unclear prompt", reasonContent: "disturbing content", reasonOther: "other" };

$("skip-form").addEventListener("input", () => { $("skip-send").disabled = !document.querySelector("#reasons input:checked"); });
$("skip-form").addEventListener("submit", () => {
  const chosen = document.querySelector("#reasons input:checked");
  early.abort();
  const reason = [REASONS[chosen.value], $("reason-text").value.trim()].filter(Boolean).join(": ");
  settle(() => post("api/skip", { assignment: item.assignment, reason }));
});
$("skip-cancel").addEventListener("click", () => $("skip-dialog").close());
$("skip-dialog").addEventListener("keydown", event => {
  const option = $("reasons").children[Number(event.key) - 1];
  if (!option || event.target.id === "reason-text") return;
  option.click();
  $("skip-send").focus();
});

// ---------------------------------------------------------------------------------------------------------------- keys

document.addEventListener("keydown", event => {
  if (document.querySelector("dialog[open]") || event.altKey || event.metaKey) return;
  const typing = event.target.matches("textarea, input:not([type=radio], [type=range])");
  if (typing && event.key === "Escape") event.target.blur();
  if (event.ctrlKey ? event.key !== "Enter" : typing) return;
  if (event.target.matches("button") && [" ", "Enter"].includes(event.key)) return; // it is pressed
  if (study && act(event)) event.preventDefault();
});

function act(event) {
  const key = event.key.toLowerCase();
  if (key === "?" || key === "h") { $("guide-dialog").showModal(); return true; }
  if (!$("intro").hidden && key === "enter") { $("begin").click(); return true; }
  if (key === "u") { undo(); return true; }
  if ($("work").hidden) return false;
  if (!$("feedback").hidden && key === "enter") { $("on").click(); return true; }
  if (key === "s") { askReason(); return true; }
  if ($("feedback").hidden && item?.form?.key(event)) {
    if (!allSeen()) $("hint").animate?.([{ opacity: 0.2 }, { opacity: 1 }], 400);
    return true;
  }
  return playKey(event);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) { onScreen += performance.now() - since; player?.pause(); }
  since = performance.now();
});
document.addEventListener("mousedown", event => { // the mouse leaves the focus where the keys need it
  if (event.target.closest("#controls button, #foot button")) event.preventDefault();
});
$("help").addEventListener("click", () => $("guide-dialog").showModal());
$("begin").addEventListener("click", () => { keep(BEGUN, true); next(); });
$("on").addEventListener("click", next);
$("skip").addEventListener("click", askReason);
for (const id of ["undo", "undo-end"]) $(id).addEventListener("click", undo);
$("answer").addEventListener("submit", event => event.preventDefault());

takeToken();
window.start = start; // api.js calls it after the login
languageSwitch($("languages"), ["zh", "en"], say);
start();
