// One or two videos on one clock. At rest all show the same frame exactly. While they play, whichever is ahead is slowed
// until they meet: the browser runs each on its own clock, started some milliseconds apart. What is seen are canvases, which
// are painted together (screen.js).

import { paint, Screen } from "./screen.js";

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
  drift = { worst: 0, pictures: 0, held: 0 }; // frames between what both sides showed, over the pictures of the screen so
  // far; and how many of these stood, for want of a new one of every side
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
    this.screens = this.videos.map(v => new Screen(v, fps));
    for (const screen of this.screens) {
      const take = (_, { mediaTime }) => {
        if (this.#closed) return;
        screen.take(mediaTime);
        screen.video.requestVideoFrameCallback(take);
      };
      screen.video.requestVideoFrameCallback(take);
    }
  }

  /** Frames on the canvases. */
  get shown() { return this.screens.map(s => s.shown); }

  close() {
    this.#closed = true;
    this.playing = false;
    for (const s of this.screens) s.clear();
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
      await this.#present(n);
      this.frame = this.#last = n;
      this.changed();
    }
    this.#seeking = this.#asked = null;
    if (this.playing) await this.#run();
  }

  /** Decoded is not yet given: waits for frame `n` of every side, at most 30 pictures of the screen (a covered page gets none). */
  async #present(n) {
    for (const s of this.screens) s.clear();
    for (let i = 0; i < 30 && !this.#closed; i++) {
      for (const s of this.screens) s.take(n / this.fps);
      if (this.screens.every(s => s.frames().includes(n)) || document.hidden) break;
      await new Promise(requestAnimationFrame);
    }
    if (!this.#closed) paint(this.screens);
  }

  /** Quick steps add up: from the frame that was asked for, if it is not shown yet. */
  async step(by) {
    await this.pause();
    await this.seek((this.#asked ?? this.frame) + by);
  }

  async pause() {
    if (!this.playing) return;
    this.playing = false;
    await this.seek(this.frame);
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

  #tick() {
    if (!this.playing || this.#seeking || this.#closed) return;
    this.#meet();
    const over = this.videos.every(v => v.ended);
    if (over) for (const s of this.screens) s.take((this.frames - 1) / this.fps); // the last ones are not always reported
    this.#paint();
    this.frame = over ? this.frames - 1 : Math.max(0, Math.min(...this.shown));
    this.#watch(this.frame);
    if (over && this.loop) { this.play(0); return; }
    if (over) this.playing = false;
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

  #paint() {
    const before = this.shown.join();
    paint(this.screens);
    if (!this.visible.every(Boolean) || this.videos.length < 2) return;
    const [left, right] = this.shown;
    this.drift.worst = Math.max(this.drift.worst, Math.abs(left - right));
    this.drift.pictures++;
    if (this.shown.join() === before) this.drift.held++;
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
