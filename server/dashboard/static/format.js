// Figures as people read them, in the words of the report: a unit, three digits, a dash for the unknown.

export const UNKNOWN = "–";

const isKnown = (value) => value !== null && value !== undefined && !Number.isNaN(value);

function threeDigits(value) {
  const size = Math.abs(value);
  return size >= 99.95 ? value.toFixed(0) : size >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}

export function formatBytes(bytes) {
  if (!isKnown(bytes)) return UNKNOWN;
  let size = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(size) < 999.5 || unit === "GB") return unit === "B" ? `${size.toFixed(0)} B` : `${threeDigits(size)} ${unit}`;
    size /= 1000;
  }
  return UNKNOWN;
}

/** A size on an axis, without idle decimals. */
export const formatTick = (bytes) => formatBytes(bytes).replace(/\.0+ /, " ").replace(/(\.\d)0 /, "$1 ");

export function formatRatio(ratio, { signed = false } = {}) {
  if (!isKnown(ratio)) return UNKNOWN;
  const text = Math.abs(ratio).toFixed(3);
  const sign = ratio < 0 && Number(text) !== 0 ? "−" : signed ? "+" : "";
  return sign + text;
}

export function formatSeconds(seconds) {
  if (!isKnown(seconds)) return UNKNOWN;
  if (seconds >= 172800) return `${(seconds / 86400).toFixed(1)} d`;
  if (seconds >= 7200) return `${(seconds / 3600).toFixed(1)} h`;
  if (seconds >= 120) return `${(seconds / 60).toFixed(1)} min`;
  for (const [unit, scale] of [["s", 1], ["ms", 1e3], ["µs", 1e6]]) {
    if (seconds * scale >= 1 || unit === "µs") return `${threeDigits(seconds * scale)} ${unit}`;
  }
  return UNKNOWN;
}

const counts = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

export const formatCount = (count) => (isKnown(count) ? counts.format(count) : UNKNOWN);

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** Three digits, whatever the size: 0.0123, and 1.23×10⁻⁵ where zeros would be all that one reads. */
export function formatNumber(value) {
  if (!isKnown(value)) return UNKNOWN;
  if (value === 0 || Math.abs(value) >= 0.001) return String(Number(value.toPrecision(3)));
  const [digits, power] = value.toExponential(2).split("e");
  return `${Number(digits)}×10${[...power].map((sign) => RAISED[sign]).join("")}`;
}

export const formatTimes = (factor) => (isKnown(factor) && Number.isFinite(factor) ? `${threeDigits(factor)}×` : UNKNOWN);

/** How long ago, or when, a moment is. */
export function formatAge(time) {
  if (!time) return UNKNOWN;
  const moment = typeof time === "number" ? time * 1000 : Date.parse(time);
  const seconds = (Date.now() - moment) / 1000;
  if (Number.isNaN(seconds)) return UNKNOWN;
  if (seconds < 5) return "now";
  for (const [unit, size, most] of [["s", 1, 120], ["min", 60, 7200], ["h", 3600, 172800]]) {
    if (seconds < most) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return new Date(moment).toISOString().slice(0, 10);
}

export const formatClock = (time) => (time ? new Date(time).toLocaleTimeString("en-GB") : UNKNOWN);

/** Joins events that say the same of several nodes: a page shows what happened, not how often. */
export function joinEvents(events) {
  const joined = [];
  for (const event of events) {
    const before = joined.at(-1);
    if (event.node && before?.node && before.event === event.event && before.reason === event.reason && before.round === event.round) before.others += 1;
    else joined.push({ ...event, others: 0 });
  }
  return joined;
}

/** One event of a run's log in a few words. */
export function describeEvent(event) {
  const detail = event.detail ? `: ${event.detail}` : "";
  switch (event.event) {
    case "run_started": return `run started: ${event.scheme} on ${event.dataset}, ${formatCount(event.num_nodes)} nodes`;
    case "phase_started": return event.phase === "round" ? `round ${event.round}: ${formatCount(event.total)} nodes selected` : `${event.phase} started`;
    case "phase_ended": return `${event.phase} done in ${formatSeconds(event.seconds)}`;
    case "teacher_ready": return event.accuracy === null ? "soft labels from a file are ready" : `teacher ready: accuracy ${formatRatio(event.accuracy)}, ${formatBytes(event.size_bytes)}`;
    case "labels_published": return `labels published: entropy ${formatNumber(event.entropy_nats)} nats`;
    case "reply_dropped": return `reply dropped (${event.reason})${detail}`;
    case "upload_refused": return `upload refused (${event.reason})${detail}`;
    case "round_closed": return `round ${event.round} closed: accuracy ${formatRatio(event.accuracy_mean)}, ${formatCount(event.num_replied)} of ${formatCount(event.num_sampled)} replied`;
    case "privacy_spent": return `privacy: ε ${formatNumber(event.epsilon)} spent`;
    case "warned": return event.text;
    case "node_left": return "node left";
    case "run_finished": return "run finished";
    case "scrape_awaited": return `waiting ${formatSeconds(event.seconds)} at most for Prometheus`;
    default: return String(event.event).replaceAll("_", " ");
  }
}
