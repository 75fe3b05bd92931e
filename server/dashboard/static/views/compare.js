// Runs side by side: the same figures, the same axes. What the spread over seeds allows to be said
// is the business of `fedstill compare`.

import { chart, line, ratioAxis, ratioRange, roundAxis, roundRange, roundSeries } from "../charts.js";
import { fill, h, plainTable } from "../dom.js";
import { last, mean, sum } from "../figures.js";
import { formatBytes, formatCount, formatRatio, formatSeconds, formatTick } from "../format.js";
import { runLink } from "../links.js";
import { scatterChart } from "../scatter.js";
import { fetchRun } from "../store.js";

const MAX_RUNS = 12;

export function mountCompare(root, { params }) {
  const names = (params.get("runs") ?? "").split(",").filter(Boolean).slice(0, MAX_RUNS);
  const content = h("div", {}, h("p", { class: "lead" }, "Reading…"));
  const charts = [];
  let ended = false;
  fill(root, h("header", { class: "top" }, h("h1", {}, "Comparison"), h("p", { class: "lead" }, `${names.length} runs; seeds and partitions may differ. “fedstill compare” says what their spread allows.`)), content);

  Promise.allSettled(names.map(fetchRun)).then((answers) => {
    if (ended) return;
    const runs = answers.filter((answer) => answer.status === "fulfilled").map((answer) => answer.value);
    const missing = names.filter((_, index) => answers[index].status === "rejected");
    if (!runs.length) { fill(content, h("p", {}, "None of these runs can be read.")); return; }
    const curves = curvesChart(runs);
    const scatter = runScatter(runs);
    charts.push(curves, scatter);
    fill(content,
      missing.length ? h("p", { class: "lead" }, `Not found: ${missing.join(", ")}.`) : null,
      figuresTable(runs), h("div", { class: "pictures" }, curves.element, scatter.element), h("h2", {}, "Where they were asked different things"), differences(runs));
  });

  return { update() {}, destroy() { ended = true; charts.forEach((item) => item.destroy()); } };
}

const figures = (run) => {
  const { fleet, teacher } = run.overview;
  const total = (name) => sum(run.rounds.map((item) => item[name]));
  const bytes = total("bytes_down") + total("bytes_up");
  return {
    accuracy: fleet?.accuracy_mean ?? last(run.rounds)?.accuracy_mean ?? null,
    worst: fleet?.accuracy_min ?? last(run.rounds)?.worst ?? null,
    teacher: teacher?.accuracy ?? null,
    local: fleet?.local_accuracy_mean ?? null,
    privately: fleet?.private_accuracy_mean ?? last(run.rounds)?.private_accuracy ?? null,
    size: fleet?.artefact_bytes_mean ?? mean(run.list.map((node) => node.artefact_bytes)),
    bytes,
    all: bytes + total("public_sample_bytes"),
    fedavg: total("fedavg_bytes"),
    dropped: total("num_dropped"),
    seconds: run.overview.wall_seconds,
  };
};

function figuresTable(runs) {
  const heads = ["Run", "Scheme", "Seed", "Nodes", "Rounds", "Students", "Worst", "Teacher", "Local", "Private", "Artefact", "Labels", "With public", "FedAvg", "Dropped", "Time"];
  const rows = runs.map((run, index) => {
    const found = figures(run);
    return [
      h("span", { class: "swatch", style: { "--series": `var(--series-${index % 8})` } }, h("a", { href: runLink(run.overview.name) }, run.overview.name)),
      run.overview.scheme, String(run.overview.seed), formatCount(run.list.length), formatCount(run.rounds.length),
      formatRatio(found.accuracy), formatRatio(found.worst), formatRatio(found.teacher), formatRatio(found.local), formatRatio(found.privately),
      formatBytes(found.size), formatBytes(found.bytes), formatBytes(found.all), formatBytes(found.fedavg), formatCount(found.dropped), formatSeconds(found.seconds),
    ];
  });
  return plainTable(heads, rows, { numeric: heads.map((_, index) => index).slice(2), css: "tight", label: "Figures of the runs" });
}

function curvesChart(runs) {
  const rounds = [...new Set(runs.flatMap((run) => run.rounds.map((item) => item.round)))].sort((one, two) => one - two);
  const figure = chart({
    title: "Accuracy by round",
    caption: "Fleet means of the artefacts on the evaluation set.",
    height: 300,
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: ratioRange } },
      axes: [roundAxis(), ratioAxis()],
      series: [roundSeries(), ...runs.map((run, index) => line(run.overview.name, index))],
    },
  });
  figure.update([rounds, ...runs.map((run) => rounds.map((round) => run.rounds.find((item) => item.round === round)?.accuracy_mean ?? null))]);
  return figure;
}

function runScatter(runs) {
  const figure = scatterChart({
    title: "Accuracy against bytes moved",
    caption: "Labels and uploads of a whole run, all nodes. Click a point for its run.",
    groups: runs.map((run, index) => [run.overview.name, index]),
    formatX: formatBytes, formatAxis: formatTick, labelX: "moved",
  });
  figure.update(runs.map((run) => {
    const found = figures(run);
    return { x: found.bytes, y: found.accuracy, group: run.overview.name, text: `${run.overview.name}: ${formatRatio(found.accuracy)}, ${formatBytes(found.bytes)}`, href: runLink(run.overview.name) };
  }));
  return figure;
}

function differences(runs) {
  const configs = runs.map((run) => new Map(run.config.map(([key, value]) => [key, String(value)])));
  const keys = [...new Set(configs.flatMap((config) => [...config.keys()]))].filter((key) => new Set(configs.map((config) => config.get(key))).size > 1);
  if (!keys.length) return h("p", { class: "lead" }, "Nowhere: all keys are equal.");
  return plainTable(["Key", ...runs.map((run) => run.overview.name)], keys.map((key) => [h("code", {}, key), ...configs.map((config) => config.get(key) ?? "–")]), { label: "Differing keys" });
}
