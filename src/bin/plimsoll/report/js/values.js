// The largest values, and what the plan does with each.
const FEW = 15;
const order = { by: "bytes", down: true, all: false };

function fate([v, runs, offloads, inplace]) {
  const words = [];
  if (values.by[v] < 0) words.push("resident");
  else if (runs === 0) words.push("never made");
  else if (runs === 1) words.push("kept until its last use");
  else words.push(runs === 2 ? "recomputed once" : `recomputed ${count(runs - 1)} times`);
  if (offloads) words.push(offloads === 1 ? "offloaded" : `offloaded ${count(offloads)} times`);
  if (inplace) words.push("made in place");
  return words.join(", ");
}

// How long each value lives on the device.
function lifetimes(plan) {
  const time = new Map();
  const { life, clock } = plan;
  const at = (step) => (step < plan.n ? clock.start[step] : clock.end);
  life.value.forEach((v, i) => time.set(v, (time.get(v) || 0) + at(life.to[i]) - at(life.from[i])));
  return time;
}

const ALL_COLUMNS = [
  { key: "value", label: "value", of: (r) => r.v },
  { key: "shape", label: "shape", wide: true, of: (r) => values.shape[r.v] },
  { key: "bytes", label: "size", number: true, of: (r) => values.bytes[r.v], text: bytesText },
  { key: "by", label: "made by", wide: true, of: (r) => values.by[r.v] },
  { key: "fate", label: "what is done with it", long: true, of: (r) => r.fate },
  { key: "again", label: "again for", number: true, of: (r) => r.again, text: (t) => (t ? timeText(t) : "–") },
  { key: "lives", label: "lives for", number: true, wide: true, of: (r) => r.lives, text: percentText },
];
const COLUMNS = ALL_COLUMNS.filter((c) => c.key !== "shape" || values.shape.some(Boolean));

function fillValues() {
  const { plan } = view;
  const time = lifetimes(plan);
  const rows = plan.largest.map((row) => {
    const [v, runs] = row;
    const again = runs > 1 ? (runs - 1) * ops.time[values.by[v]] : 0;
    return { v, fate: fate(row), again, lives: plan.clock.end > 0 ? (time.get(v) || 0) / plan.clock.end : 0 };
  });
  const column = COLUMNS.find((c) => c.key === order.by);
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  rows.sort((a, b) => compare(column.of(a), column.of(b)) * (order.down ? -1 : 1) || a.v - b.v);
  const table = byId("values");
  const focused = table.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  table.replaceChildren();
  const head = put(put(table, "thead"), "tr");
  for (const c of COLUMNS) {
    const sorted = c.key === order.by;
    const classes = [c.number && "n", c.wide && "wide", c.long && "long"].filter(Boolean).join(" ");
    const th = put(head, "th", { scope: "col", class: classes || null, "aria-sort": sorted ? (order.down ? "descending" : "ascending") : null });
    put(th, "button", { type: "button", "data-key": c.key, onclick: () => sortBy(c) }, sorted ? `${c.label} ${order.down ? "↓" : "↑"}` : c.label);
  }
  if (focused) table.querySelector(`[data-key="${focused}"]`)?.focus();
  const body = put(table, "tbody");
  for (const r of rows.slice(0, order.all ? rows.length : FEW)) {
    const row = put(body, "tr", { class: r.v === view.value ? "on" : null });
    for (const c of COLUMNS) {
      const classes = [c.number && "n", c.wide && "wide", c.long && "long"].filter(Boolean).join(" ");
      const cell = put(row, "td", { class: classes || null });
      if (c.key === "value") valueButton(cell, r.v);
      else if (c.key === "by") name(cell, values.by[r.v] < 0 ? "–" : opName(values.by[r.v]));
      else cell.append(c.text ? c.text(c.of(r)) : c.of(r));
    }
  }
  const more = byId("more");
  more.hidden = rows.length <= FEW;
  more.textContent = order.all ? `Only ${FEW}` : `All ${count(rows.length)}`;
}

function sortBy(column) {
  order.down = order.by === column.key ? !order.down : Boolean(column.number);
  order.by = column.key;
  fillValues();
}
