// Small computations that several views share.

export const known = (values) => values.filter((value) => value !== null && value !== undefined);

export function mean(values) {
  const found = known(values);
  return found.length ? found.reduce((sum, value) => sum + value, 0) / found.length : null;
}

export const sum = (values) => known(values).reduce((total, value) => total + value, 0);

/** The points that no other beats: none is at most as costly and at least as good. */
export function paretoFront(points) {
  const ordered = [...points].sort((first, second) => first.x - second.x || second.y - first.y);
  const front = [];
  for (const point of ordered) if (!front.length || point.y > front.at(-1).y) front.push(point);
  return front;
}

/** Splits values in [low, high] into equal bins. */
export function histogram(values) {
  const found = known(values);
  if (!found.length) return { edges: [], counts: [], width: 0 };
  const numBins = Math.max(5, Math.min(30, 2 * Math.ceil(Math.sqrt(found.length))));
  let low = Math.min(...found);
  let high = Math.max(...found);
  if (high - low < 0.01) { low = Math.max(0, low - 0.02); high = Math.min(1, high + 0.02); }
  const width = (high - low) / numBins;
  const counts = new Array(numBins).fill(0);
  for (const value of found) counts[Math.min(numBins - 1, Math.floor((value - low) / width))] += 1;
  return { edges: counts.map((_, index) => low + (index + 0.5) * width), counts, width };
}

/** Families of students in a fixed order, so that each keeps its colour. */
export const families = (list) => [...new Set(list.map((node) => node.family || "?"))].sort();

export const last = (list) => list.at(-1) ?? null;

/** Their colours: the second of the palette is the teacher's. */
export const familyColours = (names) => names.map((name, index) => [name, index ? 1 + (index % 7 || 7) : 0]);

/** What is odd about a node, for those who look for trouble. */
export function troubles(node, run) {
  const found = [];
  const round = last(run.rounds)?.round ?? 0;
  if (node.rests_until > round) found.push("rests");
  if (node.num_drops) found.push("dropped");
  if (node.num_resets) found.push("reset");
  if (round && (node.last_round ?? 0) < round) found.push("stale");
  return found;
}
