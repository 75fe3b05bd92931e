// The fleet at a glance: how far, how accurate, how large, and who lags behind.

import { fill, h, plainTable, tile } from "../dom.js";
import { families, familyColours, histogram, last, mean } from "../figures.js";
import { describeEvent, formatBytes, formatClock, formatCount, formatNumber, formatRatio, formatSeconds, formatTick, formatTimes, joinEvents, UNKNOWN } from "../format.js";
import { axis, bars, bottomAxis, chart, colour, line, numberAxis, paths, ratioAxis, ratioRange, roundAxis, roundRange, roundSeries, zeroRange } from "../charts.js";
import { nodeLink, runLink } from "../links.js";
import { scatterChart } from "../scatter.js";
import { metric, samples } from "../store.js";

export function mountFleet(root, { run: name }) {
  const progress = h("div", { class: "progress", hidden: true });
  const tiles = h("dl", { class: "tiles" });
  const curves = accuracyCurves();
  const losses = lossCurves();
  const spread = distribution();
  const worst = h("div");
  const news = h("div");
  const asked = h("div");
  const holder = h("div", { class: "pictures" });
  let scatter = null;
  let groups = "";
  fill(root, progress, tiles, holder,
    h("div", { class: "columns" },
      h("section", {}, h("h2", {}, "Least accurate"), worst),
      h("section", {}, h("h2", {}, "Latest"), news)),
    h("h2", {}, "What was asked"), asked);

  function placeCharts(run) {
    const names = families(run.list);
    if (scatter && names.join() === groups) return;
    groups = names.join();
    scatter?.destroy();
    scatter = nodeScatter(names, { height: 240 });
    fill(holder, curves.element, scatter.element, spread.element, losses.element);
  }

  return {
    update(run, change) {
      showProgress(progress, run);
      fill(tiles, runTiles(run));
      placeCharts(run);
      if (!change || change.rounds || change.nodes) {
        curves.update(run);
        losses.update(run);
        spread.update(run);
        scatter.update(nodePoints(run, name));
        fill(worst, worstTable(run, name));
      }
      if (!change) fill(asked, configTables(run));
      if (!change || change.events) fill(news, newsList(run));
    },
    destroy() {
      for (const item of [curves, losses, spread, scatter]) item?.destroy();
    },
  };
}

function runTiles(run) {
  const { teacher, fleet } = run.overview;
  const round = last(run.rounds);
  const accuracy = fleet?.accuracy_mean ?? round?.accuracy_mean ?? null;
  const scored = run.list.filter((node) => node.accuracy !== null).sort((one, two) => one.accuracy - two.accuracy);
  const worst = scored[0];
  const size = fleet?.artefact_bytes_mean ?? mean(run.list.map((node) => node.artefact_bytes));
  const moved = run.rounds.reduce((total, item) => total + item.bytes_down + item.bytes_up, 0);
  const publicBytes = run.rounds.reduce((total, item) => total + item.public_sample_bytes, 0);
  const fedavg = run.rounds.reduce((total, item) => total + item.fedavg_bytes, 0);
  const local = fleet?.local_accuracy_mean ?? mean(run.list.map((node) => node.local_accuracy));
  const tiles = [tile("Students", formatRatio(accuracy), worst ? `mean accuracy; worst ${formatRatio(worst.accuracy)}, ${worst.node_id}` : "mean accuracy", "student")];
  if (teacher) {
    tiles.unshift(tile("Teacher", formatRatio(teacher.accuracy), `accuracy; ${teacher.model ?? formatBytes(teacher.size_bytes)}`, "teacher"));
    tiles.push(tile("Gap", accuracy === null || teacher.accuracy === null ? UNKNOWN : formatRatio(teacher.accuracy - accuracy), "teacher minus students"));
  }
  tiles.push(
    tile("Local control", formatRatio(local), local === null && run.overview.status === "live" ? "comes at the end" : "same student, private data alone"),
    tile("Size", formatBytes(size), teacher?.size_bytes && size ? `mean artefact; the teacher is ${formatTimes(teacher.size_bytes / size)} as large` : "mean artefact"),
    tile("Exchanged", formatBytes(moved), `labels; ${formatBytes(moved + publicBytes)} with public samples; FedAvg ${formatBytes(fedavg)}`));
  return tiles;
}

