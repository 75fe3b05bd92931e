// All runs of the folder: what lives comes first.

import { fill, h } from "../dom.js";
import { formatAge, formatBytes, formatCount, formatRatio, formatSeconds } from "../format.js";
import { dataTable } from "../table.js";
import { runLink } from "../links.js";

const STATUSES = ["live", "finished", "stopped"];

export function mountRuns(root, { navigate }) {
  const chosen = new Set();
  let runs = [];
  const search = h("input", { type: "search", placeholder: "Search runs", "aria-label": "Search runs", "data-search": true, oninput: show });
  const status = h("select", { "aria-label": "Status", onchange: show }, [["", "any status"], ...STATUSES.map((name) => [name, name])].map(([value, name]) => h("option", { value }, name)));
  const compare = h("button", { type: "button", class: "primary", disabled: true, onclick: () => navigate(`#/compare?runs=${[...chosen].map(encodeURIComponent).join(",")}`) }, "Compare");
  const choosers = h("div", { class: "choosers" });
  const cards = h("div", { class: "cards" });
  const title = h("h1", {}, "Runs");
  const lead = h("p", { class: "lead" });
  const table = dataTable({
    key: "name",
    label: "Runs",
    emptyText: "No run fits.",
    sort: { key: "updated", down: true },
    open: (run) => navigate(runLink(run.name)),
    columns: [
      { key: "name", name: "Run", width: 210 },
      { key: "status", name: "Status", width: 100, css: (value) => `status ${value}` },
      { key: "scheme", name: "Scheme", width: 92 },
      { key: "dataset", name: "Data", width: 96 },
      { key: "seed", name: "Seed", width: 56, numeric: true },
      { key: "num_nodes", name: "Nodes", width: 68, numeric: true, format: formatCount },
      { key: "round", name: "Rounds", width: 80, numeric: true, format: (round, run) => `${round} / ${run.num_rounds ?? "–"}` },
      { key: "accuracy", name: "Students", width: 86, numeric: true, format: (value) => formatRatio(value), title: "Mean accuracy of the artefacts" },
      { key: "teacher_accuracy", name: "Teacher", width: 80, numeric: true, format: (value) => formatRatio(value) },
      { key: "local_accuracy", name: "Local", width: 70, numeric: true, format: (value) => formatRatio(value), title: "The control: private data alone" },
      { key: "artefact_bytes", name: "Artefact", width: 86, numeric: true, format: formatBytes },
      { key: "bytes", name: "Moved", width: 86, numeric: true, format: formatBytes, title: "Labels and uploads" },
      { key: "seconds", name: "Time", width: 76, numeric: true, format: formatSeconds },
      { key: "updated", name: "Changed", width: 112, numeric: true, format: formatAge },
    ],
  });
  const picker = h("details", { class: "picker" }, h("summary", {}, "Choose runs to compare"), choosers, compare);
  fill(root, h("header", { class: "top" }, title, lead), cards, h("div", { class: "tools" }, search, status), table.element, picker);

  function show() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (run) => {
      const text = `${run.name} ${run.scheme} ${run.dataset} seed ${run.seed}`.toLowerCase();
      return (!status.value || run.status === status.value) && words.every((word) => text.includes(word));
    };
    table.update(runs.filter(fits));
  }

  function showChoosers() {
    fill(choosers, runs.slice(0, 200).map((run) => h("label", {},
      h("input", { type: "checkbox", value: run.name, checked: chosen.has(run.name), onchange: (event) => {
        if (event.target.checked) chosen.add(run.name); else chosen.delete(run.name);
        compare.disabled = chosen.size < 2;
      } }),
      ` ${run.name}`)));
  }

  return {
    update(document) {
      const names = runs.map((run) => run.name).join();
      runs = document.runs;
      const live = runs.filter((run) => run.status === "live");
      lead.textContent = runs.length
        ? `${formatCount(runs.length)} in ${document.folder}; ${live.length || "none"} live.`
        : `No run in ${document.folder} yet: start one with “fedstill simulate”; it will show here by itself.`;
      fill(cards, live.map(liveCard));
      table.element.hidden = picker.hidden = !runs.length;
      picker.hidden ||= runs.length < 2;
      if (runs.map((run) => run.name).join() !== names) showChoosers();
      show();
    },
    destroy: table.destroy,
  };
}

function liveCard(run) {
  const share = run.num_rounds ? Math.min(1, run.round / run.num_rounds) : 0;
  return h("a", { class: "card", href: runLink(run.name) },
    h("span", { class: "status live" }, "live"),
    h("b", {}, run.name),
    h("span", { class: "note" }, `${run.scheme} on ${run.dataset}; ${formatCount(run.num_nodes)} nodes`),
    h("span", { class: "bar", role: "progressbar", "aria-valuenow": run.round, "aria-valuemax": run.num_rounds, "aria-label": "rounds" },
      h("span", { style: { width: `${share * 100}%` } })),
    h("span", { class: "note" }, `${run.phase === "round" ? `round ${run.round + 1} of ${run.num_rounds} under way` : `${run.phase ?? "starting"}; ${run.round} of ${run.num_rounds} rounds done`}; students ${formatRatio(run.accuracy)}`));
}
