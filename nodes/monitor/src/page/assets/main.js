// The page: listens to /events and hands what comes to the cards.
//
// `state` is everything; `update` is what changed: a series or the patterns from an index on, anything else as a whole. The
// server keeps series short, so what is kept here is bounded however long the run is.

import { Attention } from "./attention.js";
import { Batch } from "./batch.js";
import { Chart, element } from "./chart.js";
import { duration, number, or, percent, si, whole } from "./format.js";
import { Health } from "./health.js";
import { Samples } from "./samples.js";

const at = (id) => document.getElementById(id);
const model = { series: {}, attention: [], status: {}, ended: false };

const hundredths = (share, span) => `${Number((share * 100).toPrecision(3))}${span ? " %" : ""}`;
/** How the values of a chart are written, and its ticks. */
const formats = {
  number: { format: number },
  exponent: { format: (v) => v.toExponential(2) },
  percent: { format: percent, axis: hundredths },
  si: { format: si },
};
/** By their titles. */
const charts = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.draw()));
const cards = { batch: new Batch(), attention: new Attention(), samples: new Samples(), health: new Health() };

function tiles(status, series) {
  const last = (key) => series[key]?.at(-1)?.[1];
  const before = series.nelbo?.[0]?.[0] === 0 ? series.nelbo[0][1] : null;
  const nelbo = last("nelbo");
  const rows = [
    ["step", status.step === null ? "–" : whole(status.step), status.total ? `of ${whole(status.total)}` : ""],
    ["time left", or(status.eta, duration), `after ${duration(status.elapsed)}`],
    ["loss, weighted", or(status.loss, number), "mean of 50 steps"],
    ["loss, unweighted", or(status.loss_unweighted, number), ""],
    ["validation NELBO", or(nelbo, number), before !== null && before !== nelbo ? `from ${number(before)}` : ""],
    ["visible right side", or(last("attn_mask_ratio"), (v) => `${Math.round(v * 100)} %`), ""],
    ["tokens per second", or(status.tokens_per_s, si), status.tokens_seen ? `${si(status.tokens_seen)} seen` : ""],
    ["waiting for data", or(status.data_wait_share, percent), ""],
  ];
  at("tiles").replaceChildren(...rows.map(([name, value, more]) => {
    const tile = element("div");
    const number = element("dd", "", value);
    if (more) number.append(" ", element("small", "", more));
    tile.append(element("dt", "", name), number);
    return tile;
  }));
}

const STATES = { waiting: "starting", training: "training", scoring: "scoring", failed: "failed", ended: "finished", stopped: "stopped" };

function show(changed) {
  const { status, series } = model;
  at("state").textContent = STATES[status.state] ?? status.state;
  at("state").dataset.state = status.state;
  at("report").hidden = !status.report || model.ended;
  const done = status.total ? Math.min(1, (status.step ?? 0) / status.total) : 0;
  at("bar").firstElementChild.style.width = `${done * 100}%`;
  at("bar").setAttribute("aria-valuemax", status.total ?? 0);
  at("bar").setAttribute("aria-valuenow", status.step ?? 0);
  document.title = `${status.total ? `${Math.floor(done * 100)} % ` : ""}${model.run} · difflow`;
  notice(status.notice, status.state === "failed");
  tiles(status, series);
  if (changed.series) for (const chart of charts.values()) chart.update(series);
  if (changed.attention) cards.attention.update(model.attention);
  if (changed.preview) cards.batch.update(changed.preview);
  if (changed.texts) cards.samples.keep(changed.texts);
  if (changed.samples) cards.samples.update(changed.samples);
  cards.health.update(status);
}

function notice(text, bad) {
  at("notice").hidden = !text;
  at("notice").textContent = text ?? "";
  at("notice").dataset.kind = bad ? "bad" : "";
}

/** Replaces what is known from index `from` on. */
function splice(known, { from, points }) {
  known.splice(from, known.length, ...points);
}

function take(update) {
  Object.assign(model.status, update.status);
  // New ones come last, that of a task with its first score; a reader who comes back has the others already.
  const fresh = (update.charts ?? []).filter((chart) => !charts.has(chart.title));
  for (const chart of fresh) charts.set(chart.title, new Chart(at("charts"), { ...chart, ...formats[chart.format] }));
  for (const [name, change] of Object.entries(update.series ?? {})) splice((model.series[name] ??= []), change);
  if (update.attention) splice(model.attention, update.attention);
  show(update);
}

function listen() {
  const events = new EventSource("events");
  events.addEventListener("state", (event) => {
    const state = JSON.parse(event.data);
    Object.assign(model, { series: {}, attention: [], status: {}, run: state.run });
    at("run").textContent = state.run;
    at("version").textContent = `difflow ${state.version}`;
    take(state);
  });
  events.addEventListener("update", (event) => take(JSON.parse(event.data)));
  events.addEventListener("end", (event) => {
    model.ended = true;
    events.close();
    take(JSON.parse(event.data));
  });
  events.onerror = () => {
    if (model.ended) return;
    at("state").dataset.state = "lost";
    at("state").textContent = "connection lost";
    const gone = events.readyState === EventSource.CLOSED;
    notice(gone ? "The page's connection was refused; load it again." : "The connection to the run is lost; trying again. What is shown was true until then.", true);
  };
}

listen();
