// uPlot in the page's own colours, sizes and words.

import uPlot from "./vendor/uPlot.esm.js";
import { h } from "./dom.js";
import { formatNumber, formatRatio, UNKNOWN } from "./format.js";

export const { paths } = uPlot;
const drawn = new Set();
let cache = new Map();

/** A colour of the theme by its CSS variable, or a series' by its number. */
export function colour(name, alpha = 1) {
  const key = typeof name === "number" ? `series-${name % 8}` : name;
  if (!cache.has(key)) cache.set(key, getComputedStyle(document.documentElement).getPropertyValue(`--${key}`).trim());
  const value = cache.get(key);
  return alpha === 1 ? value : `${value}${Math.round(alpha * 255).toString(16).padStart(2, "0")}`;
}

/** Draws every chart anew, after the theme has changed. */
export function repaint() {
  cache = new Map();
  for (const plot of drawn) {
    plot.redraw(false, true);
    plot.root.querySelectorAll(".u-series").forEach((row, index) => {
      const swatch = row.querySelector(".u-marker");
      if (swatch && index) swatch.style.background = marker(plot, index);
    });
  }
}

const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';

export const axis = (options = {}) => ({
  stroke: () => colour("muted"),
  font: FONT,
  labelFont: FONT,
  labelSize: 18,
  grid: { stroke: () => colour("line"), width: 1 },
  ticks: { show: false },
  gap: 6,
  labelGap: 0,
  ...options,
});

/** The axis below, with its name. */
export const bottomAxis = (options = {}) => axis({ size: 26, grid: { show: false }, ...options });

/** An axis of rounds: whole numbers only. */
export const roundAxis = () => bottomAxis({ incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], label: "round", space: 40 });

const digitsOf = (step) => Math.max(1, Math.ceil(-Math.log10(step) - 1e-9));

/** An axis of figures of any size, as losses: three digits, however small they are. */
export const numberAxis = () => axis({ size: 64, values: (_, ticks) => ticks.map(formatNumber) });

export const ratioAxis = (label) => axis({ label, size: 52, values: (_, ticks, __, ___, step) => ticks.map((tick) => tick.toFixed(digitsOf(step))) });

/** Half a round of air on either side, so that a single round has a place too. */
export function roundRange(plot) {
  const rounds = plot.data[0];
  return rounds.length ? [rounds[0] - 0.5, rounds.at(-1) + 0.5] : [0.5, 1.5];
}

/** Ratios keep a margin and never leave [0, 1]. */
export function ratioRange(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const margin = Math.max(0.01, (high - low) * 0.08);
  return [Math.max(0, low - margin), Math.min(1, high + margin)];
}

export const zeroRange = (_, low, high) => [0, high > 0 ? high * 1.08 : 1];

const ratio = (_, value) => formatRatio(value);

/** A line; `name` is a CSS colour variable or a series' number. */
export const line = (label, name, options = {}) => ({
  label,
  stroke: () => colour(name),
  width: 1.75,
  spanGaps: true,
  points: { size: 5, fill: () => colour(name), show: (plot, index) => plot.data[index].length <= 30 },
  value: ratio,
  ...options,
});

/** What the axis below counts, as the legend says it. */
export const roundSeries = () => ({ label: "round", value: (_, value) => (value == null ? UNKNOWN : String(value)) });

/** Points without a line. */
export const dots = (label, name, options = {}) => ({
  label,
  stroke: () => colour(name),
  fill: () => colour(name),
  paths: () => null,
  points: { show: true, size: 7, width: 0, stroke: () => colour(name, 0), fill: () => colour(name, 0.7) },
  value: ratio,
  ...options,
});

/** Bars of a stack; data of stacked series are sums, so the tallest comes first. */
export const bars = (label, name, options = {}) => ({
  label,
  stroke: () => colour(name, 0),
  fill: () => colour(name, 0.85),
  paths: paths.bars({ size: [0.7, 48], radius: 0.08 }),
  points: { show: false },
  legendFill: () => colour(name),
  value: (_, value) => (value == null ? UNKNOWN : String(value)),
  ...options,
});

