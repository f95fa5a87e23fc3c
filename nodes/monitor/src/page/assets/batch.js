// A row of the batch that the trainer is at, its masked tokens covered.

import { element } from "./chart.js";
import { number, percent } from "./format.js";

export class Batch {
  constructor() {
    [this.text, this.where, this.note] = ["batch-text", "batch-where", "batch-note"].map((id) => document.getElementById(id));
  }

  /** preview: {step, t, weight, masked_share, tokens: [[text, masked, special]]} */
  update(preview) {
    const { step, t, weight, masked_share: share, tokens } = preview;
    this.where.replaceChildren(value("step", step), value("t", t.toFixed(3)), value("masked", percent(share)), value("weight", number(weight)));
    this.text.replaceChildren(...tokens.map(([text, masked, special]) => {
      const token = element("span", `${masked ? "masked" : ""}${special ? " special" : ""}`.trim(), text);
      if (masked) token.title = text;
      return token;
    }));
    this.note.textContent = "Blue: masked, the model must restore it; point at one to see the word. The rest is what the model sees.";
  }
}

function value(name, text) {
  const part = element("span", "", `${name} `);
  part.append(element("b", "", String(text)));
  return part;
}
