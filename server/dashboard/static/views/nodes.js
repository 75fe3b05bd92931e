// Every node in a row: sorted, filtered and searched, a thousand and more without a stutter.

import { fill, h } from "../dom.js";
import { families, troubles } from "../figures.js";
import { formatBytes, formatCount, formatNumber, formatRatio, formatSeconds } from "../format.js";
import { nodeLink } from "../links.js";
import { dataTable } from "../table.js";

const ratio = (value) => formatRatio(value);
const COLUMNS = [
  { key: "node_id", name: "Node", width: 130 },
  { key: "family", name: "Student", width: 116 },
  { key: "accuracy", name: "Accuracy", width: 88, numeric: true, format: ratio, title: "Of the artefact, on the evaluation set" },
  { key: "change", name: "Change", width: 80, numeric: true, format: (value) => formatRatio(value, { signed: true }), title: "Since the node's round before", css: (value) => (value < -0.005 ? "bad" : value > 0.005 ? "good" : "") },
  { key: "fp32_accuracy", name: "fp32", width: 68, numeric: true, format: ratio, title: "The same student before compression" },
  { key: "local_accuracy", name: "Local", width: 68, numeric: true, format: ratio, title: "The control: the same student from private data alone" },
  { key: "private_accuracy", name: "Private", width: 76, numeric: true, format: ratio, title: "On the node's own test part, as the node says" },
  { key: "agreement_ratio", name: "Agreement", width: 98, numeric: true, format: ratio, title: "With the teacher" },
  { key: "distillation_loss", name: "Loss", width: 88, numeric: true, format: formatNumber, title: "Of distillation, nats" },
  { key: "artefact_bytes", name: "Size", width: 82, numeric: true, format: formatBytes },
  { key: "latency_seconds", name: "Latency", width: 84, numeric: true, format: formatSeconds, title: "One sample through the artefact" },
  { key: "bytes_down", name: "Down", width: 82, numeric: true, format: formatBytes },
  { key: "bytes_up", name: "Up", width: 78, numeric: true, format: formatBytes },
  { key: "num_train_samples", name: "Train n", width: 78, numeric: true, format: formatCount },
  { key: "last_round", name: "Round", width: 70, numeric: true, format: formatCount, title: "Newest round with an accepted reply" },
  { key: "num_drops", name: "Drops", width: 68, numeric: true, format: formatCount, css: (value) => (value ? "bad" : "") },
  { key: "num_flipped", name: "Flipped", width: 78, numeric: true, format: formatCount, title: "Samples whose class compression changed" },
];
const TROUBLES = [
  ["", "all nodes"],
  ["lost", "accuracy fell"],
  ["tail", "lowest tenth"],
  ["dropped", "replies dropped"],
  ["stale", "not in the last round"],
  ["rests", "resting"],
  ["reset", "lost their student"],
];

export function mountNodes(root, { run: name, navigate, params }) {
  let run = null;
  let names = "";
  const search = h("input", { type: "search", placeholder: "Search nodes", "aria-label": "Search nodes", "data-search": true, value: params.get("find") ?? "", oninput: show });
  const family = h("select", { "aria-label": "Student", onchange: show });
  const trouble = h("select", { "aria-label": "Which nodes", onchange: show }, TROUBLES.map(([value, text]) => h("option", { value }, text)));
  const count = h("output", { class: "note" });
  const table = dataTable({
    columns: COLUMNS,
    key: "node_id",
    label: "Nodes",
    sort: { key: "node_id", down: false },
    emptyText: "No node fits.",
    open: (node) => navigate(nodeLink(name, node.node_id)),
  });
  fill(root, h("div", { class: "tools" }, search, family, trouble, count), table.element,
    h("p", { class: "note hint" }, "Arrow keys move, Enter opens a node, / searches."));

  function show() {
    if (!run) return;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const accuracies = run.list.map((node) => node.accuracy).filter((value) => value !== null).sort((one, two) => one - two);
    const tail = accuracies[Math.floor(accuracies.length / 10)];
    const wanted = trouble.value;
    const found = run.list.filter((node) => {
      if (family.value && node.family !== family.value) return false;
      if (!words.every((word) => `${node.node_id} ${node.family}`.toLowerCase().includes(word))) return false;
      if (!wanted) return true;
      if (wanted === "lost") return node.change < 0;
      if (wanted === "tail") return node.accuracy !== null && node.accuracy <= tail;
      return troubles(node, run).includes(wanted);
    });
    count.textContent = `${formatCount(found.length)} of ${formatCount(run.list.length)}`;
    table.update(found);
  }

  return {
    update(next, change) {
      run = next;
      const kinds = families(run.list);
      if (kinds.join() !== names) {
        names = kinds.join();
        const chosen = family.value;
        fill(family, h("option", { value: "" }, "all students"), kinds.map((kind) => h("option", { value: kind }, kind)));
        family.value = kinds.includes(chosen) ? chosen : "";
      }
      if (!change || change.nodes || change.rounds) show();
    },
    destroy: table.destroy,
  };
}
