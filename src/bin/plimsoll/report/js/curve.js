// Peak against time: every plan, everything kept, and the curve of a sweep.
const curve = { width: 0 };
const curveWidth = () => Math.max(260, Math.floor(byId("curve").parentNode.clientWidth));

function drawCurve() {
  const svg = byId("curve");
  const width = (curve.width = curveWidth());
  const height = 320, left = width < 520 ? 52 : 62, right = 14, top = 40, bottom = 42;
  const base = DATA.plans.find((plan) => plan.baseline).time;
  const over = (time) => (base > 0 ? time / base - 1 : 0);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  const plans = DATA.plans, { sweep } = DATA;
  const points = [...plans.map((p) => [p.peak, p.overhead]), ...sweep.map((p) => [p.peak, over(p.time)]), ...sweep.map((p) => [p.budget, p.bound])];
  const bounds = plans.filter((p) => p.bound !== null).map((p) => p.bound);
  const peaks = points.map((p) => p[0]), overheads = [...points.map((p) => p[1]), ...bounds];
  const spare = (low, high) => (high > low ? (high - low) * 0.08 : Math.max(high * 0.1, 1e-3));
  let [low, high] = [Math.min(...peaks), Math.max(...peaks)];
  [low, high] = [Math.max(0, low - spare(low, high)), high + spare(low, high)];
  let [least, most] = [Math.min(0, ...overheads), Math.max(...overheads)];
  most += spare(least, most);
  least -= spare(least, most) / 2;
  const x = (bytes) => left + ((bytes - low) / (high - low)) * (width - left - right);
  const y = (overhead) => top + (1 - (overhead - least) / (most - least)) * (height - top - bottom);
  for (const overhead of ticks(least, most, 5)) {
    put(svg, "path", { d: `M${left} ${y(overhead).toFixed(1)}H${width - right}`, class: Math.abs(overhead) < 1e-12 ? "axis" : "grid" });
    put(svg, "text", { x: left - 8, y: y(overhead) + 4, "text-anchor": "end" }, `${overhead > 1e-12 ? "+" : ""}${short(`${(overhead * 100).toFixed(2)} `).trim()}%`);
  }
  for (const [bytes, label] of byteTicks(low, high, (width - left) / 90)) {
    put(svg, "path", { d: `M${x(bytes).toFixed(1)} ${height - bottom}v4`, class: "axis" });
    put(svg, "text", { x: x(bytes), y: height - bottom + 17, "text-anchor": "middle" }, label);
  }
  put(svg, "path", { d: `M${left} ${height - bottom}H${width - right}`, class: "axis" });
  put(svg, "text", { x: width - right, y: height - 6, "text-anchor": "end" }, "peak memory");
  put(svg, "text", { x: 0, y: 12, "text-anchor": "start" }, "time beyond that with everything kept");
  if (sweep.length) drawSweep(svg, sweep, over, x, y, width - right);
  drawPlans(svg, plans, x, y, width);
  byId("curve-hint").textContent = [
    sweep.length ? "The stair is the sweep: the best plan for each budget; below the dashed stair no plan exists." : "",
    bounds.length ? "The whisker below a plan ends where its solver proved that no plan within the same budget can be." : "",
  ].filter(Boolean).join(" ");
}

function drawSweep(svg, sweep, over, x, y, right) {
  // What takes both more memory and more time is on no curve.
  const best = [];
  for (const p of [...sweep].sort((a, b) => a.peak - b.peak || a.time - b.time)) {
    if (!best.length || p.time < best[best.length - 1].time) best.push(p);
  }
  let path = "";
  best.forEach((p, i) => { path += i ? `H${x(p.peak).toFixed(1)}V${y(over(p.time)).toFixed(1)}` : `M${x(p.peak).toFixed(1)} ${y(over(p.time)).toFixed(1)}`; });
  put(svg, "path", { d: `${path}H${right}`, class: "stair" });
  // A bound holds for its budget and all smaller ones.
  let floor = "";
  sweep.forEach((p, i) => { floor += i ? `V${y(p.bound).toFixed(1)}H${x(p.budget).toFixed(1)}` : `M${x(p.budget).toFixed(1)} ${y(p.bound).toFixed(1)}`; });
  put(svg, "path", { d: floor, class: "stair bound" });
  for (const p of best) put(svg, "circle", { cx: x(p.peak).toFixed(1), cy: y(over(p.time)).toFixed(1), r: 2, class: "peak" });
}

function drawPlans(svg, plans, x, y, width) {
  const taken = [];
  plans.forEach((plan, index) => {
    const [cx, cy] = [x(plan.peak), y(plan.overhead)];
    if (plan.bound !== null && plan.bound < plan.overhead) {
      const low = y(plan.bound);
      put(svg, "path", { d: `M${cx.toFixed(1)} ${cy.toFixed(1)}V${low.toFixed(1)}m-4 0h8`, class: "whisker" });
    }
    const on = index === view.index;
    const dot = { onclick: () => show(index), class: `dot${on ? " on" : ""}${plan.baseline ? " base" : ""}` };
    if (plan.baseline) put(svg, "rect", { x: cx - 5, y: cy - 5, width: 10, height: 10, ...dot });
    else put(svg, "circle", { cx, cy, r: on ? 6.5 : 5, ...dot });
    const end = cx > width * 0.6;
    let at = cy - 12;
    while (taken.some((t) => Math.abs(t[0] - cx) < 110 && Math.abs(t[1] - at) < 13)) at -= 13;
    taken.push([cx, at]);
    const label = plan.label.length > 28 ? `${plan.label.slice(0, 27)}…` : plan.label;
    put(svg, "text", { x: end ? cx + 5 : cx - 5, y: at, "text-anchor": end ? "end" : "start", class: on ? "strong halo" : "halo" }, label);
  });
}

// The same as a table.
function fillCompared() {
  const table = byId("compared");
  table.replaceChildren();
  const head = put(put(table, "thead"), "tr");
  for (const [label, number] of [["plan", 0], ["budget", 1], ["peak", 1], ["time", 1], ["overhead", 1], ["at least", 1]]) put(head, "th", { class: number ? "n" : null, scope: "col" }, label);
  const body = put(table, "tbody");
  DATA.plans.forEach((plan, index) => {
    const row = put(body, "tr", { class: index === view.index ? "on" : null });
    const button = put(put(row, "td"), "button", { type: "button", class: "link", "aria-pressed": index === view.index, onclick: () => show(index) });
    name(button, plan.label);
    const cells = [plan.budget === null ? (plan.baseline ? "–" : "unlimited") : bytesText(plan.budget), bytesText(plan.peak), timeText(plan.time), percentText(plan.overhead), plan.bound === null ? "–" : percentText(plan.bound)];
    for (const cell of cells) put(row, "td", { class: "n" }, cell);
  });
}
