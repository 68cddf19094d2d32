// The same prompts of all runs on one clock: `Player` (above) keeps every video of the rows that are shown together.
const compared = { player: null, ready: Promise.resolve() };

(() => {
  if (!DATA.films.length) return;
  let first = 0, serial = 0;
  const rows = () => DATA.films.slice(first, first + +by("film-rows").value).filter((f, _, all) => f.fps === all[0].fps);
  const isVideo = link => link && link.endsWith(".mp4");

  const right = (film, i) => {
    const known = Object.entries(film.right[i] || {}).filter(([k, v]) => v !== null && k !== "all");
    if (!known.length) return "not judged";
    const wrong = known.filter(([, v]) => !v).map(([k]) => k);
    return wrong.length ? `wrong: ${wrong.join(", ")}` : `right: ${known.map(([k]) => k).join(", ")}`;
  };

  const show = () => {
    const p = compared.player;
    if (!p) return;
    by("film-play").textContent = p.playing ? "stop" : "play";
    by("film-scrub").max = p.frames - 1;
    if (document.activeElement !== by("film-scrub") || p.playing) by("film-scrub").value = p.frame;
    by("film-frame").textContent = `frame ${p.frame + 1} of ${p.frames}, ×${p.speed}`;
  };

  const gone = () => Object.assign(document.createElement("div"), { className: "gone", textContent: "not kept" });
  const figure = (film, i, media) => {
    const f = document.createElement("figure"), caption = document.createElement("figcaption");
    f.style.setProperty("--ar", film.aspect);
    caption.append(Object.assign(document.createElement("b"), { textContent: DATA.names[i] }));
    caption.append(Object.assign(document.createElement("small"), { textContent: media ? right(film, i) : "" }));
    const shown = media?.canvas ? [media.canvas, media.video] : [media || gone()];
    f.append(...shown, caption);
    return f;
  };

  const open = async () => {
    const mine = ++serial, shown = rows();
    compared.player?.close();
    compared.player = null;
    by("film-prompt").value = String(first);
    const links = shown.flatMap(film => film.videos.filter(isVideo));
    let player = null;
    by("film-trouble").hidden = true;
    try {
      const frames = Math.min(...shown.map(f => f.frames));
      if (links.length) player = await Player.open(links, shown[0].fps, frames, show);
    } catch (e) {
      by("film-trouble").textContent = `A video cannot be played: ${e.message}. The folder of the videos belongs beside this page.`;
      by("film-trouble").hidden = false;
    }
    if (mine !== serial) { player?.close(); return; }
    const screens = player ? [...player.screens] : [];
    by("film-stage").replaceChildren(...shown.map(film => {
      const row = document.createElement("div"), text = document.createElement("p"), films = document.createElement("div");
      row.className = "prompt";
      films.className = "films";
      text.append(Object.assign(document.createElement("span"), { textContent: film.text, lang: film.lang }));
      const about = `${film.evaluation}, ${film.split}, seed ${film.seed}`;
      text.append(Object.assign(document.createElement("small"), { textContent: about }));
      films.append(...film.videos.map((link, i) => figure(film, i,
        isVideo(link) ? screens.shift() : link ? Object.assign(new Image(), { src: link, alt: DATA.names[i] }) : null)));
      row.append(text, films);
      return row;
    }));
    compared.player = player;
    if (player) { player.loop = by("film-loop").checked; show(); }
  };
  const go = n => {
    first = Math.max(0, Math.min(DATA.films.length - 1, n));
    compared.ready = open();
    return compared.ready;
  };

  DATA.films.forEach((f, i) => by("film-prompt").add(new Option(`${f.evaluation.replace("evaluate.", "")}: ${f.text}`, i)));
  by("film-prompt").onchange = () => go(+by("film-prompt").value);
  by("film-rows").onchange = () => go(first);
  by("film-before").onclick = () => go(first - +by("film-rows").value);
  by("film-after").onclick = () => go(first + +by("film-rows").value);
  const acts = {
    "film-play": p => p.toggle(), "film-back": p => p.step(-1), "film-on": p => p.step(1),
    "film-slower": p => p.faster(-1), "film-faster": p => p.faster(1),
  };
  for (const [id, act] of Object.entries(acts)) by(id).onclick = () => compared.player && act(compared.player);
  by("film-scrub").oninput = async () => {
    const p = compared.player;
    if (!p) return;
    await p.pause();
    await p.seek(+by("film-scrub").value);
  };
  by("film-loop").onchange = () => { if (compared.player) compared.player.loop = by("film-loop").checked; };
  document.addEventListener("keydown", e => {
    if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) return;
    const act = { " ": "film-play", ArrowLeft: "film-back", ArrowRight: "film-on", ArrowUp: "film-before", ArrowDown: "film-after" }[e.key];
    if (act) { e.preventDefault(); by(act).click(); }
  });
  go(0);
})();
