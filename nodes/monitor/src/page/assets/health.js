// What the node processes and the measured edges are doing.

import { element } from "./chart.js";
import { bytes, duration, or, whole } from "./format.js";

export class Health {
  constructor() {
    [this.nodes, this.edges] = ["nodes", "edges"].map((id) => document.querySelector(`#${id} tbody`));
    this.where = document.getElementById("health-where");
  }

  /** status.nodes: [{id, state, cpu, memory}], status.edges: [{edge, messages, age, lost, closed}]; null is "not measured". */
  update({ nodes = [], edges = [] }) {
    this.nodes.replaceChildren(...nodes.map(({ id, state, cpu, memory }) => {
      const row = element("tr");
      const cell = element("td");
      const dot = element("span", "dot");
      dot.dataset.state = state;
      cell.append(dot, state);
      row.append(element("td", "", id), cell, element("td", "", or(cpu, (v) => `${Math.round(v * 100)} %`)), element("td", "", or(memory, bytes)));
      return row;
    }));
    this.edges.replaceChildren(...edges.map(({ edge, messages, age, lost, closed }) => {
      const row = element("tr");
      const since = closed ? "closed" : or(age, (v) => (v < 2 ? "now" : `${duration(v)} ago`));
      const bad = lost > 0 ? "bad" : "";
      row.append(element("td", "", edge), element("td", "", or(messages, whole)), element("td", "", since), element("td", bad, or(lost, whole)));
      return row;
    }));
    const running = nodes.filter((node) => node.state === "running").length;
    this.where.textContent = nodes.length ? `${running} of ${nodes.length} running` : "";
  }
}
