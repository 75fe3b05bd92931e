// One node: how its student came about, what compression made of it, and what went wrong.

import { axis, chart, line, numberAxis, ratioAxis, ratioRange, roundAxis, roundRange, roundSeries, zeroRange } from "../charts.js";
import { fill, h, plainTable, tile } from "../dom.js";
import { last, troubles } from "../figures.js";
import { describeEvent, formatAge, formatBytes, formatCount, formatNumber, formatRatio, formatSeconds, formatTick, formatTimes, UNKNOWN } from "../format.js";
import { nodeLink, runLink } from "../links.js";
import { fetchNode } from "../store.js";

export function mountNode(root, { run: name, node: id }) {
  const heading = h("div", { class: "heading" });
  const content = h("div");
  const charts = [historyChart("Accuracy by round", [["artefact", "accuracy", "student"], ["fp32", "fp32_accuracy", "muted"], ["private", "private_accuracy", "teacher"]]), lossChart(), trafficChart()];
  const pictures = h("div", { class: "pictures thirds" }, charts.map((item) => item.element));
  fill(root, heading, content, pictures, h("div", { class: "below" }));
  const below = root.querySelector(".below");
  let shown = null;
  let ended = false;

  async function load(run) {
    let found;
    try {
      found = await fetchNode(name, id);
    } catch (error) {
      if (!ended) fill(content, h("p", {}, `${id}: ${error.message}.`));
      return;
    }
    if (ended) return;
    fill(content, nodeTiles(found, run));
    charts.forEach((item) => item.update(found.history));
    fill(below,
      h("div", { class: "columns" },
        h("section", {}, h("h2", {}, "Compression plan"), planTable(found)),
        h("section", {}, h("h2", {}, "Figures"), figureTable(found))),
      h("h2", {}, "Events of this node"), eventList(found));
  }

  return {
    update(run, change) {
      const node = run.nodes.get(id);
      const order = run.list.map((item) => item.node_id).sort((one, two) => one.localeCompare(two, "en", { numeric: true }));
      const place = order.indexOf(id);
      const beside = (step, text) => order[place + step] && place >= 0
        ? h("a", { href: nodeLink(name, order[place + step]), "aria-label": `${text} node: ${order[place + step]}` }, text) : null;
      const badges = node ? troubles(node, run).map((text) => h("span", { class: "badge" }, text)) : [];
      if (!change) fill(heading, h("h2", {}, id, " ", badges), h("p", { class: "note" }, h("a", { href: runLink(name, "nodes") }, "All nodes"), " ", beside(-1, "Previous"), " ", beside(1, "Next")));
      const stamp = JSON.stringify([node, last(run.rounds)?.round, run.overview.status]);
      if (stamp !== shown) { shown = stamp; load(run); }
    },
    destroy() { ended = true; charts.forEach((item) => item.destroy()); },
  };
}

function nodeTiles({ node, details }, run) {
  const accuracies = run.list.map((item) => item.accuracy).filter((value) => value !== null).sort((one, two) => two - one);
  const rank = accuracies.indexOf(node.accuracy) + 1;
  const teacher = run.overview.teacher;
  return h("dl", { class: "tiles" },
    tile("Accuracy", formatRatio(node.accuracy), rank ? `rank ${formatCount(rank)} of ${formatCount(accuracies.length)}` : "not reported yet", "student"),
    tile("Before compression", formatRatio(node.fp32_accuracy), node.num_flipped === null ? "fp32 student" : `fp32 student; ${formatCount(node.num_flipped)} samples flipped`),
    tile("Local control", formatRatio(node.local_accuracy), "same student, private data alone"),
    tile("Private", formatRatio(node.private_accuracy), `own test part; local control ${formatRatio(details.local_private_accuracy)}`),
    tile("Agreement", formatRatio(node.agreement_ratio), `with the teacher; by chance ${formatRatio(details.agreement_chance_ratio)}`),
    tile("Size", formatBytes(node.artefact_bytes), teacher?.size_bytes ? `the teacher is ${formatTimes(teacher.size_bytes / node.artefact_bytes)} as large` : "artefact, all files"),
    tile("Latency", formatSeconds(node.latency_seconds), "one sample"));
}

const columnOf = (history, name) => history.rows.map((row) => row[history.columns.indexOf(name)]);

function historyChart(title, lines) {
  const figure = chart({
    title,
    caption: "Evaluation set; private: the node's own test part, its own word.",
    describe: ([rounds, values]) => rounds.length ? `${title}: ${formatRatio(values.at(-1))} after round ${rounds.at(-1)}` : "No round yet",
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: ratioRange } },
      axes: [roundAxis(), ratioAxis()],
      series: [roundSeries(), ...lines.map(([label, , tint]) => line(label, tint))],
    },
  });
  return { element: figure.element, destroy: figure.destroy, update: (history) => figure.update([columnOf(history, "round"), ...lines.map(([, name]) => columnOf(history, name))]) };
}

