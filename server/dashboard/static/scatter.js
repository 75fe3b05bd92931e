// Accuracy against what it costs: a point per node or run, and the front that nothing beats.

import { bottomAxis, chart, dots, line, nearest, paths, ratioAxis, ratioRange, tooltip } from "./charts.js";
import { paretoFront } from "./figures.js";

/**
 * `groups` are names with colours, `formatX` and `formatAxis` write costs. `update` takes points
 * {x, y, group, text, href}, which need not be sorted, and marks {x, y, name, text} beside them.
 */
export function scatterChart({ title, caption, groups, marks = [], formatX, formatAxis, labelX, labelY, height = 300 }) {
  let points = [];
  const range = (plot) => {
    const costs = plot.data[0];
    return costs.length ? [snapDown(costs[0] / 1.15), costs.at(-1) * 1.4] : [1, 10];
  };
  const figure = chart({
    title,
    caption,
    height,
    describe: () => {
      const own = points.filter((point) => !point.isMark);
      return `${title}: ${own.length} points; the best is ${paretoFront(own).at(-1)?.text ?? "unknown"}`;
    },
    options: {
      scales: { x: { time: false, distr: 3, log: 10, range }, y: { range: ratioRange } },
      axes: [
        bottomAxis({
          label: labelX,
          values: (plot, ticks) => spaced(plot, ticks, formatAxis),
        }),
        ratioAxis(labelY),
      ],
      legend: { show: true, live: false },
      cursor: { x: false, y: false, points: { show: false } },
      series: [
        {},
        ...groups.map(([name, tint]) => dots(name, tint)),
        ...marks.map(([name, tint]) => dots(name, tint, { points: large(tint) })),
        line("Pareto front", "ink", { width: 1, dash: [4, 3], points: { show: false }, paths: paths.stepped({ align: 1 }) }),
      ],
      plugins: [tooltip((plot, left, top) => nearest(plot, points, left, top))],
    },
  });
  return {
    element: figure.element,
    destroy: figure.destroy,
    update(found) {
      points = found.filter((point) => point.y !== null && point.y !== undefined && point.x > 0).sort((first, second) => first.x - second.x);
      const front = new Set(paretoFront(points.filter((point) => !point.isMark)));
      const names = [...groups, ...marks].map(([name]) => name);
      const column = (name) => points.map((point) => (point.group === name ? point.y : null));
      figure.update([points.map((point) => point.x), ...names.map(column), points.map((point) => (front.has(point) ? point.y : null))]);
    },
  };
}

// uPlot counts its ticks from the low end of a logarithmic scale, so that has to be a round number.
function snapDown(value) {
  const magnitude = 10 ** Math.floor(Math.log10(value));
  return Math.floor(value / magnitude) * magnitude;
}

const large = (tint) => ({ ...dots("", tint).points, size: 13 });

// On a logarithmic axis uPlot offers every 1, 2, … 9: labels are kept where there is room.
function spaced(plot, ticks, format) {
  let right = -Infinity;
  return ticks.map((tick) => {
    if (tick === null) return null;
    const place = plot.valToPos(tick, "x");
    if (place - right < 56) return null;
    right = place;
    return format(tick);
  });
}
