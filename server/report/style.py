"""The report's document: its frame and its style sheet, as a `string.Template`."""

from __future__ import annotations

from fedstill.server.display.theme import DARK, LIGHT

# No scripts, no fonts, no images from elsewhere: the policy makes the browser hold the page to it.
PAGE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root {
  """
    + LIGHT
    + """
}
@media (prefers-color-scheme: dark) {
  :root {
    """
    + DARK
    + """
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 72rem;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .75rem; font-size: 1.15rem; font-weight: 650; }
h3 { margin: 0 0 .5rem; font-size: .95rem; font-weight: 600; }
p { margin: .5rem 0; max-width: 44rem; }
.lead, figcaption, .tiles span, th { color: var(--muted); }
.brand { color: var(--muted); font-size: .85rem; letter-spacing: .04em; }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 1px;
  margin: 1.75rem 0 0; background: var(--line); border: 1px solid var(--line);
}
.tiles div { padding: .8rem 1rem .9rem; background: var(--paper); }
.tiles dt { font-size: .8rem; color: var(--muted); }
.tiles dd { margin: 0; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.3; font-weight: 600; white-space: nowrap; }
.tiles span { display: block; font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; }
.pictures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 2rem 1.75rem;
  margin-top: 2.5rem;
}
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; stroke-linejoin: round; }
figcaption { margin-top: .4rem; font-size: .8rem; line-height: 1.4; }
.floor { display: inline-block; min-width: 3.2rem; color: var(--muted); font-size: .8em; }
.flips { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1.25rem 1rem; }
.flips img { width: 5rem; height: 5rem; object-fit: contain; object-position: left;
  image-rendering: pixelated; }
.flips blockquote { margin: 0; font-size: .8rem; overflow-wrap: anywhere; }
.flips b { color: var(--ink); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; line-height: 1.35; }
th, td { padding: .36rem 1.1rem .36rem 0; text-align: left; vertical-align: top; }
th, td { border-bottom: 1px solid var(--line); }
th { font-weight: 500; white-space: nowrap; vertical-align: bottom; }
.n, .nodes td:nth-child(n+3):nth-child(-n+17), .rounds td { text-align: right; white-space: nowrap; }
.nodes td, .nodes th { white-space: nowrap; }
.nodes tr > :first-child { position: sticky; left: 0; background: var(--paper); }
.nodes { font-size: .8rem; }
.nodes th, .nodes td { padding-right: .7rem; }
.nodes td:last-child, code, pre { font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; }
code { font-size: .82rem; overflow-wrap: anywhere; }
.changed td { font-weight: 600; }
pre { margin: .75rem 0; padding: .7rem 1rem; background: var(--soft); overflow-x: auto; font-size: .87rem; }
summary { cursor: pointer; color: var(--muted); margin: .75rem 0 .5rem; }
@media (max-width: 40rem) {
  body { padding-top: 1.5rem; }
  h2 { margin-top: 2.25rem; }
  .figures, .figures thead, .figures tbody { display: block; }
  .figures tr { display: grid; grid-template-columns: 7.2rem 5rem 1fr; padding: .4rem 0; }
  .figures tr { border-bottom: 1px solid var(--line); }
  .figures td, .figures th { padding-top: 0; padding-bottom: 0; border: 0; text-align: left; }
  .figures td:last-child, .figures th:last-child { white-space: normal; }
  .figures tr > :first-child { grid-column: 1 / -1; }
  .figures td:empty { display: none; }
}
@media print { details > *:not(summary) { display: block; } }
</style>
</head>
<body>
<header>
<div class="brand">FedStill</div>
<h1>$run_id</h1>
<p class="lead">$lead</p>
</header>
<main>
<dl class="tiles">$tiles</dl>
<div class="pictures">$pictures</div>
<h2>What came out</h2>
$figures
<h2>Nodes</h2>
<p class="lead">Accuracies are those of the artefact as the device runs it, on the evaluation set; private
ones come from the node's own test part and are its own word. Bytes are what the node alone on its own device
would move. Digests are the first twelve letters; summary.json holds them whole.</p>
$nodes
$devices
$choices
$quality
<h2>Rounds</h2>
<p class="lead">Bytes of all nodes together, each as it would move them on a device of its own.</p>
$rounds
<h2>What went wrong</h2>
$faults
<h2>What was asked</h2>
<p class="lead">Keys that differ from their defaults.</p>
$changed
<details><summary>The whole configuration</summary>
$config
</details>
<h2>How to have it again</h2>
$reproduction
</main>
</body>
</html>
"""
)
