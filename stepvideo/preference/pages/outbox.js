// Answers that must arrive, once. An answer is kept in the tab with its idempotency key until the server has taken it:
// over lost connections, a server that restarts, and a reload of the page.

import { t } from "./words.js";

const KEPT = "stepvideo-outbox";
const WAITS = [1, 2, 4, 8, 15]; // seconds

/** Asks until there is an answer that is not "try later". Refusals are thrown (see api.js). */
export async function insist(ask, message = "lost") {
  for (let attempt = 1; ; attempt++) {
    try {
      const answer = await ask();
      tell("banner", "");
      return answer;
    } catch (e) {
      const later = e instanceof Refused && (e.status === 0 || e.status === 429 || e.status >= 500);
      if (!later) { tell("banner", ""); throw e; }
      const seconds = WAITS[Math.min(attempt, WAITS.length) - 1];
      tell("banner", t(message, { seconds, attempt }));
      await new Promise(done => { setTimeout(done, 1000 * seconds); addEventListener("online", done, { once: true }); });
    }
  }
}

export function waiting() { return sessionStorage.getItem(KEPT) !== null; }

/** Keeps an answer, then sends it. */
export function post(path, body) {
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map(b => b.toString(16).padStart(2, "0")).join("");
  sessionStorage.setItem(KEPT, JSON.stringify({ path, body: { ...body, key: key.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-") } }));
  return deliver();
}

/** Sends what is kept; it is let go when it was taken or refused, and stays while a new token is asked for. */
export async function deliver() {
  const { path, body } = JSON.parse(sessionStorage.getItem(KEPT));
  let answer;
  try { answer = await insist(() => json(path, sent(body)), "lostVote"); } catch (e) {
    if (e.status !== 401) sessionStorage.removeItem(KEPT);
    throw e;
  }
  sessionStorage.removeItem(KEPT);
  return answer;
}
