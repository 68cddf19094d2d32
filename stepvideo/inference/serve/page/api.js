"use strict";
// What the pages of `stepvideo serve`, `browse` and `study` share: asking their server. A token, where there is one, stays
// in this tab and travels in a header only. A page has `#login`, `#app`, and a function `start`; it may change `words`.

const $ = id => document.getElementById(id);
const TOKEN = "stepvideo-token";
const words = { silent: "The server does not answer. Is it still running?", wrong: "This is not the server's token." };

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

function element(tag, properties = {}, ...children) {
  const e = Object.assign(document.createElement(tag), properties);
  e.append(...children);
  return e;
}

function tell(id, message) {
  $(id).hidden = !message;
  $(id).textContent = message || "";
}

async function api(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try { answer = await fetch(path, { ...options, headers }); } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new Refused(0, words.silent);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) askToken(token ? words.wrong : "");
  throw new Refused(answer.status, body.error || `${answer.status} ${answer.statusText}`);
}

const json = async (path, options) => (await api(path, options)).json();

/** Options of `api` that send a value as JSON. */
const sent = (value, headers = {}) => ({
  method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(value),
});

function askToken(message) {
  $("app").hidden = true;
  $("login").hidden = false;
  tell("login-error", message);
  $("token").focus();
}

function enter() {
  $("login").hidden = true;
  $("app").hidden = false;
}

$("login").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
  start();
});
