// A page to play on: a text with gaps goes to the server, and what each forward reveals is shown, kept, and can be gone through again.

const at = (id) => document.getElementById(id);
const DECODERS = ["", "random", "first-hitting", "confidence", "threshold", "entropy-bound", "stable", "greedy", "ar", "speculative"];
/** Options that are only sent when somebody moved them: the checkpoint says the rest. */
const moved = new Set();
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

/** One alternative: the tokens that were given (null: not), and what each forward revealed. */
class Text {
  constructor(tokens) {
    this.tokens = [...tokens];
    this.given = tokens.map((token) => token !== null);
    this.steps = [];
    this.told = "";
    this.reason = null;
  }

  add(step) {
    this.steps.push(step.revealed);
    for (const { position } of step.revealed)
      while (this.tokens.length <= position) {
        this.tokens.push(null);
        this.given.push(false);
      }
  }

  /** What stands at each position after `time` forwards, with the forward that revealed it. */
  after(time) {
    const tokens = this.tokens.map((text, place) => (this.given[place] ? { text, given: true } : null));
    this.steps.slice(0, time).forEach((reveals, step) => {
      for (const { position, text, probability, end } of reveals) tokens[position] = { text, probability, end, step };
    });
    // Behind its end a text has nothing.
    const last = this.given.lastIndexOf(true);
    const end = tokens.findIndex((token, place) => place > last && token?.end);
    return end < 0 ? tokens : tokens.slice(0, end + 1);
  }
}

let texts = [];
let shown = 0;
let running = null;
let timer = null;

function say(problem) {
  at("notice").hidden = !problem;
  at("notice").textContent = problem ?? "";
}

function state(name, text) {
  at("state").dataset.state = name;
  at("state").textContent = text;
}

/** Shows the chosen alternative after `time` forwards. */
function show(time) {
  const text = texts[shown];
  if (!text) return;
  const steps = text.steps.length;
  time = Math.max(0, Math.min(time, steps));
  const nodes = text.after(time).map((token) => {
    const node = document.createElement("span");
    if (!token) node.className = "masked";
    else {
      node.className = token.given ? "given" : token.end ? "end" : token.step === time - 1 && time < steps ? "made fresh" : "made";
      node.textContent = token.text;
      if (token.probability != null) node.title = `${(token.probability * 100).toFixed(0)} % sure, forward ${token.step + 1}`;
    }
    return node;
  });
  at("canvas").replaceChildren(...nodes);
  at("time").max = String(steps);
  at("time").value = String(time);
  at("at").textContent = `${time} of ${steps}`;
  document.querySelector(".foot").hidden = steps === 0;
}

function tabs() {
  at("tabs").hidden = texts.length < 2;
  at("tabs").replaceChildren(
    ...texts.map((_, number) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-selected", String(number === shown));
      tab.textContent = String(number + 1);
      tab.onclick = () => {
        shown = number;
        pause();
        tabs();
        show(texts[shown].steps.length);
      };
      return tab;
    }),
  );
}

function pause() {
  clearInterval(timer);
  timer = null;
  at("play").textContent = "▶";
  at("play").setAttribute("aria-label", "play");
}

function play() {
  const steps = texts[shown]?.steps.length ?? 0;
  let time = Number(at("time").value) >= steps ? 0 : Number(at("time").value);
  at("play").textContent = "❚❚";
  at("play").setAttribute("aria-label", "pause");
  const tick = () => {
    show(time);
    if (time++ >= steps) pause();
  };
  clearInterval(timer);
  timer = setInterval(tick, Math.max(40, Math.min(400, 5000 / Math.max(1, steps))));
  tick();
}

/** The request that the form says. */
function request() {
  const body = { prompt: at("prompt").value, stream: true, stream_canvas: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "threshold", "steps"]) if (moved.has(name)) body[name] = Number(at(name).value);
  if (at("decoder").value) body.decoder = at("decoder").value;
  if (at("length").value) body.max_tokens = Number(at("length").value);
  if (at("seed").value) body.seed = Number(at("seed").value);
  if (at("count").value !== "1") body.n = Number(at("count").value);
  return body;
}

/** Events of a stream: their name and their data. */
async function* events(answer) {
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = answer.body.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n");
      const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
      if (data) yield { name: lines.find((line) => line.startsWith("event: "))?.slice(7) ?? "chunk", data };
    }
  }
}

