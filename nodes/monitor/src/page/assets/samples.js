// Texts of a checkpoint, played as the model unmasked them.

import { element } from "./chart.js";

const KINDS = { unconditional: "from nothing", infill: "gaps filled", answer: "answers" };
/** Milliseconds that the unmasking of one text takes to watch. */
const LASTS = 5000;

export class Samples {
  constructor() {
    this.at = (name) => document.getElementById(`sample-${name}`);
    this.card = document.getElementById("samples");
    this.card.dataset.empty = "";
    this.steps = [];
    this.texts = [];
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.at("step").onchange = () => this.load(Number(this.at("step").value));
    this.at("kind").onchange = () => this.choose(0);
    this.at("back").onclick = () => this.choose(this.index - 1);
    this.at("next").onclick = () => this.choose(this.index + 1);
    this.at("play").onclick = () => (this.timer ? this.stop() : this.play());
    this.at("time").oninput = () => {
      this.stop();
      this.reveal(Number(this.at("time").value));
    };
  }

  /** steps: of the checkpoints that have samples. The newest is shown unless an older one was chosen. */
  update(steps) {
    const newest = this.steps.length === 0 || Number(this.at("step").value) === this.steps.at(-1);
    if (steps.length === 0 || String(steps) === String(this.steps)) return;
    this.steps = steps;
    const chosen = newest ? steps.at(-1) : Number(this.at("step").value);
    this.at("step").replaceChildren(...steps.map((step) => option(step, step === 0 ? "before training" : `step ${step}`)));
    this.at("step").value = String(chosen);
    if (newest) this.load(chosen);
  }

  /** texts: of the newest checkpoint; older ones are asked for. */
  keep(texts) {
    this.kept = texts;
  }

  async load(step) {
    if (this.kept?.step === step) this.texts = this.kept.samples;
    else {
      let why = "the run is over, and this page is not served any more; they are in its report";
      const answer = await fetch(`samples/${step}`).catch(() => null);
      if (answer?.ok) this.texts = (await answer.json()).samples;
      else {
        if (answer) why = await answer.text();
        this.at("note").textContent = `The samples of step ${step} cannot be read: ${why}.`;
        return;
      }
    }
    const kinds = [...new Set(this.texts.map((text) => text.kind))];
    const before = this.at("kind").value;
    this.at("kind").replaceChildren(...kinds.map((kind) => option(kind, KINDS[kind] ?? kind)));
    if (kinds.includes(before)) this.at("kind").value = before;
    delete this.card.dataset.empty;
    this.choose(0);
  }

  choose(index) {
    const texts = this.texts.filter((text) => text.kind === this.at("kind").value);
    if (texts.length === 0) return;
    this.index = (index + texts.length) % texts.length;
    const text = (this.text = texts[this.index]);
    this.at("number").textContent = `${this.index + 1} of ${texts.length}`;
    this.at("prompt").textContent = text.kind === "unconditional" ? "" : text.prompt;
    const tokens = text.history?.length ? text.history : [{ text: text.text }];
    this.tokens = tokens.map((token) => ({ step: token.step ?? null, node: element("span", token.step == null ? "fixed" : "made", token.text) }));
    this.at("text").replaceChildren(...this.tokens.map((token) => token.node));
    this.last = Math.max(-1, ...this.tokens.map((token) => token.step ?? -1));
    this.at("time").max = String(this.last + 1);
    this.card.querySelector(".foot").hidden = this.last < 0;
    const where = [`step ${this.at("step").value}`, `${text.nfe} forward passes`].map((part) => element("span", "", part));
    const passes = text.verdict === "ok";
    if (text.verdict) where.push(element("span", passes ? "ok" : "bad", passes ? "checker: ok" : "checker: no"));
    document.getElementById("sample-where").replaceChildren(...where);
    const wrong = text.verdict && !passes ? `The checker says: ${text.verdict}. ` : "";
    this.at("note").textContent = `${wrong}${this.last < 0 ? "" : "Covered words are still [MASK]; green ones were just revealed."}`;
    this.stop();
    if (this.still || document.hidden || this.last < 0) this.reveal(this.last + 1);
    else this.play();
  }

  /** Shows the text after `time` decoding steps. */
  reveal(time, fresh = 0) {
    for (const { step, node } of this.tokens) {
      if (step === null) continue;
      node.className = step >= time ? "masked" : step >= time - fresh ? "made fresh" : "made";
    }
    this.at("time").value = String(time);
    this.at("at").textContent = `${time} of ${this.last + 1} steps`;
  }

  play() {
    const end = this.last + 1;
    const from = Number(this.at("time").value) >= end ? 0 : Number(this.at("time").value);
    const [started, rate] = [performance.now(), end / LASTS];
    const fresh = Math.max(1, Math.round(rate * 200));
    this.at("play").textContent = "❚❚";
    this.at("play").setAttribute("aria-label", "pause");
    const tick = () => {
      const time = Math.min(end, Math.floor(from + (performance.now() - started) * rate));
      this.reveal(time, time < end ? fresh : 0);
      if (time >= end) this.stop();
    };
    clearInterval(this.timer);
    this.timer = setInterval(tick, 60);
    tick();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.at("play").textContent = "▶";
    this.at("play").setAttribute("aria-label", "play");
  }
}

function option(value, text) {
  const made = element("option", "", text);
  made.value = String(value);
  return made;
}