/**
 * A figure with title, chart and caption. `options` are uPlot's; `describe` writes what a screen
 * reader says. Returns the element with `update(data)` and `destroy()`.
 */
export function chart({ title, caption = "", height = 240, options, describe = () => title, className = "" }) {
  const holder = h("div", { class: "plot", role: "img", "aria-label": title });
  const element = h("figure", { class: className }, h("h3", {}, title), holder, caption ? h("figcaption", {}, caption) : null);
  let plot = null;
  let data = null;

  const draw = () => {
    const width = Math.floor(holder.clientWidth);
    if (!width || !data) return;
    if (plot) {
      if (plot.width !== width) plot.setSize({ width, height });
      return;
    }
    plot = new uPlot({
      width,
      height,
      padding: [8, 20, 0, 0],
      legend: { show: true, live: true, markers: { width: 0, fill: (chart, index) => marker(chart, index) } },
      cursor: { points: { size: 7 }, drag: { x: false, y: false }, ...(options.cursor ?? {}) },
      ...options,
    }, data, holder);
    drawn.add(plot);
    plot.over.addEventListener("mouseleave", () => setTimeout(rest));
    setTimeout(rest);
  };
  // While nothing is pointed at, the legend tells the newest values; uPlot empties it in a microtask.
  const rest = () => { if (plot?.legend.live && plot.data[0].length && !(plot.cursor.left >= 0)) plot.setLegend({ idx: plot.data[0].length - 1 }, false); };
  const observer = new ResizeObserver(draw);
  observer.observe(holder);
  return {
    element,
    get plot() { return plot; },
    update(next) {
      data = next;
      holder.setAttribute("aria-label", describe(next));
      if (plot) { plot.setData(next); setTimeout(rest); }
      else draw();
    },
    destroy() {
      observer.disconnect();
      if (plot) { drawn.delete(plot); plot.destroy(); plot = null; }
    },
  };
}

function marker(plot, index) {
  const series = plot.series[index];
  const fill = series.legendFill ?? series.stroke;
  return typeof fill === "function" ? fill(plot, index) : fill;
}

/** Shows what is under the pointer; `find` gives the nearest point as {left, top, text, href}. */
export function tooltip(find) {
  let box = null;
  let current = null;
  return {
    hooks: {
      init: (plot) => {
        box = h("div", { class: "tip", hidden: true });
        plot.over.append(box);
        plot.over.addEventListener("click", () => { if (current?.href) location.hash = current.href; });
        plot.over.addEventListener("mouseleave", () => { box.hidden = true; current = null; });
      },
      setCursor: (plot) => {
        const { left, top } = plot.cursor;
        current = left >= 0 ? find(plot, left, top) : null;
        box.hidden = !current;
        plot.over.style.cursor = current?.href ? "pointer" : "";
        if (!current) return;
        box.textContent = current.text;
        const flips = current.left > plot.over.clientWidth / 2;
        box.style.left = flips ? "" : `${current.left + 12}px`;
        box.style.right = flips ? `${plot.over.clientWidth - current.left + 12}px` : "";
        box.style.top = `${Math.max(0, Math.min(current.top - 12, plot.over.clientHeight - box.offsetHeight))}px`;
      },
    },
  };
}

/** The nearest of points {x, y, …} within reach of the pointer. */
export function nearest(plot, points, left, top, reach = 24) {
  let best = null;
  let distance = reach * reach;
  for (const point of points) {
    const x = plot.valToPos(point.x, "x");
    const y = plot.valToPos(point.y, "y");
    const away = (x - left) ** 2 + (y - top) ** 2;
    if (away < distance) { distance = away; best = { ...point, left: x, top: y }; }
  }
  return best;
}
