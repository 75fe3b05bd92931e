// What was moved, who answered, and what went wrong.

import { axis, bars, chart, line, numberAxis, roundAxis, roundRange, roundSeries, zeroRange } from "../charts.js";
import { fill, h, plainTable, tile } from "../dom.js";
import { sum } from "../figures.js";
import { describeEvent, formatAge, formatBytes, formatClock, formatCount, formatNumber, formatSeconds, formatTick, formatTimes, UNKNOWN } from "../format.js";
import { nodeLink } from "../links.js";
import { metric, samples } from "../store.js";

export function mountExchange(root, { run: name }) {
  let run = null;
  const tiles = h("dl", { class: "tiles" });
  const charts = [bytesChart(), cumulativeChart(), repliesChart(), labelChart()];
  const faults = h("div");
  const calls = h("div");
  const system = h("div");
  const level = h("select", { "aria-label": "Level", onchange: showLog }, [["", "all events"], ["warning", "warnings"]].map(([value, text]) => h("option", { value }, text)));
  const search = h("input", { type: "search", placeholder: "Search events", "aria-label": "Search events", "data-search": true, oninput: showLog });
  const log = h("div");
  fill(root, tiles, h("div", { class: "pictures" }, charts.map((item) => item.element)),
    h("div", { class: "columns" }, h("section", {}, h("h2", {}, "Faults"), faults), h("section", {}, h("h2", {}, "Label service"), calls, h("h2", {}, "Coordinator"), system)),
    h("h2", {}, "Events"), h("div", { class: "tools" }, search, level), log);

  function showLog() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = run.events.filter((event) => (!level.value || event.level === level.value)
      && words.every((word) => `${event.node ?? ""} ${event.event} ${describeEvent(event)}`.toLowerCase().includes(word))).reverse();
    fill(log, found.length
      ? h("ol", { class: "news log" }, found.slice(0, 200).map((event) => h("li", { class: event.level }, h("time", { title: event.time }, formatClock(event.time)),
        h("span", {}, event.node && run.nodes.has(event.node) ? [h("a", { href: nodeLink(name, event.node) }, event.node), " "] : event.node ? `${event.node} ` : "", describeEvent(event)))))
      : h("p", { class: "lead" }, "No event fits."));
  }

  return {
    update(next, change) {
      run = next;
      if (!change || change.rounds) {
        fill(tiles, trafficTiles(run));
        charts.forEach((item) => item.update(run));
      }
      fill(faults, faultTable(run));
      if (!change || change.metrics) { fill(calls, callTable(run)); fill(system, systemTable(run)); }
      if (!change || change.events) showLog();
    },
    destroy() { charts.forEach((item) => item.destroy()); },
  };
}

const total = (run, name) => sum(run.rounds.map((item) => item[name]));

function trafficTiles(run) {
  const [down, up, samplesBytes, wire, fedavg] = ["bytes_down", "bytes_up", "public_sample_bytes", "wire_bytes", "fedavg_bytes"].map((name) => total(run, name));
  return [
    tile("Down", formatBytes(down), `labels and manifests, codec ${run.overview.codec}`, "student"),
    tile("Up", formatBytes(up), "reports and uploads"),
    tile("Public samples", formatBytes(samplesBytes), "as each node alone would fetch them"),
    tile("On the wire", formatBytes(wire), "what crossed, with shared caches"),
    tile("FedAvg would move", formatBytes(fedavg), down + up ? `${formatTimes(fedavg / (down + up))} the labels; ${formatTimes(fedavg / (down + up + samplesBytes))} with public samples` : "the same students' weights", "teacher"),
  ];
}

const bytesAxis = () => axis({ size: 64, values: (_, ticks) => ticks.map(formatTick) });
const bytesValue = (_, value) => formatBytes(value);

function bytesChart() {
  const names = ["bytes_up", "bytes_down", "public_sample_bytes"];
  let rows = [];
  const raw = (name) => (plot, _, __, index) => formatBytes(index === null ? null : rows[index]?.[name]);
  const figure = chart({
    title: "Bytes by round",
    caption: "All nodes together, stacked; each as it would move them alone.",
    describe: () => (rows.length ? `Bytes by round: ${formatBytes(sum(names.map((name) => rows.at(-1)[name])))} in round ${rows.at(-1).round}` : "No round yet"),
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: zeroRange } },
      axes: [roundAxis(), bytesAxis()],
      series: [roundSeries(), bars("public samples", "muted", { value: raw("public_sample_bytes") }), bars("down", "student", { value: raw("bytes_down") }), bars("up", "teacher", { value: raw("bytes_up") })],
    },
  });
  return {
    element: figure.element, destroy: figure.destroy,
    update({ rounds }) {
      rows = rounds;
      const stack = (count) => rounds.map((item) => sum(names.slice(0, count).map((name) => item[name])));
      figure.update([rounds.map((item) => item.round), stack(3), stack(2), stack(1)]);
    },
  };
}