function lossChart() {
  const value = (_, number) => formatNumber(number);
  const figure = chart({
    title: "Losses by round",
    caption: "Means of the newest steps, nats.",
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: zeroRange } },
      axes: [roundAxis(), numberAxis()],
      series: [roundSeries(), line("distillation", "student", { value }), line("private", "teacher", { value })],
    },
  });
  return { element: figure.element, destroy: figure.destroy, update: (history) => figure.update(["round", "distillation_loss", "private_loss"].map((name) => columnOf(history, name))) };
}

function trafficChart() {
  const value = (_, number) => formatBytes(number);
  const figure = chart({
    title: "Bytes by round",
    caption: "As this node alone would move them on a device of its own.",
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: zeroRange } },
      axes: [roundAxis(), axis({ size: 64, values: (_, ticks) => ticks.map(formatTick) })],
      series: [roundSeries(), line("down", "student", { value }), line("up", "teacher", { value })],
    },
  });
  return { element: figure.element, destroy: figure.destroy, update: (history) => figure.update(["round", "bytes_down", "bytes_up"].map((name) => columnOf(history, name))) };
}

function planTable({ node, details, manifest, compress }) {
  const factor = node.artefact_bytes ? node.fp32_bytes / node.artefact_bytes : null;
  const rows = [
    ["Student", node.family],
    ["Parameters", formatCount(details.num_parameters)],
    ["Before compression", formatBytes(node.fp32_bytes)],
    ["Artefact", `${formatBytes(node.artefact_bytes)} (${formatTimes(factor)} smaller)`],
    ...(manifest ? listScalars(manifest, ["width", "compression", "device", "files"]) : listScalars({ compression: { plan: compress } }, ["compression"])),
    ["Artefact digest", h("code", {}, details.artefact_digest ?? UNKNOWN)],
    ["Student digest", h("code", {}, details.student_digest ?? UNKNOWN)],
  ];
  const note = manifest ? "From the artefact's manifest." : "As planned; the artefact is not collected yet.";
  return [plainTable(["What", "Value"], rows, { label: "Compression plan" }), h("p", { class: "note" }, note)];
}

// What the manifest says of some keys, however deep: plans grow, and the page shows what there is.
function listScalars(document, keys) {
  const rows = [];
  const walk = (name, value) => {
    const isRecord = (item) => item !== null && typeof item === "object";
    // A list of records is told record by record: its steps by their names, others by their number.
    if (Array.isArray(value) && value.some(isRecord)) value.forEach((item, index) => { const { step, ...rest } = isRecord(item) ? item : { value: item }; walk(`${name} · ${step ?? index + 1}`, rest); });
    else if (isRecord(value) && !Array.isArray(value)) for (const [key, item] of Object.entries(value)) walk(`${name} · ${key}`, item);
    else rows.push([name.replaceAll("_", " "), /bytes(_\w+)?$/.test(name) && typeof value === "number" ? formatBytes(value) : /sha256$/.test(name) ? h("code", {}, String(value)) : Array.isArray(value) ? value.join(", ") || "none" : typeof value === "number" && !Number.isInteger(value) ? formatNumber(value) : String(value)]);
  };
  for (const key of keys) if (document[key] !== undefined) walk(key, document[key]);
  return rows;
}

function figureTable({ node, details }) {
  const phases = Object.entries(details.phase_seconds ?? {}).map(([name, seconds]) => `${name} ${formatSeconds(seconds)}`);
  const rows = [
    ["Training samples", formatCount(node.num_train_samples)],
    ["Own test samples", formatCount(details.num_private_test)],
    ["Calibration error (ECE)", formatNumber(details.ece)],
    ["Recall of the worst class", formatRatio(details.worst_recall)],
    ["Its change by compression", formatRatio(details.worst_recall_change, { signed: true })],
    ["Rounds answered", `${formatCount(node.num_rounds)}; newest ${formatCount(node.last_round)}`],
    ["Steps of the newest", formatCount(details.num_steps)],
    ["Time on the node", phases.join(", ") || UNKNOWN],
    ["Down, up", `${formatBytes(node.bytes_down)}, ${formatBytes(node.bytes_up)}`],
    ["Public samples", formatBytes(node.public_sample_bytes)],
    ["Replies dropped", formatCount(node.num_drops)],
    ["Lost its student", formatCount(node.num_resets)],
    ...(details.quality ? [["Like the teacher (CKA)", formatNumber(details.quality.artefact_to_teacher?.cka)], ["KL to the teacher, nats", formatNumber(details.quality.artefact_to_teacher?.kl_nats)]] : []),
  ];
  return plainTable(["What", "Value"], rows, { label: "Figures" });
}

function eventList({ events }) {
  if (!events.length) return h("p", { class: "lead" }, "None: every reply of this node was used.");
  return h("ol", { class: "news" }, [...events].reverse().map((event) => h("li", { class: event.level }, h("time", { title: event.time }, formatAge(event.time)), h("span", {}, describeEvent(event)))));
}
