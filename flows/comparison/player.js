// For pages opened as files, which may not paint pictures of their videos (a file is another origin): the videos
// themselves are shown. The page of a study, which is served, paints them (stepvideo/preference/pages/player.js).
// One or two videos on one clock. At rest all show the same frame exactly. While they play, whichever is ahead is slowed
// until they meet: the browser runs each on its own clock, started some milliseconds apart.

const APART = 0.1; // frames that two clocks may differ before one is slowed
const SPEEDS = [0.25, 0.5, 0.75, 1, 1.5, 2];

const once = (target, type) => new Promise((done, failed) => {
  target.addEventListener(type, done, { once: true });
  target.addEventListener("error", () => failed(new Error(target.error?.message || "it cannot be decoded")), { once: true });
});

export class Player {
  playing = false;
  loop = false;
  speed = 1;
  frame = 0;
  drift = { worst: 0, pictures: 0 }; // frames between what both sides showed, over the pictures of the screen so far
  #target = null; // frame to go to next
  #asked = null; // frame that the last call asked for, until it is shown
  #seeking = null;
  #last = 0; // frame up to which the viewer has watched
  #closed = false;

  /** Resolves when every first frame is there; rejects when a file cannot be played. `changed()` after every change. */
  static async open(urls, fps, frames, changed) {
    const player = new Player(urls, fps, frames, changed);
    await Promise.all(player.videos.map(v => once(v, "loadeddata")));
    await player.seek(0);
    return player;
  }

  constructor(urls, fps, frames, changed) {
    Object.assign(this, { fps, frames, changed });
    this.videos = urls.map(src => Object.assign(document.createElement("video"), {
      src, muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true, disableRemotePlayback: true,
    }));
    this.visible = urls.map(() => true);
    this.seen = urls.map(() => new Uint8Array(frames));
    this.shown = urls.map(() => 0); // frame on the screen, as the browser reports it
    this.videos.forEach((v, i) => {
      const note = (_, picture) => {
        this.shown[i] = Math.round(picture.mediaTime * fps);
        if (!this.#closed) v.requestVideoFrameCallback(note);
      };
      v.requestVideoFrameCallback(note);
    });
  }

  close() {
    this.#closed = true;
    this.playing = false;
    for (const v of this.videos) { v.pause(); v.removeAttribute("src"); v.load(); }
  }

  // ------------------------------------------------------------------------------------------------------- at rest

  /** Shows frame `n` on every side; of several calls that overlap the last counts. */
  async seek(n) {
    this.#target = this.#asked = Math.max(0, Math.min(this.frames - 1, n));
    this.#seeking ??= this.#reach();
    await this.#seeking;
  }

  async #reach() {
    for (const v of this.videos) v.pause();
    while (this.#target !== null && !this.#closed) {
      const n = this.#target;
      this.#target = null;
      await Promise.all(this.videos.map(v => {
        const there = once(v, "seeked");
        v.currentTime = (n + 0.5) / this.fps; // the middle of the frame: no rounding can reach its neighbours
        return there;
      }));
      await this.#presented(n);
      this.frame = this.#last = n;
      this.changed();
    }
    this.#seeking = this.#asked = null;
    if (this.playing) await this.#run();
  }

  /** Decoded is not yet shown: waits for the screen, at most 30 pictures of it (a covered video may not report any). */
  async #presented(n) {
    for (let i = 0; i < 30 && !document.hidden && this.shown.some((frame, k) => this.visible[k] && frame !== n); i++) {
      await new Promise(requestAnimationFrame);
    }
  }

  /** Quick steps add up: from the frame that was asked for, if it is not shown yet. */
  async step(by) {
    await this.pause();
    await this.seek((this.#asked ?? this.frame) + by);
  }

  async pause() {
    if (!this.playing) return;
    this.playing = false;
    await this.seek(this.#clock());
  }

  // ------------------------------------------------------------------------------------------------------ in motion

  async play(from = this.frame >= this.frames - 1 ? 0 : this.frame) {
    this.playing = true;
    await this.seek(from);
  }

  toggle() { return this.playing ? this.pause() : this.play(); }

  faster(by) {
    this.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, SPEEDS.indexOf(this.speed) + by))];
    for (const v of this.videos) v.playbackRate = this.speed;
    this.changed();
  }

  async #run() {
    for (const v of this.videos) v.playbackRate = this.speed;
    await Promise.all(this.videos.map(v => v.play())).catch(e => {
      if (e.name !== "AbortError") { this.playing = false; this.changed(); } // refused until a key or button is pressed
    });
    requestAnimationFrame(() => this.#tick());
  }

  /** The common clock in whole frames: what the slowest side has reached. */
  #clock() {
    const times = this.videos.map(v => v.currentTime * this.fps);
    return Math.min(this.frames - 1, Math.floor(Math.min(...times) + 1e-3));
  }

  #tick() {
    if (!this.playing || this.#seeking || this.#closed) return;
    this.#meet();
    this.#measure();
    this.frame = this.#clock();
    const over = this.videos.every(v => v.ended);
    this.#watch(over ? this.frames - 1 : this.frame);
    if (over && this.loop) { this.play(0); return; }
    if (over) { this.playing = false; this.frame = this.frames - 1; }
    this.changed();
    if (!over) requestAnimationFrame(() => this.#tick());
  }

  #meet() {
    const times = this.videos.map(v => v.currentTime * this.fps);
    const slowest = Math.min(...times);
    this.videos.forEach((v, i) => {
      const ahead = times[i] - slowest;
      const rate = ahead > APART ? this.speed * Math.max(0.1, 1 - ahead) : this.speed;
      if (Math.abs(v.playbackRate - rate) > 0.01) v.playbackRate = rate;
    });
  }

  #measure() {
    if (!this.visible.every(Boolean) || this.videos.length < 2) return;
    this.drift.worst = Math.max(this.drift.worst, Math.abs(this.shown[0] - this.shown[1]));
    this.drift.pictures++;
  }

  /** Notes frames as seen: on a side that is visible, in a tab that is too, not faster than normal. */
  #watch(frame) {
    const gap = frame - this.#last;
    if (this.speed <= 1 && gap >= 0 && gap <= this.fps && !document.hidden) {
      this.seen.forEach((s, i) => { if (this.visible[i]) s.fill(1, this.#last, frame + 1); });
    }
    this.#last = frame;
  }

  /** Parts of every side that were seen, 0 to 1. */
  coverage() { return this.seen.map(s => s.reduce((a, b) => a + b, 0) / this.frames); }

  /** Shows side `i` alone, or all with null. */
  show(i) {
    this.visible = this.visible.map((_, k) => i === null || i === k);
    this.changed();
  }
}
