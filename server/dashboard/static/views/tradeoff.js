// What a byte, a millisecond or a sample buys; the front is what no other node beats.

import { fill, h, plainTable } from "../dom.js";
import { families, paretoFront } from "../figures.js";
import { formatBytes, formatCount, formatRatio, formatSeconds, formatTick } from "../format.js";
import { nodePoints, nodeScatter } from "./fleet.js";

const COSTS = {
  artefact_bytes: ["bytes of the artefact", formatBytes, formatTick],
  fp32_bytes: ["bytes before compression", formatBytes, formatTick],
  latency_seconds: ["latency", formatSeconds, formatSeconds],
  bytes_down: ["bytes fetched", formatBytes, formatTick],
  num_train_samples: ["training samples", formatCount, formatCount],
};
const GAINS = { accuracy: "accuracy", private_accuracy: "private accuracy", agreement_ratio: "agreement with the teacher" };

export function mountTradeoff(root, { run: name }) {
  let run = null;
  let drawn = "";
  let scatter = null;
  const options = (table) => Object.entries(table).map(([value, text]) => h("option", { value }, Array.isArray(text) ? text[0] : text));
  const cost = h("select", { "aria-label": "Cost", onchange: () => show() }, options(COSTS));
  const gain = h("select", { "aria-label": "Gain", onchange: () => show() }, options(GAINS));
  const holder = h("div");
  const front = h("div");
  fill(root, h("div", { class: "tools" }, gain, h("span", { class: "note" }, "against"), cost), holder, h("h2", {}, "The front"), front);

  function show() {
    const kinds = families(run.list);
    const [text, format, formatAxis] = COSTS[cost.value];
    const stamp = [cost.value, gain.value, ...kinds].join();
    if (stamp !== drawn) {
      drawn = stamp;
      scatter?.destroy();
      scatter = nodeScatter(kinds, {
        title: `${GAINS[gain.value]} against ${text}`.replace(/^./, (letter) => letter.toUpperCase()),
        caption: "Click a point for its node. The line joins the nodes that no other beats: cheaper and at least as good.",
        formatX: format, formatAxis, labelX: text, labelY: GAINS[gain.value], height: 420,
      });
      fill(holder, scatter.element);
    }
    const points = nodePoints(run, name, { x: cost.value, y: gain.value, format });
    scatter.update(points);
    const best = paretoFront(points.filter((point) => !point.isMark && point.x > 0 && point.y !== null));
    fill(front, best.length
      ? plainTable(["Node", "Student", GAINS[gain.value], text],
        best.map((point) => [h("a", { href: point.href }, point.text.split(":")[0]), point.group, formatRatio(point.y), format(point.x)]),
        { numeric: [2, 3], label: "The front" })
      : h("p", { class: "lead" }, cost.value === "latency_seconds" ? "Latencies are measured at the end of a run." : "No node has reported yet."));
  }

  return {
    update(next, change) { run = next; if (!change || change.nodes) show(); },
    destroy() { scatter?.destroy(); },
  };
}

