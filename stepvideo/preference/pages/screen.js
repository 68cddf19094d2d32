// What one side shows: a canvas, painted with pictures that its video has given. A browser draws each video when it comes
// to it, and under load two of them come apart. Pictures of all sides are painted together, those of one frame if there
// are such; where a browser drops frames the picture stands rather than that sides drift.

const KEPT = 4; // pictures of one side: more would keep the decoder waiting for their memory
const NEAR = 1; // frames that sides may differ

export class Screen {
  shown = -1; // frame on the canvas
  #kept = new Map(); // frame → picture, oldest first

  constructor(video, fps) {
    Object.assign(this, { video, fps, canvas: document.createElement("canvas") });
    this.canvas.setAttribute("role", "img");
  }

  /** Keeps the picture that the video has now. `time`: its seconds, as the browser reports them. */
  take(time) {
    const { videoWidth: width, videoHeight: height } = this.video;
    if (!width) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const picture = grab(this.video, width, height);
    const frame = Math.round((picture.timestamp ?? time * 1e6) * this.fps / 1e6);
    if (frame < this.shown || this.#kept.has(frame)) { picture.close?.(); return; }
    this.#kept.set(frame, picture);
    if (this.#kept.size > KEPT) this.#drop(this.#kept.keys().next().value);
  }

  frames() { return [...this.#kept.keys()]; }

  draw(frame) {
    if (frame !== this.shown) this.canvas.getContext("2d", { alpha: false }).drawImage(this.#kept.get(frame), 0, 0);
    this.shown = frame;
    for (const old of this.frames()) if (old < frame) this.#drop(old);
  }

  /** Forgets what is kept; the canvas stays as it is. */
  clear() {
    for (const frame of this.frames()) this.#drop(frame);
    this.shown = -1;
  }

  #drop(frame) {
    this.#kept.get(frame).close?.();
    this.#kept.delete(frame);
  }
}

/** A VideoFrame knows its own time. Where there is none, or in a page opened as a file, whose videos are of another origin:
 * a copy, whose time is what the browser says. */
function grab(video, width, height) {
  try { return new VideoFrame(video); } catch { /* ReferenceError, SecurityError */ }
  const copy = Object.assign(document.createElement("canvas"), { width, height });
  copy.getContext("2d", { alpha: false }).drawImage(video, 0, 0);
  return copy;
}

/** Paints the newest pictures of all screens that are near each other; whether there are any. */
export function paint(screens) {
  const [first, ...others] = screens;
  let best = null;
  for (const frame of first.frames()) {
    const picked = [frame, ...others.map(s => closest(s.frames(), frame))];
    const oldest = Math.min(...picked), apart = Math.max(...picked) - oldest;
    if (!(apart <= NEAR)) continue; // of no picture it is not a number
    if (!best || oldest > best.oldest || (oldest === best.oldest && apart < best.apart)) best = { picked, oldest, apart };
  }
  best?.picked.forEach((frame, i) => screens[i].draw(frame));
  return best !== null;
}

const closest = (frames, to) => frames.length ? frames.reduce((a, b) => Math.abs(b - to) < Math.abs(a - to) ? b : a) : NaN;
