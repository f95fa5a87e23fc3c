// Curves on a canvas. All charts share one cursor: the step under the pointer.
//
// A point is [step, mean] or, where it stands for several steps, [step, mean, lowest, highest]; null is "not a number".

const cursor = { step: null, charts: [] };
const PAD = { left: 46, right: 10, top: 8, bottom: 20 };

export class Chart {
  /** lines: [{key, name, color, style}] as in curves.rs; format: of a value; axis: of a tick; empty: what to say before there is anything. */
  constructor(host, { title, note = "", lines, format, axis = label, zero = false, log = false, empty = "" }) {
    Object.assign(this, { lines, format, axis, zero, log: false, points: new Map() });
    this.card = element("section", "card");
    const head = element("div", "head");
    const heading = element("h2", "", title);
    head.append(heading);
    this.values = element("span", "values");
    head.append(this.values);
    const plot = element("div", "chart");
    this.canvas = element("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", title);
    this.empty = element("div", "empty", empty);
    plot.append(this.canvas, this.empty);
    this.card.append(head, plot, element("p", "note", note));
    if (log) {
      const button = element("button", "small", "log");
      button.setAttribute("aria-pressed", "false");
      button.title = "logarithmic scale";
      button.onclick = () => {
        this.log = !this.log;
        button.setAttribute("aria-pressed", String(this.log));
        this.draw();
      };
      heading.append(button);
    }
    host.append(this.card);
    cursor.charts.push(this);
    this.canvas.onpointermove = (event) => point(this.stepAt(event.offsetX));
    this.canvas.onpointerdown = this.canvas.onpointermove;
    this.canvas.onpointerleave = () => point(null);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  /** Takes the series that there are, by key. */
  update(series) {
    for (const line of this.lines) {
      const points = series[line.key] ?? [];
      this.points.set(line, points.filter((point) => point[1] !== null));
    }
    this.draw();
  }

  range() {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const points of this.points.values()) {
      if (points.length === 0) continue;
      left = Math.min(left, points[0][0]);
      right = Math.max(right, points.at(-1)[0]);
      // A few wild values must not flatten the curve: the middle 99 % decide, and what lies outside is cut off.
      const values = points.map((point) => point[1]).sort((a, b) => a - b);
      const cut = values.length > 100 ? Math.floor(values.length / 200) : 0;
      low = Math.min(low, values[cut]);
      high = Math.max(high, values[values.length - 1 - cut]);
    }
    if (this.zero && !this.log) low = Math.min(0, low);
    if (high - low < 1e-12) [low, high] = [low - (Math.abs(low) * 0.1 || 0.5), high + (Math.abs(high) * 0.1 || 0.5)];
    const room = (high - low) * 0.06;
    return { left, right: Math.max(right, left + 1), low: this.zero && low === 0 ? 0 : low - room, high: high + room };
  }

  stepAt(x) {
    if (!this.view) return null;
    const { left, right, width } = this.view;
    const share = (x - PAD.left) / (width - PAD.left - PAD.right);
    return Math.round(left + Math.min(1, Math.max(0, share)) * (right - left));
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const filled = [...this.points.values()].some((points) => points.length > 0);
    this.empty.hidden = filled;
    this.legend();
    if (width === 0) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    if (!filled) return;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const color = (name) => style.getPropertyValue(`--${name}`);
    let { left, right, low, high } = this.range();
    const log = this.log && high > 0;
    if (log) low = Math.max(low, this.smallest() * 0.9, high * 1e-6);
    const scale = log ? Math.log : (v) => v;
    const [bottom, top] = [scale(low), scale(high)];
    const x = (step) => PAD.left + ((step - left) / (right - left)) * (width - PAD.left - PAD.right);
    const y = (v) => height - PAD.bottom - ((scale(Math.max(v, log ? low : v)) - bottom) / (top - bottom)) * (height - PAD.top - PAD.bottom);
    this.view = { left, right, width };
    pen.font = `11px ${style.fontFamily}`;
    pen.fillStyle = color("dim");
    pen.strokeStyle = color("grid");
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const tick of log ? logTicks(low, high) : ticks(low, high, 4)) {
      const at = Math.round(y(tick)) + 0.5;
      pen.beginPath();
      pen.moveTo(PAD.left, at);
      pen.lineTo(width - PAD.right, at);
      pen.stroke();
      pen.fillText(this.axis(tick, high - low), PAD.left - 6, at);
    }
    pen.textBaseline = "alphabetic";
    for (const tick of ticks(left, right, Math.max(3, Math.floor(width / 80)))) {
      if (!Number.isInteger(tick)) continue;
      const at = x(tick);
      pen.textAlign = at > width - 30 ? "right" : at < PAD.left + 12 ? "left" : "center";
      pen.fillText(label(tick, right - left), Math.min(at, width - PAD.right), height - 5);
    }
    pen.save();
    pen.beginPath();
    pen.rect(PAD.left - 5, PAD.top - 4, width - PAD.left - PAD.right + 10, height - PAD.top - PAD.bottom + 8);
    pen.clip();
    pen.lineJoin = "round";
    for (const [line, points] of this.points) {
      if (points.length) trace(pen, line, points, x, y, color(line.color));
    }
    pen.restore();
    if (cursor.step !== null && cursor.step >= left && cursor.step <= right) this.mark(pen, x, y, color, height);
  }

  smallest() {
    let least = Infinity;
    for (const points of this.points.values()) for (const point of points) if (point[1] > 0) least = Math.min(least, point[1]);
    return least;
  }

  mark(pen, x, y, color, height) {
    pen.strokeStyle = color("grey");
    pen.setLineDash([3, 3]);
    pen.beginPath();
    pen.moveTo(Math.round(x(cursor.step)) + 0.5, PAD.top);
    pen.lineTo(Math.round(x(cursor.step)) + 0.5, height - PAD.bottom);
    pen.stroke();
    pen.setLineDash([]);
    for (const [line, points] of this.points) {
      const near = nearest(points, cursor.step);
      if (!near) continue;
      pen.fillStyle = color(line.color);
      pen.beginPath();
      pen.arc(x(near[0]), y(near[1]), 3.5, 0, 7);
      pen.fill();
    }
  }

  /** The values under the cursor, else the last ones. */
  legend() {
    const parts = [];
    let step = null;
    for (const [line, points] of this.points) {
      if (points.length === 0) continue;
      const at = cursor.step === null ? points.at(-1) : nearest(points, cursor.step);
      if (cursor.step !== null) step = Math.max(step ?? 0, at[0]);
      const part = element("span");
      const swatch = element("i");
      swatch.style.background = `var(--${line.color})`;
      if (this.points.size > 1) part.append(swatch, `${line.name} `);
      part.append(element("b", "", this.format(at[1])));
      parts.push(part);
    }
    if (step !== null) parts.unshift(element("span", "", `step ${step}`));
    this.values.replaceChildren(...parts);
  }
}

