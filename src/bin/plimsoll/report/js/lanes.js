// The lanes below memory: what runs when, and the lives of one value.
function drawLanes(svg, plan, g) {
  const phases = { forward: "fl", backward: "bu" };
  g.rows.forEach((row, index) => {
    const top = g.lanes + index * (g.row + g.gap);
    put(svg, "rect", { x: g.left, y: top, width: g.inner, height: g.row, class: "row" });
    put(svg, "text", { x: g.left - 8, y: top + 11.5, "text-anchor": "end" }, row === "value" ? (view.value < 0 ? "" : `v${view.value}`) : row);
    const draw = (list, category) => {
      const { d, cuts } = busy(list, top, g);
      put(svg, "path", { d, class: `lane k${category}` });
      if (category === RECOMPUTED) put(svg, "path", { d, class: "kh" });
      if (cuts) put(svg, "path", { d: cuts, class: "cut" });
    };
    if (row === "again") draw(stretches(plan, (i) => plan.steps[i] === "r"), RECOMPUTED);
    else if (row === "value") drawValue(svg, plan, g, top);
    else if (row in phases) {
      const list = stretches(plan, (i) => plan.steps[i] === "c" && phases[row].includes(ops.phase[plan.what[i]]));
      draw(list, row === "forward" ? 5 : 7);
    } else {
      const lane = row === "to host" ? 0 : 1;
      draw(plan.spans.filter((c) => c[0] === lane).map((c) => [c[2], c[3]]), "c");
    }
  });
}

// When a lane computes.
function stretches(plan, keep) {
  const list = [];
  for (let i = stepFrom(plan, view.from); i < plan.n && plan.start[i] <= view.to; i++) {
    if (isCompute(plan, i) && plan.stop[i] > plan.start[i] && keep(i)) list.push([plan.start[i], plan.stop[i]]);
  }
  return list;
}

// Stretches of time on a lane: each column of pixels is filled as far as it is busy, though never so little
// that it cannot be seen; large neighbours are cut apart.
function busy(list, top, g) {
  const n = Math.max(1, Math.floor(g.inner)), width = g.inner / n, shares = new Float64Array(n);
  const column = (t) => ((t - view.from) / (view.to - view.from)) * n;
  let cuts = "", before = -1;
  list.forEach(([start, stop], k) => {
    if (stop < view.from || start > view.to) return;
    let from = Math.max(0, column(start)), to = Math.min(n, column(stop));
    // An end next to which the lane rests is drawn sharp.
    const rests = (other, gap) => to - from > 3 && (other === undefined || gap(other) > 1);
    const [first, last] = [rests(list[k - 1], (o) => from - column(o[1])), rests(list[k + 1], (o) => column(o[0]) - to)];
    [from, to] = [first ? Math.round(from) : from, last ? Math.round(to) : to];
    for (let c = Math.min(n - 1, Math.floor(from)); c === Math.floor(from) || c < to; c++) {
      shares[c] = Math.min(1, Math.max(shares[c] + Math.min(c + 1, to) - Math.max(c, from), 0.15));
      if (c + 1 >= n) break;
    }
    if (to - from > 6 && from - before < 1 && from > 0) cuts += `M${(g.left + from * width).toFixed(1)} ${top}v${g.row}`;
    before = to - from > 6 ? to : -1;
  });
  const floor = top + g.row;
  const heights = shares.map((share) => floor - g.row * (share > 0.97 ? 1 : share));
  return { d: band(heights, new Float64Array(n).fill(floor), g.left, width), cuts };
}

// When the value looked at lives on the device, and when on the host.
function drawValue(svg, plan, g, top) {
  const { life } = plan;
  const at = (step) => (step < plan.n ? plan.start[step] : plan.end);
  let since = -1;
  for (let i = 0; i <= plan.n; i++) {
    const here = i < plan.n && plan.what[i] === view.value ? plan.steps[i] : "";
    if (here === "o") since = i;
    if (since >= 0 && (here === "p" || i === plan.n)) {
      const [a, b] = [xOf(at(since)), xOf(at(i))].map((x) => Math.max(g.left, Math.min(g.width - g.right, x)));
      put(svg, "path", { d: `M${a} ${top + g.row / 2}H${b}`, class: "host" });
      since = -1;
    }
  }
  for (let i = 0; i < life.from.length; i++) {
    if (life.value[i] !== view.value) continue;
    const [from, to] = [at(life.from[i]), Math.max(at(life.to[i]), plan.stop[life.from[i]])];
    if (to < view.from || from > view.to) continue;
    const left = Math.max(g.left, xOf(from)), right = Math.max(left + 1, Math.min(g.width - g.right, xOf(to)));
    const d = `M${left.toFixed(1)} ${top}H${right.toFixed(1)}v${g.row}H${left.toFixed(1)}z`;
    put(svg, "path", { d, class: `life k${life.category[i]}` });
    if (life.category[i] === RECOMPUTED) put(svg, "path", { d, class: "kh" });
  }
}