async function write() {
  running?.abort();
  const own = (running = new AbortController());
  pause();
  say(null);
  [texts, shown] = [[], 0];
  at("canvas").replaceChildren();
  at("tabs").hidden = true;
  at("where").textContent = "";
  state("training", "writing");
  at("write").textContent = "Stop";
  let usage = null;
  let seed = null;
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch("v1/completions", { method: "POST", headers, body: JSON.stringify(request()), signal: own.signal });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const { name, data } of events(answer)) {
      if (data === "[DONE]") break;
      const told = JSON.parse(data);
      if (told.error) throw new Error(told.error.message);
      if (name === "canvas" && told.tokens) {
        texts[told.index] = new Text(told.tokens);
        tabs();
      } else if (name === "canvas") texts[told.index].add(told);
      else {
        seed = told.seed ?? seed;
        usage = told.usage ?? usage;
        for (const choice of told.choices) {
          texts[choice.index].told += choice.text;
          texts[choice.index].reason = choice.finish_reason ?? texts[choice.index].reason;
        }
      }
      // Every change, but not more often than anybody sees.
      if (!own.drawn) {
        own.drawn = true;
        requestAnimationFrame(() => {
          own.drawn = false;
          if (running === own || running === null) show(Infinity);
        });
      }
    }
    show(Infinity);
    const rate = usage?.forwards ? (usage.completion_tokens / usage.forwards).toFixed(2) : "–";
    at("where").textContent = usage ? `${usage.completion_tokens} tokens, ${usage.forwards} forwards, ${rate} a forward, seed ${seed}` : "";
    at("note").textContent = "Pale words were given, green ones were just revealed, covered ones are still [MASK].";
    state("ended", "ready");
  } catch (problem) {
    if (running !== own) return;
    if (problem.name !== "AbortError") say(problem.message);
    state("ended", "ready");
  } finally {
    if (running === own) {
      running = null;
      at("write").textContent = "Write";
    }
  }
}

/** Puts a gap where the cursor is, in the place of what is chosen. */
function leaveGap() {
  const field = at("prompt");
  const { selectionStart: start, selectionEnd: end, value } = field;
  const gap = `${start > 0 && !/\s$/.test(value.slice(0, start)) ? " " : ""}[MASK]`;
  field.setRangeText(gap, start, end, "end");
  field.focus();
}

function tell(name) {
  document.querySelector(`output[for=${name}]`).textContent = moved.has(name) ? at(name).value : "by itself";
}

for (const decoder of DECODERS) at("decoder").append(new Option(decoder || "by itself", decoder));
for (const [name, value] of [["temperature", 0.95], ["threshold", 0.9], ["steps", 64]]) {
  at(name).value = String(value);
  at(name).oninput = () => {
    moved.add(name);
    tell(name);
  };
  tell(name);
}
at("form").onsubmit = (event) => {
  event.preventDefault();
  if (running) running.abort();
  else write();
};
at("gap").onclick = leaveGap;
at("play").onclick = () => (timer ? pause() : play());
at("time").oninput = () => {
  pause();
  show(Number(at("time").value));
};
const step = (by) => {
  pause();
  show(Number(at("time").value) + by);
};
at("back").onclick = () => step(-1);
at("next").onclick = () => step(1);
document.onkeydown = (event) => {
  const writes = event.target.matches?.("textarea, input, select");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write();
  } else if (event.key === "Escape") running?.abort();
  else if (event.key.toLowerCase() === "g" && event.altKey) {
    event.preventDefault();
    leaveGap();
  } else if (!writes && event.key === "ArrowLeft") step(-1);
  else if (!writes && event.key === "ArrowRight") step(1);
};

const models = await fetch("v1/models").catch(() => null);
if (models?.ok) {
  const [model] = (await models.json()).data;
  at("run").textContent = model.id;
  const about = [model.block ? `writes blocks of ${model.block}` : null, model.fills_gaps ? "fills gaps" : "continues texts", `up to ${model.max_model_len} tokens`];
  at("about").textContent = about.filter(Boolean).join(", ");
  at("gap").hidden = !model.fills_gaps;
  state("ended", "ready");
} else {
  const why = models ? (await models.json()).error.message : "the server does not answer";
  say(why);
  state("failed", "no model");
}
at("prompt").focus({ preventScroll: still });