function cumulativeChart() {
  const figure = chart({
    title: "Moved so far",
    caption: "Labels and uploads, with public samples, and what FedAvg of the same students would have moved.",
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: zeroRange } },
      axes: [roundAxis(), bytesAxis()],
      series: [roundSeries(), line("labels", "student", { value: bytesValue }), line("with public samples", "muted", { value: bytesValue, dash: [4, 3] }), line("FedAvg", "teacher", { value: bytesValue, dash: [5, 4] })],
    },
  });
  return {
    element: figure.element, destroy: figure.destroy,
    update({ rounds }) {
      const running = (pick) => { let so = 0; return rounds.map((item) => (so += pick(item))); };
      const labels = (item) => item.bytes_down + item.bytes_up;
      figure.update([rounds.map((item) => item.round), running(labels), running((item) => labels(item) + item.public_sample_bytes), running((item) => item.fedavg_bytes)]);
    },
  };
}

function repliesChart() {
  let rows = [];
  const rested = (item) => sum(Object.values(item.num_rested));
  const raw = (pick) => (plot, _, __, index) => formatCount(index === null || !rows[index] ? null : pick(rows[index]));
  const figure = chart({
    title: "Nodes by round",
    caption: "Replied, dropped (error, refused or unanswered) and resting.",
    describe: () => (rows.length ? `Nodes by round: ${rows.at(-1).num_replied} replied, ${rows.at(-1).num_dropped} dropped in round ${rows.at(-1).round}` : "No round yet"),
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: zeroRange } },
      axes: [roundAxis(), axis({ size: 52, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] })],
      series: [roundSeries(), bars("resting", "muted", { value: raw(rested) }), bars("dropped", "teacher", { value: raw((item) => item.num_dropped) }), bars("replied", "student", { value: raw((item) => item.num_replied) })],
    },
  });
  return {
    element: figure.element, destroy: figure.destroy,
    update({ rounds }) {
      rows = rounds;
      figure.update([rounds.map((item) => item.round), rounds.map((item) => item.num_replied + item.num_dropped + rested(item)), rounds.map((item) => item.num_replied + item.num_dropped), rounds.map((item) => item.num_replied)]);
    },
  };
}

function labelChart() {
  const figure = chart({
    title: "Entropy of published labels",
    caption: "Of the labels that a round fetched: mean over the public set at the run's temperature, nats.",
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: zeroRange } },
      axes: [roundAxis(), numberAxis()],
      series: [roundSeries(), line("entropy", "student", { value: (_, value) => formatNumber(value) })],
    },
  });
  return {
    element: figure.element, destroy: figure.destroy,
    update({ overview, rounds }) { 
      // Labels stay in force until others are published.
      const inForce = (round) => overview.entropies.filter(([published]) => published < round).at(-1)?.[1] ?? null;
      figure.update([rounds.map((item) => item.round), rounds.map((item) => inForce(item.round))]);
    },
  };
}

function faultTable(run) {
  const rows = [];
  for (const [labels, value] of samples(run, "nodes_dropped_total")) rows.push([`reply dropped: ${labels.reason}`, value]);
  for (const [labels, value] of samples(run, "uploads_refused_total")) rows.push([`upload refused: ${labels.reason}`, value]);
  for (const [labels, value] of samples(run, "nodes_rested_total")) rows.push([`rested: ${labels.reason}`, value]);
  rows.push(["nodes that lost their student", sum(run.rounds.map((item) => item.num_resets))]);
  rows.push(["late replies", sum(run.rounds.map((item) => item.num_late))]);
  rows.push(["resumes of this run", run.overview.num_resumes]);
  const found = rows.filter(([, value]) => value > 0);
  if (!found.length) return h("p", { class: "lead" }, "None. Every reply was used and no upload was refused.");
  return plainTable(["What", "Count"], found.map(([text, value]) => [text, formatCount(value)]), { numeric: [1], label: "Faults" });
}

function callTable(run) {
  const calls = run.metrics?.calls ?? [];
  if (!calls.length) return h("p", { class: "lead" }, "No calls are on record.");
  return plainTable(["Method", "Codes", "Median", "p90", "Payload"],
    calls.map((call) => [call.method, Object.entries(call.codes).map(([code, count]) => `${code} ${formatCount(count)}`).join(", "), formatSeconds(call.p50), formatSeconds(call.p90), formatBytes(call.bytes)]),
    { numeric: [2, 3, 4], label: "Calls to the label service" });
}

function systemTable(run) {
  const rows = [
    ["Checkpoint", `${formatBytes(metric(run, "checkpoint_bytes"))}, ${formatAge(metric(run, "checkpoint_timestamp_seconds"))}`],
    ["Disk free", `${formatBytes(metric(run, "disk_free_bytes"))} of ${formatBytes(metric(run, "disk_size_bytes"))}`],
    ["Temperature, λ", `${formatNumber(metric(run, "temperature"))}, ${formatNumber(metric(run, "lambda_ratio"))}`],
    ["Warnings", formatCount(metric(run, "warnings_total"))],
  ];
  const actors = metric(run, "actors");
  if (actors !== null) rows.push(["Ray actors, restarts", `${formatCount(actors)}, ${formatCount(metric(run, "actor_restarts"))}`]);
  const epsilon = metric(run, "privacy_epsilon");
  if (epsilon !== null) rows.push(["Privacy budget spent, ε", formatNumber(epsilon)]);
  for (const [labels, value] of samples(run, "certificate_expiry_timestamp_seconds")) rows.push([`Certificate ${labels.certificate}`, `${Math.floor((value - Date.now() / 1000) / 86400)} days left`]);
  return plainTable(["What", "Value"], rows, { label: "Coordinator" });
}