function showProgress(element, run) {
  const { status, phase, num_rounds: numRounds, stopped_because: reason } = run.overview;
  element.hidden = status === "finished";
  if (element.hidden) return;
  const closed = last(run.rounds)?.round ?? 0;
  if (status === "stopped") {
    fill(element, h("p", {}, h("b", {}, "Stopped."), ` It ended without a summary after round ${closed} of ${numRounds}${reason ? ` (${reason})` : ""}; go on with `, h("code", {}, run.overview.resume_command)));
    return;
  }
  const current = phase?.phase === "round";
  const answered = current ? metric(run, "round_answered_nodes") : null;
  const selected = metric(run, "round_selected_nodes");
  const active = samples(run, "phase_active").filter(([, value]) => value === 1).map(([labels]) => labels.phase);
  const eta = metric(run, "expected_end_timestamp_seconds");
  const left = eta ? Math.max(0, eta - Date.now() / 1000) : null;
  const share = numRounds ? Math.min(1, (closed + (answered && selected ? answered / selected : 0)) / numRounds) : 0;
  const what = current ? `Round ${phase.round}` : active.at(-1) ?? phase?.phase ?? "starting";
  const since = phase?.time ? formatSeconds(Math.max(0, (Date.now() - Date.parse(phase.time)) / 1000)) : "";
  fill(element,
    h("p", {}, h("b", {}, what.charAt(0).toUpperCase() + what.slice(1)),
      answered === null ? "" : ` · ${formatCount(answered)} of ${formatCount(selected)} nodes answered`,
      since ? ` · for ${since}` : "",
      left !== null && closed < numRounds ? ` · about ${formatSeconds(left)} to go` : ""),
    h("div", { class: "bar wide", role: "progressbar", "aria-label": "rounds", "aria-valuemin": 0, "aria-valuemax": numRounds, "aria-valuenow": closed },
      h("span", { style: { width: `${share * 100}%` } })),
    h("p", { class: "note" }, `${closed} of ${numRounds} rounds committed`));
}

function accuracyCurves() {
  const figure = chart({
    title: "Accuracy by round",
    caption: "Artefacts on the evaluation set; band: 5th to 95th percentile of nodes.",
    describe: ([numbers, , , means, , teachers]) => numbers.length ? `Accuracy by round: students ${formatRatio(means.at(-1))} after round ${numbers.at(-1)}, teacher ${formatRatio(teachers.at(-1))}` : "No round yet",
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: ratioRange } },
      axes: [roundAxis(), ratioAxis()],
      series: [
        roundSeries(),
        line("p95", "student", { width: 0, points: { show: false } }),
        line("p5", "student", { width: 0, points: { show: false } }),
        line("mean", "student", { width: 2.25 }),
        line("worst", "muted", { width: 1, dash: [2, 3], points: { show: false } }),
        line("teacher", "teacher", { dash: [5, 4], width: 1.5, points: { show: false } }),
        line("local", "muted", { dash: [1, 3], width: 1.5, points: { show: false } }),
      ],
      bands: [{ series: [1, 2], fill: () => colour("student", 0.16) }],
    },
  });
  return {
    destroy: figure.destroy,
    element: figure.element,
    update(run) {
      const { rounds, overview } = run;
      const column = (name) => rounds.map((item) => item[name]);
      const constant = (value) => rounds.map(() => value ?? null);
      const local = overview.fleet?.local_accuracy_mean;
      figure.update([column("round"), column("p95"), column("p5"), column("accuracy_mean"), column("worst"), constant(overview.teacher?.accuracy), constant(local)]);
    },
  };
}

function lossCurves() {
  const figure = chart({
    title: "Losses by round",
    caption: "Means over the nodes of a round, nats.",
    describe: ([numbers, distilled]) => numbers.length ? `Losses by round: distillation ${distilled.at(-1)} after round ${numbers.at(-1)}` : "No round yet",
    options: {
      scales: { x: { time: false, range: roundRange }, y: { range: zeroRange } },
      axes: [roundAxis(), numberAxis()],
      series: [
        roundSeries(),
        line("distillation", "student", { value: (_, value) => formatNumber(value) }),
        line("private", "teacher", { value: (_, value) => formatNumber(value) }),
      ],
    },
  });
  return {
    element: figure.element,
    destroy: figure.destroy,
    update({ rounds }) { figure.update([rounds.map((item) => item.round), rounds.map((item) => item.distillation_loss), rounds.map((item) => item.private_loss)]); },
  };
}

