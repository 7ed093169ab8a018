// Memory over time, and how to move about in it.
const view = { index: 0, plan: null, bySteps: false, from: 0, to: 1, step: 0, value: -1, drag: null, geometry: null };

function layout(width) {
  const narrow = width < 520;
  const copies = DATA.links || view.plan.copies.length > 0;
  const rows = ["forward", "backward", "again", ...(copies ? ["to host", "to device"] : []), "value"];
  const left = narrow ? 62 : 74, right = 12, top = 22, memory = narrow ? 210 : 330, row = 15, gap = 4;
  const lanes = top + memory + 10;
  const axis = lanes + rows.length * (row + gap) + 6;
  return { narrow, rows, left, right, top, memory, row, gap, lanes, axis, width, inner: width - left - right, height: axis + 24 };
}

const xOf = (t) => view.geometry.left + ((t - view.from) / (view.to - view.from)) * view.geometry.inner;
const timeOf = (x) => view.from + ((x - view.geometry.left) / view.geometry.inner) * (view.to - view.from);

// The first step from `t` on, or the one that `t` lies in.
function stepFrom(plan, t) {
  let low = 0, high = plan.n;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (plan.start[middle] < t) low = middle + 1; else high = middle;
  }
  return Math.max(0, low - 1);
}
const nextStart = (plan, i) => (i + 1 < plan.n ? plan.start[i + 1] : plan.end);

// For each column of the picture the step with the most live bytes; odd after a step, while one waits.
function columns(plan, from, to, n) {
  const best = new Float64Array(n).fill(-1), which = new Int32Array(n).fill(-1);
  const place = (t) => Math.max(0, Math.min(n - 1, Math.floor(((t - from) / (to - from)) * n)));
  const raise = (start, stop, bytes, mark) => {
    if (stop < from || start > to) return;
    const last = Math.max(place(start), Math.ceil(((Math.min(stop, to) - from) / (to - from)) * n) - 1);
    for (let c = place(start); c <= last && c < n; c++) if (bytes > best[c]) { best[c] = bytes; which[c] = mark; }
  };
  for (let i = stepFrom(plan, from); i < plan.n && plan.start[i] <= to; i++) {
    raise(plan.start[i], plan.stop[i], plan.total[i], 2 * i);
    if (nextStart(plan, i) > plan.stop[i]) raise(plan.stop[i], nextStart(plan, i), plan.total[i] - plan.level[WORKSPACE][i], 2 * i + 1);
  }
  return which;
}

