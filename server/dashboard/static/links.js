// Where things are: everything after the # is the page's own.

export const runLink = (run, view = "") => `#/run/${encodeURIComponent(run)}${view ? `/${view}` : ""}`;
export const nodeLink = (run, node) => runLink(run, `node/${encodeURIComponent(node)}`);

/** Reads a link: view, run, node, and what follows the question mark. */
export function readLink(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  const params = new URLSearchParams(query);
  if (parts[0] === "compare") return { view: "compare", params };
  if (parts[0] === "run" && parts[1]) return { view: parts[2] || "fleet", run: parts[1], node: parts[3], params };
  return { view: "runs", params };
}
