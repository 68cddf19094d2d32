// The answer of one item: a choice between two videos, scores on scales, or answers to questions. Each form offers
// element, key(event) → whether it used the key, allow(open), value() → answer or null, fill(answer), say() (words of
// this language), missing() → names of what is unanswered.

import { local, t } from "./words.js";

export function makeForm(study, changed) {
  if (study.kind === "compare" || study.kind === "prefer") return new Choices(changed);
  return new Questions(study.kind === "rate" ? scales(study) : study.questions, study.kind, changed);
}

const scales = study => study.scales.map(scale => ({ ...scale, type: "scale", options: scale.values.map(v => ({ ...v, value: v.score })) }));

const CHOICES = [["1", "left", "choiceLeft"], ["3", "tie", "choiceTie"], ["0", "both_bad", "choiceBoth"], ["2", "right", "choiceRight"]];
export const sayChoice = value => t(CHOICES.find(c => c[1] === value)?.[2] || "choiceTie");

class Choices {
  constructor(changed) {
    this.choice = null;
    this.buttons = CHOICES.map(([key, value]) => {
      const button = element("button", { type: "button", className: "choice", disabled: true, onclick: () => { this.choice = value; changed(true); } },
        element("span"), " ", element("kbd", { textContent: key }));
      button.setAttribute("aria-keyshortcuts", key);
      return button;
    });
    this.element = element("div", { className: "choices", role: "group" }, ...this.buttons);
    this.say();
  }

  say() {
    this.element.ariaLabel = t("choices");
    CHOICES.forEach((c, i) => { this.buttons[i].firstChild.textContent = t(c[2]); });
  }

  key(event) {
    const i = CHOICES.findIndex(c => c[0] === event.key);
    if (i >= 0) this.buttons[i].click();
    return i >= 0;
  }

  allow(open) { for (const b of this.buttons) b.disabled = !open; }
  missing() { return []; }
  value() { return this.choice && { choice: this.choice }; }

  fill(answer) {
    CHOICES.forEach(([, value], i) => this.buttons[i].classList.toggle("before", answer.choice === value));
  }
}

class Questions {
  constructor(questions, kind, changed) {
    Object.assign(this, { questions, kind });
    this.fields = questions.map(q => (q.type === "text" ? this.#text(q, changed) : this.#options(q, changed)));
    this.submit = element("button", { type: "button", className: "primary", disabled: true, onclick: () => changed(true) }, element("span"), " ", element("kbd", { textContent: "Enter" }));
    this.element = element("div", { className: `questions ${kind}` }, ...this.fields, element("p", { className: "submit" }, this.submit));
    this.current = 0;
    this.say();
  }

  #options(question, changed) {
    const options = question.options.map((option, i) => {
      const input = element("input", { type: "radio", name: question.id, value: option.value });
      input.addEventListener("change", () => changed(false));
      return element("label", {}, input, element("kbd", { textContent: question.type === "scale" ? option.value : i + 1 }), " ", element("span"));
    });
    return this.#field(question, "fieldset", element("legend", {}, element("b"), " ", element("small")), ...options);
  }

  #text(question, changed) {
    const input = element("textarea", { rows: 2, id: `text-${question.id}` });
    input.addEventListener("input", () => changed(false));
    return this.#field(question, "div", element("label", { htmlFor: input.id }, element("b"), " ", element("small")), input);
  }

  #field(question, tag, ...children) {
    const field = element(tag, { className: "field" }, ...children);
    field.dataset.id = question.id;
    field.addEventListener("focusin", () => this.#go(this.fields.indexOf(field), false));
    return field;
  }

  say() {
    this.questions.forEach((question, i) => {
      const field = this.fields[i];
      field.querySelector("b").textContent = local(question.name);
      field.querySelector("small").textContent = local(question.help);
      field.querySelectorAll("label > span").forEach((span, k) => { span.textContent = local(question.options[k]); });
    });
    this.submit.firstChild.textContent = t("submit");
  }

  /** Makes question `i` the one that digits answer. */
  #go(i, focus = true) {
    this.current = Math.max(0, Math.min(this.fields.length - 1, i));
    this.fields.forEach((f, k) => f.classList.toggle("current", k === this.current));
    const field = this.fields[this.current];
    field.scrollIntoView({ block: "nearest" });
    if (focus) (field.querySelector("input:checked") || field.querySelector("input, textarea")).focus();
  }

  key(event) {
    if (event.key === "Enter") { this.submit.click(); return true; }
    if (event.key === "ArrowUp" || event.key === "ArrowDown") { this.#go(this.current + (event.key === "ArrowUp" ? -1 : 1)); return true; }
    const field = this.fields[this.current];
    const option = [...field.querySelectorAll("label")].find(l => l.querySelector("kbd")?.textContent === event.key);
    if (!option) return false;
    option.click();
    const next = this.fields.findIndex((f, k) => k > this.current && !this.#answer(f));
    const any = this.fields.findIndex(f => this.#answer(f) === null);
    if (next >= 0 || any >= 0) this.#go(next >= 0 ? next : any);
    else this.submit.focus();
    return true;
  }

  #answer(field) {
    const text = field.querySelector("textarea");
    if (text) return text.value.trim(); // "" leaves a text as it is
    return field.querySelector("input:checked")?.value ?? null;
  }

  allow(open) { this.submit.disabled = !open || this.missing().length > 0; }
  missing() { return this.questions.filter((_, i) => this.#answer(this.fields[i]) === null).map(q => local(q.name)); }

  value() {
    const answers = this.questions.map((q, i) => [q.id, this.#answer(this.fields[i])]);
    if (answers.some(a => a[1] === null)) return null;
    return this.kind === "rate" ? { scores: Object.fromEntries(answers.map(([id, v]) => [id, Number(v)])) } : { labels: Object.fromEntries(answers.filter(a => a[1] !== "")) };
  }

  fill(answer) {
    for (const [id, value] of Object.entries(answer.scores || answer.labels || {})) {
      const field = this.fields.find(f => f.dataset.id === id);
      const text = field?.querySelector("textarea");
      if (text) text.value = value;
      else for (const input of field?.querySelectorAll("input") || []) input.checked = input.value === String(value);
    }
  }
}
