// The attention pattern of the last step shown, and a strip of earlier ones.

import { element } from "./chart.js";

export class Attention {
  constructor() {
    [this.canvas, this.strip, this.where, this.note] =
      ["attention-now", "attention-strip", "attention-where", "attention-note"].map((id) => document.getElementById(id));
    this.frames = [];
    this.pinned = null;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** frames: [{step, ratio, length, block, side, cells}]: cells row by row as digits in base 16, share of a cell that is visible. */
  update(frames) {
    this.frames = frames;
    if (this.pinned !== null && !frames.some((frame) => frame.step === this.pinned)) this.pinned = null;
    this.draw();
  }

  draw() {
    if (this.frames.length === 0) return;
    const shown = this.frames.find((frame) => frame.step === this.pinned) ?? this.frames.at(-1);
    paint(this.canvas, shown);
    this.canvas.setAttribute("aria-label", `attention pattern at step ${shown.step}, ratio ${shown.ratio.toFixed(2)}`);
    const step = element("b", "", String(shown.step));
    const ratio = element("b", "", shown.ratio.toFixed(2));
    const [first, second] = [element("span", "", "step "), element("span", "", "ratio ")];
    first.append(step);
    second.append(ratio);
    this.where.replaceChildren(first, second);
    const rows = shown.block < shown.length
      ? `Row i is a position, column j what it may attend to: first the noised text in blocks of ${shown.block}, then the clean one, ${shown.length} positions each. A block sees itself and the clean text before it;`
      : `Row i is a position of ${shown.length}, column j what it may attend to;`;
    this.note.textContent = `${rows} blue is visible. Documents in a row see only themselves on top of this.`;
    this.strip.replaceChildren(...this.frames.map((frame) => {
      const button = element("button");
      const canvas = element("canvas");
      paint(canvas, frame);
      button.append(canvas, `${frame.step} · ${frame.ratio.toFixed(2)}`);
      const newest = frame === this.frames.at(-1);
      button.setAttribute("aria-pressed", String(frame === shown));
      button.setAttribute("aria-label", `show step ${frame.step}`);
      button.onclick = () => {
        this.pinned = newest ? null : frame.step;
        this.draw();
      };
      return button;
    }));
  }
}

function paint(canvas, { side, cells }) {
  canvas.width = canvas.height = side;
  const style = getComputedStyle(document.documentElement);
  const [open, shut] = [rgb(style.getPropertyValue("--blue")), rgb(style.getPropertyValue("--grid"))];
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    const share = parseInt(cells[i], 16) / 15;
    for (let c = 0; c < 3; c++) image.data[i * 4 + c] = shut[c] + (open[c] - shut[c]) * share;
    image.data[i * 4 + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
}

/** `#rgb` or `#rrggbb` as three numbers. */
function rgb(text) {
  const digits = text.trim().slice(1);
  const size = digits.length / 3;
  return [0, 1, 2].map((c) => parseInt(digits.slice(c * size, c * size + size).padEnd(2, digits[c * size]), 16));
}
