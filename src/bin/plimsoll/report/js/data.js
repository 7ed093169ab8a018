"use strict";
// What the page is given, spread out again. The format is that of report/data.rs.
const DATA = JSON.parse(document.getElementById("data").textContent);

const summed = (differences) => {
  let sum = 0;
  return differences.map((d) => (sum += d));
};
const spread = (table) => table.at.map((i) => table.of[i]);

const ops = { kind: spread(DATA.ops.kind), time: spread(DATA.ops.time), workspace: spread(DATA.ops.workspace), phase: DATA.ops.phase };
const values = { name: DATA.values.name, bytes: spread(DATA.values.bytes), shape: spread(DATA.values.shape), by: summed(DATA.values.by) };
const CATEGORIES = DATA.categories;
const WORKSPACE = CATEGORIES.length - 1;
const RECOMPUTED = 6;
const PHASES = { f: "forward", l: "loss", b: "backward", u: "update" };

const opName = (op) => `op${op} (${ops.kind[op]})`;
const valueName = (v) => (values.name[v] ? `v${v} (${values.name[v]})` : `v${v}`);

// A plan with a time for each step and the live bytes of each category in it.
function unpack(raw) {
  const n = raw.steps.length;
  const what = summed(raw.what);
  const start = new Float64Array(n), stop = new Float64Array(n);
  const waits = new Map(raw.waits);
  let now = 0;
  for (let i = 0; i < n; i++) {
    now += waits.get(i) || 0;
    start[i] = now;
    if (raw.steps[i] === "c" || raw.steps[i] === "r") now += ops.time[what[i]];
    stop[i] = now;
  }
  const life = { value: summed(raw.lives.value), from: summed(raw.lives.from), made: raw.lives.made };
  const bytes = life.value.map((v) => values.bytes[v]);
  for (const [index, odd] of raw.lives.bytes) bytes[index] = odd;
  life.bytes = bytes;
  life.to = life.from.map((from, i) => from + raw.lives.steps[i]);
  life.category = Array.from(raw.lives.category, Number);
  const level = CATEGORIES.map(() => new Float64Array(n + 1));
  life.value.forEach((_, i) => {
    level[life.category[i]][life.from[i]] += bytes[i];
    level[life.category[i]][life.to[i]] -= bytes[i];
  });
  const total = new Float64Array(n);
  level.forEach((of, k) => {
    for (let i = 0; i < n; i++) {
      if (i > 0 && k !== WORKSPACE) of[i] += of[i - 1];
      if (k === WORKSPACE) of[i] = "cr".includes(raw.steps[i]) ? ops.workspace[what[i]] : 0;
      total[i] += of[i];
    }
  });
  const end = raw.copies.reduce((most, copy) => Math.max(most, copy[3]), now);
  const used = CATEGORIES.map((_, k) => k).filter((k) => level[k].subarray(0, n).some((x) => x > 0));
  const plan = { ...raw, n, what, life, level, total, used, clock: { start, stop, end } };
  lay(plan, false);
  return plan;
}

// Lay a plan out along time, or with the same room for every step, which shows what takes next to no time.
function lay(plan, bySteps) {
  const { clock, n } = plan;
  plan.bySteps = bySteps || !(clock.end > 0);
  if (!plan.bySteps) return Object.assign(plan, clock, { spans: plan.copies });
  const place = (t) => {
    let low = 0, high = n;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (clock.start[middle] <= t) low = middle + 1; else high = middle;
    }
    const step = Math.max(0, low - 1), lasts = (low < n ? clock.start[low] : clock.end) - clock.start[step];
    return step + (lasts > 0 ? Math.min(1, (t - clock.start[step]) / lasts) : 0);
  };
  const start = Float64Array.from({ length: n }, (_, i) => i), stop = start.map((i) => i + 1);
  const spans = plan.copies.map(([lane, step, from, to]) => [lane, step, place(from), place(to)]);
  return Object.assign(plan, { start, stop, end: n, spans });
}

const unpacked = new Map();
function planAt(index) {
  if (!unpacked.has(index)) unpacked.set(index, unpack(DATA.plans[index]));
  return unpacked.get(index);
}

// The largest values live in a step, with the number of all.
function liveAt(plan, step, count) {
  const { life } = plan;
  const live = [];
  for (let i = 0; i < life.from.length && life.from[i] <= step; i++) if (step < life.to[i]) live.push(i);
  const all = live.length;
  live.sort((a, b) => life.bytes[b] - life.bytes[a] || life.value[a] - life.value[b]);
  return { all, largest: live.slice(0, count) };
}

function does(plan, step) {
  const what = plan.what[step];
  switch (plan.steps[step]) {
    case "c": return `compute ${opName(what)}`;
    case "r": return `recompute ${opName(what)}`;
    case "d": return `drop ${valueName(what)}`;
    case "o": return `offload ${valueName(what)} to the host`;
    default: return `prefetch ${valueName(what)} from the host`;
  }
}

const isCompute = (plan, step) => plan.steps[step] === "c" || plan.steps[step] === "r";

// Numbers for people, as the command line writes them.
const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB"];
function bytesText(bytes, digits = 2) {
  if (bytes < 1024) return `${Math.round(bytes)} B`;
  let x = bytes / 1024, unit = 0;
  while (x >= 1024 && unit + 1 < UNITS.length) { x /= 1024; unit++; }
  return `${x.toFixed(digits)} ${UNITS[unit]}`;
}
function timeText(ns, digits) {
  if (ns < 1e3) return `${Math.round(ns)} ns`;
  if (ns < 1e6) return `${(ns / 1e3).toFixed(digits ?? 1)} µs`;
  if (ns < 1e9) return `${(ns / 1e6).toFixed(digits ?? 2)} ms`;
  return `${(ns / 1e9).toFixed(digits ?? 3)} s`;
}
function percentText(fraction) {
  if (!Number.isFinite(fraction)) return "–";
  const percent = fraction * 100 + 0;
  const size = Math.abs(percent);
  return `${percent.toFixed(size >= 0.005 && size < 0.95 ? 2 : 1)}%`;
}
const count = (n) => n.toLocaleString("en");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