/** A line: what was measured faintly, its moving mean on top when there is much of it. */
function trace(pen, line, points, x, y, color) {
  const path = (values) => {
    pen.beginPath();
    values.forEach(([step, value], i) => (i ? pen.lineTo(x(step), y(value)) : pen.moveTo(x(step), y(value))));
    pen.stroke();
  };
  pen.strokeStyle = color;
  pen.fillStyle = color;
  const many = line.style === "noisy" && points.length >= 60;
  if (many && points.some((point) => point.length > 2)) {
    pen.globalAlpha = 0.12;
    pen.beginPath();
    points.forEach((p, i) => (i ? pen.lineTo(x(p[0]), y(p[3] ?? p[1])) : pen.moveTo(x(p[0]), y(p[3] ?? p[1]))));
    for (const p of points.toReversed()) pen.lineTo(x(p[0]), y(p[2] ?? p[1]));
    pen.fill();
  }
  pen.globalAlpha = many ? 0.3 : 1;
  pen.lineWidth = many ? 1 : 1.8;
  path(points);
  pen.globalAlpha = 1;
  if (many) {
    pen.lineWidth = 2;
    path(smooth(points));
  }
  if (line.style === "marks" || points.length === 1) {
    for (const [step, value] of points) {
      pen.beginPath();
      pen.arc(x(step), y(value), 3.2, 0, 7);
      pen.fill();
    }
  }
}

/** An exponential moving mean over about a fortieth of the curve, without the start's pull to zero. */
function smooth(points) {
  const keep = 1 - 1 / Math.max(2, points.length / 40);
  let [sum, weight] = [0, 0];
  return points.map(([step, value]) => {
    sum = sum * keep + value;
    weight = weight * keep + 1;
    return [step, sum / weight];
  });
}

function nearest(points, step) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle + 1;
    else high = middle;
  }
  const [before, here] = [points[low - 1], points[low]];
  return before && here && step - before[0] < here[0] - step ? before : here;
}

function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  // The nearest round distance, not the next larger one: that could leave a single tick.
  const step = [1, 2, 5, 10].map((m) => m * power).reduce((a, b) => (Math.abs(Math.log(b / rough)) < Math.abs(Math.log(a / rough)) ? b : a));
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const m of [1, 2, 5]) if (m * 10 ** power >= low && m * 10 ** power <= high) found.push(m * 10 ** power);
  }
  return found.length > 6 ? found.filter((tick) => Number.isInteger(Math.log10(tick)) || found.length < 6) : found;
}

/** A tick with no more digits than it needs. */
function label(value, span) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  if (size !== 0 && (size < 1e-3 || span < 1e-3)) return value.toExponential(1).replace(".0e", "e");
  return String(Number(value.toPrecision(4)));
}

function point(step) {
  if (cursor.step === step) return;
  cursor.step = step;
  for (const chart of cursor.charts) chart.draw();
}

/** An element with a class and a text. */
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
