// The guide: what is asked, what each score means, which keys there are.

import { local, t } from "./words.js";

const PLAYBACK = [["Space", "keyPlay"], ["← →  , .", "keyFrame"], ["Home End", "keyEnds"], ["[ ]", "keySpeed"], ["R", "keyReplay"], ["L", "keyLoop"]];
const COMMON = [["U", "keyUndo"], ["S", "keySkip"], ["?", "keyHelp"]];
const PAIR = [["1 2", null], ["3", "choiceTie"], ["0", "choiceBoth"], ["F", "keyFlip"]];
const FORM = [["1 – 5", "keyScores"], ["↑ ↓", "keyNext"], ["Enter", "keySubmit"]];

export function fill(box, study) {
  const pair = study.kind === "compare" || study.kind === "prefer";
  const said = [local(study.guide)].flat().flatMap(text => text.split("\n")).filter(Boolean);
  const keys = [...(pair ? PAIR : FORM), ...PLAYBACK, ...COMMON].map(([key, words]) =>
    element("div", {}, element("dt", {}, element("kbd", { textContent: key })),
      element("dd", { textContent: words ? t(words) : `${t("choiceLeft")} · ${t("choiceRight")}` })));
  box.replaceChildren(...said.map(textContent => element("p", { textContent })),
    ...(study.kind === "rate" ? study.scales.map(scale) : []),
    element("h3", { textContent: t("keys") }), element("dl", { className: "keys" }, ...keys));
}

function scale({ name, values }) {
  const rows = values.map(v => element("tr", {}, element("th", { scope: "row", textContent: v.score }), element("td", { textContent: local(v) })));
  return element("table", {}, element("caption", { textContent: local(name) }), element("tbody", {}, ...rows));
}
