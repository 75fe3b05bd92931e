// A table of any length: only the rows in sight exist.

import { fill, h, setText } from "./dom.js";

const ROW_PIXELS = 33;
const EXTRA_ROWS = 8;

// Made once: a fresh one for each comparison is a hundred times slower.
const collator = new Intl.Collator("en", { numeric: true });
const compare = (first, second) =>
  first === second ? 0
  : first === null || first === undefined ? 1
  : second === null || second === undefined ? -1
  : typeof first === "string" ? collator.compare(first, second)
  : first - second;

/**
 * `columns` are {key, name, title, width, format, numeric, css, worst}; `open` is called with the row
 * that was chosen. Returns element, `update(rows)` and `destroy()`.
 */
export function dataTable({ columns, key, open, label, sort, emptyText = "Nothing fits." }) {
  let rows = [];
  let order = { ...sort };
  let active = 0;
  let whole = false;
  const pool = [];
  const width = columns.reduce((total, column) => total + column.width, 0);
  const template = columns.map((column, index) => (index ? `${column.width}px` : `minmax(${column.width}px, 1fr)`)).join(" ");

  const heads = columns.map((column) => {
    const button = h("button", { type: "button", title: column.title ?? null, onclick: () => sortBy(column) }, column.name);
    return h("div", { role: "columnheader", class: column.numeric ? "cell n" : "cell" }, button);
  });
  const head = h("div", { class: "row head", role: "row", "aria-rowindex": 1 }, heads);
  const body = h("div", { class: "body", role: "rowgroup" });
  const empty = h("p", { class: "empty", hidden: true }, emptyText);
  const element = h(
    "div",
    { class: "grid", role: "grid", tabindex: 0, "aria-label": label, onkeydown: press, onscroll: () => render(),
      style: { "--columns": template, "--width": `${width}px` } },
    head, body, empty,
  );

  function sortBy(column) {
    const same = order.key === column.key;
    order = { key: column.key, down: same ? !order.down : Boolean(column.numeric) };
    arrange();
  }

  function arrange() {
    const way = order.down ? -1 : 1;
    rows.sort((first, second) => {
      const [one, two] = [first[order.key], second[order.key]];
      const known = [one, two].every((value) => value !== null && value !== undefined);
      return (known ? way : 1) * compare(one, two) || compare(first[key], second[key]);
    });
    heads.forEach((cell, index) => {
      const sorted = columns[index].key === order.key;
      cell.setAttribute("aria-sort", sorted ? (order.down ? "descending" : "ascending") : "none");
    });
    render();
  }

  function makeRow() {
    const cells = columns.map((column) => h("div", { role: "gridcell", class: column.numeric ? "cell n" : "cell" }));
    const row = h("div", { class: "row", role: "row" }, cells);
    row.addEventListener("click", () => open(row.item));
    body.append(row);
    return { row, cells };
  }

  function render() {
    empty.hidden = rows.length > 0;
    element.setAttribute("aria-rowcount", rows.length + 1);
    active = Math.max(0, Math.min(active, rows.length - 1));
    element.style.height = whole ? "" : `${Math.min(960, Math.max(3, rows.length + 1.5) * ROW_PIXELS)}px`;
    body.style.height = whole ? "" : `${rows.length * ROW_PIXELS}px`;
    const first = whole ? 0 : Math.max(0, Math.floor(element.scrollTop / ROW_PIXELS) - EXTRA_ROWS);
    const height = element.clientHeight || 600;
    const count = whole ? rows.length : Math.min(rows.length - first, Math.ceil(height / ROW_PIXELS) + 2 * EXTRA_ROWS);
    while (pool.length < count) pool.push(makeRow());
    pool.forEach(({ row, cells }, place) => {
      row.hidden = place >= count;
      if (row.hidden) return;
      const index = first + place;
      const item = rows[index];
      row.item = item;
      row.style.transform = whole ? "" : `translateY(${index * ROW_PIXELS}px)`;
      row.setAttribute("aria-rowindex", index + 2);
      row.id = `${key}-${index}`;
      row.classList.toggle("active", index === active);
      columns.forEach((column, number) => {
        setText(cells[number], column.format ? column.format(item[column.key], item) : String(item[column.key] ?? "–"));
        if (column.css) cells[number].className = `cell${column.numeric ? " n" : ""} ${column.css(item[column.key], item)}`;
      });
    });
    element.setAttribute("aria-activedescendant", rows.length ? `${key}-${active}` : "");
  }

  function press(event) {
    const page = Math.max(1, Math.floor(element.clientHeight / ROW_PIXELS) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.target !== element) return;
    if (event.key === "Enter" && rows[active]) { open(rows[active]); return; }
    if (!(event.key in steps)) return;
    event.preventDefault();
    active = Math.max(0, Math.min(rows.length - 1, active + steps[event.key]));
    const top = active * ROW_PIXELS;
    const room = element.clientHeight - head.offsetHeight - ROW_PIXELS;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top > element.scrollTop + room) element.scrollTop = top - room;
    render();
  }

  const printing = matchMedia("print");
  const onPrint = () => { whole = printing.matches; render(); };
  printing.addEventListener("change", onPrint);
  const observer = new ResizeObserver(() => render());
  observer.observe(element);
  return {
    element,
    update(found) { rows = [...found]; arrange(); },
    destroy() { printing.removeEventListener("change", onPrint); observer.disconnect(); fill(body); },
  };
}
