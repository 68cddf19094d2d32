// The stage and the bar under it: pictures, what was seen of them, buttons and keys of playback.

import { Player } from "./player.js";
import { t } from "./words.js";

export let player = null; // of the item on the stage

let alone = null; // side shown on its own; null: side by side
let parts = null;

const BUTTONS = [ // id, words, sign, key, what it does
  ["replay", "replay", "|◂", "r", p => p.play(0)],
  ["back", "back", "◂", "ArrowLeft", p => p.step(-1)],
  ["play", "play", "▶", " ", p => p.toggle()],
  ["forward", "forward", "▸", "ArrowRight", p => p.step(1)],
  ["slower", "slower", "−", "[", p => p.faster(-1)],
  ["faster", "faster", "+", "]", p => p.faster(1)],
  ["loop", "loop", "↻", "l", p => { p.loop = !p.loop; p.changed(); }],
  ["flip", "flipTip", "A ⇄ B", "f", () => view(alone === 0 ? 1 : 0)],
  ["side", "side", "A | B", "v", () => view(null)],
];
const MORE_KEYS = {
  ",": p => p.step(-1), ".": p => p.step(1), "-": p => p.faster(-1), "+": p => p.faster(1), "=": p => p.faster(1),
  Home: p => p.seek(0), End: p => p.seek(p.frames - 1),
};
const KEYS = { ...MORE_KEYS, ...Object.fromEntries(BUTTONS.map(([, , , key, act]) => [key, act])) };

/** Puts videos on the stage, at their first frame; `changed()` after everything that happens to them. */
export async function mount(urls, { fps, frames }, changed) {
  unmount();
  const opened = await Player.open(urls, fps, frames, () => { if (player) { draw(); changed(); } });
  player = opened;
  $("stage").classList.toggle("one", urls.length === 1);
  $("stage").replaceChildren(...opened.screens.map(figure));
  build();
  view(null);
}

export function unmount() {
  player?.close();
  player = null;
  $("stage").replaceChildren();
}

const sideName = i => t(player.videos.length === 1 ? "only" : i ? "right" : "left");

function figure({ canvas, video }) {
  const seen = element("progress", { max: 1, value: 0 });
  return element("figure", {}, element("figcaption", {}, element("b"), seen, element("small")), canvas, video);
}

function build() {
  const pair = player.videos.length > 1;
  const button = ([id, , sign, key, act]) => {
    const b = element("button", { type: "button", id, textContent: sign, onclick: () => act(player) });
    b.setAttribute("aria-keyshortcuts", key === " " ? "Space" : key);
    return b;
  };
  const made = Object.fromEntries(BUTTONS.filter(([id]) => pair || !["flip", "side"].includes(id)).map(row => [row[0], button(row)]));
  const range = element("input", { type: "range", id: "position", min: 0, max: player.frames - 1, step: 1 });
  range.addEventListener("input", () => player.seek(range.valueAsNumber));
  parts = { ...made, range, time: element("output", { id: "time" }), speed: element("output", { id: "speed" }), sync: element("small", { id: "sync" }) };
  const group = (...children) => element("span", { className: "group" }, ...children.filter(Boolean));
  $("controls").replaceChildren(group(parts.replay, parts.back, parts.play, parts.forward), range, parts.time,
    group(parts.slower, parts.speed, parts.faster), group(parts.loop), ...(pair ? [group(parts.flip, parts.side), parts.sync] : []));
  say();
}

/** Writes everything in the present language. */
export function say() {
  if (!player) return;
  for (const [id, words, , key] of BUTTONS) {
    if (!parts[id]) continue;
    parts[id].ariaLabel = t(words);
    parts[id].title = `${t(words)} (${key === " " ? "Space" : key.replace("ArrowLeft", "←").replace("ArrowRight", "→").toUpperCase()})`;
  }
  parts.range.ariaLabel = t("position");
  parts.speed.ariaLabel = t("speed");
  player.screens.forEach((s, i) => { s.canvas.ariaLabel = sideName(i); });
  draw();
}

function view(i) {
  if (player.videos.length < 2 && i !== null) return;
  alone = i;
  $("stage").classList.toggle("flip", i !== null);
  [...$("stage").children].forEach((f, k) => f.classList.toggle("away", i !== null && i !== k));
  player.show(i);
}

function draw() {
  const seen = player.coverage();
  [...$("stage").children].forEach((f, i) => {
    f.querySelector("b").textContent = sideName(i);
    const bar = f.querySelector("progress");
    bar.value = seen[i];
    bar.ariaLabel = f.querySelector("small").textContent = seen[i] === 1 ? `✓ ${t("seenAll")}` : t("seenPart", { percent: Math.floor(100 * seen[i]) });
    f.classList.toggle("seen", seen[i] === 1);
  });
  parts.play.textContent = player.playing ? "❚❚" : "▶";
  parts.play.ariaLabel = t(player.playing ? "pause" : "play");
  parts.range.value = player.frame;
  parts.range.ariaValueText = `${player.frame + 1} / ${player.frames}`;
  parts.time.textContent = `${player.frame + 1} / ${player.frames}`;
  parts.speed.textContent = `${player.speed}×`;
  parts.loop.ariaPressed = String(player.loop);
  if (parts.flip) {
    parts.flip.ariaPressed = String(alone !== null);
    parts.flip.textContent = alone === null ? "A ⇄ B" : sideName(alone);
    parts.side.ariaPressed = String(alone === null);
    parts.sync.textContent = t("sync", { n: player.drift.worst });
  }
}

/** Whether a key was one of playback, and then it is done. */
export function playKey(event) {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || !player) return false;
  const jump = { ArrowLeft: -10, ArrowRight: 10 }[event.shiftKey ? event.key : ""];
  if (jump) player.step(jump);
  else act(player);
  return true;
}