function distribution() {
  let width = 0;
  const figure = chart({
    title: "Nodes by accuracy",
    caption: "How many artefacts reach which accuracy on the evaluation set.",
    describe: ([edges, counts]) => edges.length ? `Nodes by accuracy: from ${formatRatio(edges[0])} to ${formatRatio(edges.at(-1))}, most at ${formatRatio(edges[counts.indexOf(Math.max(...counts))])}` : "No accuracy yet",
    options: {
      scales: { x: { time: false, range: (_, low, high) => width ? [low - width / 2, high + width / 2] : [0, 1] }, y: { range: zeroRange } },
      axes: [bottomAxis({ label: "accuracy", values: (_, ticks, __, ___, step) => ticks.map((tick) => tick.toFixed(step < 0.01 ? 3 : 2)) }), axis({ size: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] })],
      series: [{ label: "accuracy", value: (_, value) => formatRatio(value) }, bars("nodes", "student", { paths: paths.bars({ size: [0.92, 90] }) })],
    },
  });
  return {
    element: figure.element,
    destroy: figure.destroy,
    update({ list }) {
      const bins = histogram(list.map((node) => node.accuracy));
      const { edges, counts } = bins;
      width = bins.width;
      figure.update([edges, counts]);
    },
  };
}

/** The points of a scatter of nodes: the teacher stands beside them as a mark. */
export function nodePoints(run, name, { x = "artefact_bytes", y = "accuracy", format = formatBytes } = {}) {
  const points = run.list.map((node) => ({
    x: node[x],
    y: node[y],
    group: node.family || "?",
    text: `${node.node_id}: ${formatRatio(node[y])}, ${format(node[x])}`,
    href: nodeLink(name, node.node_id),
  }));
  const { teacher } = run.overview;
  if (teacher?.size_bytes && x.endsWith("_bytes") && x !== "bytes_down" && y === "accuracy") {
    points.push({ x: teacher.size_bytes, y: teacher.accuracy, group: "teacher", isMark: true, text: `teacher: ${formatRatio(teacher.accuracy)}, ${formatBytes(teacher.size_bytes)}` });
  }
  return points;
}

/** Accuracy against bytes, a colour per family. */
export function nodeScatter(names, options = {}) {
  return scatterChart({
    title: "Accuracy against bytes",
    caption: "Each artefact, and the front that none beats; large: the teacher in fp32. Click a point for its node.",
    groups: familyColours(names),
    marks: [["teacher", "teacher"]],
    formatX: formatBytes,
    formatAxis: formatTick,
    labelX: "artefact",
    ...options,
  });
}

function worstTable(run, name) {
  const worst = run.list.filter((node) => node.accuracy !== null).sort((one, two) => one.accuracy - two.accuracy).slice(0, 6);
  if (!worst.length) return h("p", { class: "lead" }, "No node has reported yet.");
  return [
    plainTable(["Node", "Student", "Accuracy", "Private", "Size"],
      worst.map((node) => [h("a", { href: nodeLink(name, node.node_id) }, node.node_id), node.family, formatRatio(node.accuracy), formatRatio(node.private_accuracy), formatBytes(node.artefact_bytes)]),
      { numeric: [2, 3, 4], label: "Least accurate nodes" }),
    h("p", {}, h("a", { href: runLink(name, "nodes") }, `All ${formatCount(run.list.length)} nodes`)),
  ];
}

function newsList(run) {
  const events = joinEvents(run.events).slice(-8).reverse();
  if (!events.length) return h("p", { class: "lead" }, "The log of this run is empty.");
  return h("ol", { class: "news" }, events.map((event) => h("li", { class: event.level }, h("time", { title: event.time }, formatClock(event.time)), h("span", {}, event.node ? `${event.node}${event.others ? ` and ${formatCount(event.others)} more` : ""}: ` : "", describeEvent(event)))));
}

function configTables(run) {
  const show = (value) => (value === "" ? "(empty)" : String(value));
  const table = (rows) => plainTable(["Key", "Value"], rows.map(([key, value]) => [h("code", {}, key), show(value)]), { label: "Configuration" });
  const changed = run.config.filter(([, , differs]) => differs);
  return [
    h("p", { class: "lead" }, `Run ${run.overview.run_id}; keys that differ from their defaults.`),
    changed.length ? table(changed) : h("p", {}, "Every key has its default."),
    h("details", {}, h("summary", {}, "The whole configuration"), table(run.config)),
  ];
}
