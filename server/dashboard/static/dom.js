// Elements without markup: whatever a run wrote stays text.

/** Makes an element; `on…` attributes are listeners, null and false are left out, children may nest. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, item] of Object.entries(value)) element.style.setProperty(key, item);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replaces an element's children. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets a text only where it differs, so that a quiet page stays quiet. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A term with its figure and a note, as the report's tiles have it. */
export function tile(name, value, note = "", kind = "") {
  return h("div", { class: kind }, h("dt", {}, name), h("dd", {}, h("b", {}, value), " ", h("span", {}, note)));
}

/** A plain table that scrolls by itself; the first column is its rows' heading. */
export function plainTable(heads, rows, { numeric = [], css = "", label = "" } = {}) {
  const cell = (tag, content, index) =>
    h(tag, { class: numeric.includes(index) ? "n" : null, scope: tag === "th" ? "col" : null }, content);
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label || null },
    h(
      "table",
      { class: css },
      h("thead", {}, h("tr", {}, heads.map((head, index) => cell("th", head, index)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((content, index) => cell("td", content, index))))),
    ),
  );
}
