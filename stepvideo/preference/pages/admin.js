// The owner's page: how far a study is and how well it is answered, without a word of which model is ahead.

import { takeToken } from "./token.js";
import { languageSwitch, t } from "./words.js";

let said = null;
let at = null;

async function start() {
  try { said = await json("api/admin/progress"); } catch (e) {
    if (e.status === 403) askToken(t("wrong"));
    else if (e.status !== 401) tell("banner", t("refused", { why: e.message }));
    return;
  }
  at = new Date();
  tell("banner", "");
  enter();
  draw();
}

const number = v => (v === null ? "–" : v.toFixed(2));

/** A figure with its interval, or several by name; null is not defined. */
function figure(v) {
  if (v === null || v === undefined) return "–";
  if (v.low !== undefined) return `${number(v.value)} (${number(v.low)} – ${number(v.high)})`;
  return Object.entries(v).map(([name, one]) => `${name} ${figure(one)}`).join(", ");
}

const cell = (content, className = "") => element("td", { className }, content);

function table(heads, rows) {
  return element("table", { className: "table" },
    element("thead", {}, element("tr", {}, ...heads.map(h => element("th", { scope: "col", textContent: h })))),
    element("tbody", {}, ...rows.map(cells => element("tr", {}, ...cells))));
}

const bar = (done, total, name) => {
  const e = element("progress", { max: Math.max(total, 1), value: done });
  e.ariaLabel = `${name}: ${done} / ${total}`;
  return e;
};

const tile = (name, done, total) => element("div", { className: "card" }, element("small", { textContent: name }),
  element("b", { textContent: `${done} / ${total}` }), bar(done, total, name));

function draw() {
  if (!said) return;
  $("state").textContent = t(said.closed ? "closed" : "open");
  $("close").hidden = said.closed;
  if (said.simulated) $("state").append(` · ${t("simulated")}`);
  $("updated").textContent = t("updated", { time: at.toLocaleTimeString() });
  $("tiles").replaceChildren(tile(t("votes"), said.voted, said.wanted), tile(t("items"), said.items_done, said.items));
  $("agreement").replaceChildren(said.agreement.length
    ? table([t("question"), t("raw"), "Krippendorff α", "Fleiss κ"], said.agreement.map(a => [cell(a.question), cell(figure(a.raw)), cell(figure(a.alpha)), cell(figure(a.kappa))]))
    : element("p", { className: "soft", textContent: t("noAgreement") }));
  const most = Math.max(...said.annotators.map(a => a.voted + a.skipped), 1);
  $("annotators").replaceChildren(said.annotators.length
    ? table([t("name"), t("done"), "", t("skipped"), t("dwell"), t("leftShare"), t("tieShare"), t("verdict")], said.annotators.map(a => [
      cell(a.name), cell(String(a.voted)), cell(bar(a.voted, most, a.name)), cell(String(a.skipped)),
      cell(a.median_dwell_s === null ? "–" : t("seconds", { n: a.median_dwell_s.toFixed(1) })), cell(figure(a.left_share)), cell(figure(a.tie_share)), verdict(a),
    ]))
    : element("p", { className: "soft", textContent: t("noAnnotators") }));
}

function verdict({ verdict, reasons }) {
  const flags = [reasons || []].flat().map(textContent => element("span", { className: "flag", textContent }));
  return element("td", { className: "text" }, element("span", { textContent: verdict ?? "–" }), " ", ...flags);
}

$("refresh").addEventListener("click", start);
$("close").addEventListener("click", () => {
  $("close-form").reset();
  $("close-send").disabled = true;
  $("close-dialog").showModal();
});
$("close-cancel").addEventListener("click", () => $("close-dialog").close());
$("close-typed").addEventListener("input", () => { $("close-send").disabled = $("close-typed").value !== "close"; });
$("close-form").addEventListener("submit", async () => {
  try { await json("api/admin/close", sent({ confirm: $("close-typed").value })); } catch (e) {
    tell("banner", t("refused", { why: e.message }));
    return;
  }
  await start();
});
takeToken();
window.start = start; // api.js calls it after the login
languageSwitch($("languages"), ["zh", "en"], draw);
start();