function drawMemory() {
  const { plan } = view;
  const svg = byId("chart");
  const width = Math.max(260, Math.floor(byId("plot").clientWidth));
  const g = (view.geometry = layout(width));
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${g.height}`);
  svg.setAttribute("height", g.height);
  const pattern = put(put(svg, "defs"), "pattern", { id: "again", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  put(pattern, "path", { d: "M0 0V5", class: "hatch" });
  const most = Math.max(plan.peak, Math.min(plan.budget ?? 0, 2 * plan.peak), 1) * 1.06;
  const y = (g.y = (bytes) => g.top + g.memory * (1 - bytes / most));
  for (const [bytes, label] of byteTicks(0, most, g.narrow ? 4 : 6)) {
    put(svg, "path", { d: `M${g.left} ${y(bytes).toFixed(1)}H${width - g.right}`, class: bytes ? "grid" : "axis" });
    put(svg, "text", { x: g.left - 8, y: y(bytes) + 4, "text-anchor": "end" }, label);
  }
  drawAreas(svg, plan, g, y);
  drawLanes(svg, plan, g);
  for (const [t, label] of (plan.bySteps ? stepTicks : timeTicks)(view.from, view.to, g.inner / (g.narrow ? 80 : 110))) {
    put(svg, "path", { d: `M${xOf(t).toFixed(1)} ${g.axis - 2}v5`, class: "axis" });
    const anchor = xOf(t) > width - 40 ? "end" : xOf(t) < g.left + 8 ? "start" : "middle";
    put(svg, "text", { x: xOf(t), y: g.axis + 17, "text-anchor": anchor }, label);
  }
  drawLines(svg, plan, g, y);
  g.overlay = put(svg, "g");
  drawCursor();
}

function drawAreas(svg, plan, g, y) {
  const n = Math.max(1, Math.floor(g.inner)), width = g.inner / n;
  const which = columns(plan, view.from, view.to, n);
  let floors = new Float64Array(n).fill(y(0));
  const sums = new Float64Array(n);
  for (const k of plan.used) {
    const heights = new Float64Array(n);
    for (let c = 0; c < n; c++) {
      const mark = which[c];
      if (mark >= 0 && !(k === WORKSPACE && mark % 2)) sums[c] += plan.level[k][mark >> 1];
      heights[c] = y(sums[c]);
    }
    const d = band(heights, floors, g.left, width);
    put(svg, "path", { d, class: `area k${k}` });
    if (k === RECOMPUTED) put(svg, "path", { d, class: "kh" });
    floors = heights;
  }
}

// The Plimsoll line, and where the peak is.
function drawLines(svg, plan, g, y) {
  const right = g.width - g.right;
  if (plan.budget !== null && plan.budget <= 2 * plan.peak) {
    const at = y(plan.budget).toFixed(1);
    put(svg, "path", { d: `M${g.left} ${at}H${right + 8}`, class: "budget" });
    put(svg, "circle", { cx: right - 12, cy: at, r: 7, class: "budget mark" });
    put(svg, "path", { d: `M${right - 26} ${at}H${right + 2}`, class: "budget" });
    put(svg, "text", { x: right - 28, y: at - 7, "text-anchor": "end", class: "strong halo" }, `budget ${bytesText(plan.budget)}`);
  }
  const t = (plan.start[plan.peak_step] + plan.stop[plan.peak_step]) / 2;
  if (!(t >= view.from && t <= view.to) || plan.n === 0) return;
  const x = xOf(t), top = y(plan.peak);
  put(svg, "path", { d: `M${(x - 4.5).toFixed(1)} ${(top - 8).toFixed(1)}h9l-4.5 7z`, class: "peak" });
  if (plan.budget === null || plan.budget > 2 * plan.peak) {
    put(svg, "text", { x, y: top - 12, "text-anchor": x > g.width / 2 ? "end" : "start", class: "strong halo" }, `peak ${bytesText(plan.peak)}`);
  }
}

function drawCursor() {
  const { plan, step, geometry: g } = view;
  g.overlay.replaceChildren();
  if (plan.n === 0) return;
  const from = Math.max(g.left, xOf(plan.start[step])), to = Math.min(g.width - g.right, xOf(plan.stop[step]));
  if (to >= g.left && from <= g.width - g.right) {
    if (to - from > 1.5) put(g.overlay, "rect", { x: from, y: g.top, width: to - from, height: g.axis - g.top, class: "here" });
    const x = ((from + Math.max(from, to)) / 2).toFixed(1);
    put(g.overlay, "path", { d: `M${x} ${g.top - 6}V${g.axis}`, class: "cursor" });
    put(g.overlay, "circle", { cx: x, cy: g.y(plan.total[step]).toFixed(1), r: 3.5, class: "peak" });
  }
  if (view.drag && Math.abs(view.drag[1] - view.drag[0]) > 4) {
    const [a, b] = view.drag[0] < view.drag[1] ? view.drag : [view.drag[1], view.drag[0]];
    put(g.overlay, "rect", { x: a, y: g.top, width: b - a, height: g.axis - g.top, class: "drag" });
  }
  inspect();
}

function moveTo(step, follow = true) {
  const { plan } = view;
  view.step = Math.max(0, Math.min(plan.n - 1, step));
  const [start, stop] = [plan.start[view.step], plan.stop[view.step]];
  const width = view.to - view.from;
  if (follow && (stop < view.from || start > view.to)) {
    const from = Math.max(0, Math.min(plan.end - width, start - width / 2));
    [view.from, view.to] = [from, from + width];
    return drawMemory();
  }
  drawCursor();
}

// Along time or along steps, all of it.
function layOut() {
  lay(view.plan, view.bySteps);
  Object.assign(view, { from: 0, to: Math.max(1, view.plan.end), drag: null });
  byId("axis").setAttribute("aria-pressed", view.plan.bySteps);
}

function zoom(from, to) {
  const { plan } = view;
  if (!(plan.end > 0)) return;
  const least = Math.min(plan.end, Math.max(plan.end * 1e-6, 8));
  const width = Math.min(Math.max(to - from, least), plan.end);
  const start = Math.max(0, Math.min(plan.end - width, (from + to - width) / 2));
  [view.from, view.to] = [start, start + width];
  drawMemory();
}

function zoomBy(factor) {
  const { plan, step } = view;
  const width = view.to - view.from;
  const here = Math.min(view.to, Math.max(view.from, (plan.start[step] + plan.stop[step]) / 2));
  zoom(here - (here - view.from) * factor, here - (here - view.from) * factor + width * factor);
}
const zoomAll = () => zoom(0, view.plan.end);

// The step with the most live bytes among those in the column of pixels.
function stepNear(x) {
  const { plan, geometry: g } = view;
  const inside = Math.max(g.left, Math.min(g.width - g.right - 0.01, x));
  const [from, to] = [timeOf(inside - 0.5), timeOf(inside + 0.5)];
  let best = stepFrom(plan, from);
  for (let i = best; i < plan.n && plan.start[i] < to; i++) if (plan.total[i] > plan.total[best]) best = i;
  return best;
}

function listen() {
  const plot = byId("plot");
  let waiting = 0;
  const soon = (work) => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(work); };
  const xIn = (event) => event.clientX - byId("chart").getBoundingClientRect().left;
  plot.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) view.drag = [xIn(event), xIn(event)];
    soon(() => moveTo(stepNear(xIn(event)), false));
  });
  plot.addEventListener("pointermove", (event) => {
    if (view.drag) view.drag[1] = xIn(event);
    soon(() => moveTo(stepNear(xIn(event)), false));
  });
  window.addEventListener("pointerup", () => {
    const drag = view.drag;
    view.drag = null;
    if (!drag) return;
    if (Math.abs(drag[1] - drag[0]) > 4) zoom(timeOf(Math.min(...drag)), timeOf(Math.max(...drag)));
    else drawCursor();
  });
  window.addEventListener("pointercancel", () => { view.drag = null; });
  plot.addEventListener("dblclick", zoomAll);
  plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { plan, step } = view;
    const many = Math.max(10, Math.round(plan.n / 40));
    const moves = {
      ArrowLeft: step - 1, ArrowDown: step - 1, ArrowRight: step + 1, ArrowUp: step + 1, PageDown: step - many, PageUp: step + many,
      Home: 0, End: plan.n - 1, p: plan.peak_step, P: plan.peak_step,
    };
    const zooms = { "+": () => zoomBy(0.5), "=": () => zoomBy(0.5), "-": () => zoomBy(2), 0: zoomAll };
    if (event.key in moves) moveTo(moves[event.key]);
    else if (event.key in zooms) zooms[event.key]();
    else return;
    event.preventDefault();
  });
  byId("to-peak").addEventListener("click", () => moveTo(view.plan.peak_step));
  byId("zoom-in").addEventListener("click", () => zoomBy(0.5));
  byId("zoom-out").addEventListener("click", () => zoomBy(2));
  byId("zoom-all").addEventListener("click", zoomAll);
  byId("axis").addEventListener("click", () => { view.bySteps = !view.bySteps; layOut(); drawMemory(); });
  new ResizeObserver(() => { if (view.geometry?.width !== Math.max(260, Math.floor(plot.clientWidth))) drawMemory(); }).observe(plot);
}
