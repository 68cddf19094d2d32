"use strict";
// Clips play while the pointer or the focus is on them, so that a page of a hundred starts no hundred players.
for (const film of document.querySelectorAll(".card video")) {
  const play = () => film.play().catch(() => {});
  film.addEventListener("pointerenter", play);
  film.addEventListener("focus", play);
  film.addEventListener("pointerleave", () => film.pause());
  film.addEventListener("blur", () => film.pause());
}
document.getElementById("fate").addEventListener("change", event => {
  for (const card of document.querySelectorAll(".card")) {
    card.hidden = Boolean(event.target.value) && card.dataset.fate !== event.target.value;
  }
});
