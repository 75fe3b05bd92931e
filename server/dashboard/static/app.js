// The shell: which view is on, which stream feeds it, which theme it wears.

import { repaint } from "./charts.js";
import { fill, h, setText } from "./dom.js";
import { formatAge, formatCount } from "./format.js";
import { readLink, runLink } from "./links.js";
import { watchRun, watchRuns } from "./store.js";
import { mountCompare } from "./views/compare.js";
import { mountExchange } from "./views/exchange.js";
import { mountFleet } from "./views/fleet.js";
import { mountNode } from "./views/node.js";
import { mountNodes } from "./views/nodes.js";
import { mountRuns } from "./views/runs.js";
import { mountTradeoff } from "./views/tradeoff.js";

const VIEWS = { fleet: mountFleet, nodes: mountNodes, node: mountNode, tradeoff: mountTradeoff, exchange: mountExchange };
const TABS = [["fleet", "Fleet"], ["nodes", "Nodes"], ["tradeoff", "Accuracy against bytes"], ["exchange", "Exchange and faults"]];
const THEMES = ["auto", "light", "dark"];

const main = document.getElementById("main");
const bar = document.getElementById("run");
const link = document.getElementById("link");
const themeButton = document.getElementById("theme");
let view = null;
let stop = null;
let watched = null;
let current = null;

function navigate(hash) { location.hash = hash; }

const showState = (state) => {
  link.hidden = state === "open";
  setText(link, state === "waiting" ? "Connection lost; trying again." : "This run is not there, or the server has ended.");
};

function show() {
  const place = readLink(location.hash);
  view?.destroy();
  view = null;
  fill(main);
  const mount = place.view === "runs" ? mountRuns : place.view === "compare" ? mountCompare : VIEWS[place.view] ?? mountFleet;
  view = mount(main, { ...place, navigate });
  main.classList.add("waiting");
  const source = place.run ?? (place.view === "compare" ? null : "");
  if (source !== watched) {
    stop?.();
    current = null;
    watched = source;
    fill(bar);
    link.hidden = true;
    stop = source === null ? null
      : source === "" ? watchRuns({ onUpdate: (runs) => { current = runs; update(runs, null); }, onState: showState })
      : watchRun(source, { onUpdate: take, onState: showState });
  } else if (current) {
    update(current, null);
  }
  if (source === null) main.classList.remove("waiting");
  if (place.run && current) showBar();
  document.title = place.run ? `${place.node ?? place.run} · FedStill` : "FedStill";
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function take(run, change) {
  current = run;
  showBar();
  update(run, change);
}

function update(data, change) {
  main.classList.remove("waiting");
  view?.update(data, change);
}

function showBar() {
  const place = readLink(location.hash);
  const { overview, list } = current;
  if (!bar.firstChild) {
    fill(bar,
      h("div", { class: "who" }, h("h1", {}), h("span", { class: "status" }), h("p", { class: "lead" })),
      h("nav", { "aria-label": "Views of the run" }, TABS.map(([name, text]) => h("a", { href: runLink(overview.name, name === "fleet" ? "" : name), "data-view": name }, text)), h("span", { class: "grow" }), h("a", { class: "report", href: `report?run=${encodeURIComponent(overview.name)}`, target: "_blank", rel: "noopener" }, "Report")));
  }
  setText(bar.querySelector("h1"), overview.name);
  const status = bar.querySelector(".status");
  status.className = `status ${overview.status}`;
  setText(status, overview.status);
  const rounds = `round ${current.rounds.at(-1)?.round ?? 0} of ${overview.num_rounds ?? "?"}`;
  const reason = overview.stopped_because ? `; ended because: ${overview.stopped_because}` : "";
  setText(bar.querySelector(".lead"), `Scheme ${overview.scheme} on ${overview.dataset}, seed ${overview.seed}; ${formatCount(list.length || overview.num_nodes)} nodes, ${rounds}; changed ${formatAge(overview.updated)}${reason}.`);
  bar.querySelector(".report").hidden = !overview.has_report;
  const shown = place.view === "node" ? "nodes" : place.view;
  for (const tab of bar.querySelectorAll("nav a[data-view]")) {
    if (tab.dataset.view === shown) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
}

function wear(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText(themeButton, `Theme: ${theme}`);
  repaint();
}

function readTheme() {
  try { return localStorage.getItem("fedstill-theme") ?? "auto"; } catch { return "auto"; }
}

themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(readTheme()) + 1) % THEMES.length];
  try { localStorage.setItem("fedstill-theme", next); } catch { /* a browser that keeps nothing */ }
  wear(next);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  const search = main.querySelector("[data-search]");
  if (event.key === "/" && search && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "")) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "Escape" && document.activeElement === search) {
    search.value = "";
    search.dispatchEvent(new Event("input"));
    search.blur();
  }
});
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });

wear(readTheme());
show();
