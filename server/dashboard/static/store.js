// What the server streams, kept whole: a snapshot, then changes. The page never polls.

function connect(url, { onSnapshot, onChange, onState }) {
  let source = null;
  const open = () => {
    source = new EventSource(url);
    source.addEventListener("snapshot", (event) => { onState("open"); onSnapshot(JSON.parse(event.data)); });
    source.addEventListener("change", (event) => onChange(JSON.parse(event.data)));
    source.onerror = () => onState(source.readyState === EventSource.CLOSED ? "closed" : "waiting");
  };
  const close = () => { source?.close(); source = null; };
  // A page in the background costs nobody anything; it begins anew when it is looked at.
  const look = () => { if (document.hidden) close(); else if (!source) open(); };
  document.addEventListener("visibilitychange", look);
  open();
  return () => { document.removeEventListener("visibilitychange", look); close(); };
}

/** Follows the list of runs. Returns a function that ends it. */
export function watchRuns({ onUpdate, onState }) {
  return connect("api/runs/stream", { onSnapshot: onUpdate, onChange: onUpdate, onState });
}

const toNode = (columns, row) => Object.fromEntries(columns.map((name, index) => [name, row[index]]));

/** Turns a snapshot into what views draw. */
export function makeRun(snapshot) {
  const nodes = new Map(snapshot.nodes.map((row) => [row[0], toNode(snapshot.columns, row)]));
  return { ...snapshot, nodes, list: [...nodes.values()] };
}

/** Follows one run. Returns a function that ends it. */
export function watchRun(name, { onUpdate, onState }) {
  let run = null;
  return connect(`api/run/stream?run=${encodeURIComponent(name)}`, {
    onState,
    onSnapshot: (snapshot) => onUpdate((run = makeRun(snapshot)), null),
    onChange: (change) => {
      run.overview = change.overview;
      if (change.metrics !== undefined) run.metrics = change.metrics;
      if (change.rounds) run.rounds = [...run.rounds, ...change.rounds];
      if (change.events) run.events = [...run.events, ...change.events].slice(-400);
      if (change.nodes) {
        for (const row of change.nodes) run.nodes.set(row[0], toNode(run.columns, row));
        run.list = [...run.nodes.values()];
      }
      onUpdate(run, change);
    },
  });
}

async function get(url) {
  const answer = await fetch(url);
  const document = await answer.json();
  if (!answer.ok) throw new Error(document.error);
  return document;
}

export const fetchRun = async (name) => makeRun(await get(`api/run?run=${encodeURIComponent(name)}`));
export const fetchNode = (run, node) => get(`api/node?run=${encodeURIComponent(run)}&node=${encodeURIComponent(node)}`);

/** A metric's value, the first that fits the labels; null where it is not known. */
export function metric(run, name, labels = {}) {
  const found = run.metrics?.values[name]?.find(([have]) => Object.entries(labels).every(([key, value]) => have[key] === value));
  return found ? found[1] : null;
}

/** All values of a metric as pairs of labels and value. */
export const samples = (run, name) => run.metrics?.values[name] ?? [];
