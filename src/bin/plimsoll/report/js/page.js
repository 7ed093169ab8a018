// The page as a whole: which plan is shown, figures, colours.
function choose(v) {
  view.value = view.value === v ? -1 : v;
  drawMemory();
  fillValues();
}

// Of the values that are not resident, the largest one that is recomputed or offloaded, or else the largest.
function telling(plan) {
  const made = plan.largest.filter(([v]) => values.by[v] >= 0);
  const row = made.find(([, runs, offloads]) => runs > 1 || offloads > 0) || made[0];
  return row ? row[0] : -1;
}

function show(index) {
  const plan = planAt(index);
  Object.assign(view, { index, plan, step: plan.peak_step, value: telling(plan) });
  layOut();
  document.querySelectorAll("#plans input").forEach((input, i) => { input.checked = i === index; });
  byId("plot").setAttribute("aria-valuemin", 0);
  byId("plot").setAttribute("aria-valuemax", Math.max(0, plan.n - 1));
  fillFigures(plan);
  drawMemory();
  fillCompared();
  drawCurve();
  fillValues();
}

function fillFigures(plan) {
  const box = byId("figures");
  box.replaceChildren();
  const base = DATA.plans.find((p) => p.baseline);
  const figure = (label, text, ...small) => {
    const cell = put(box, "div");
    put(cell, "dt", {}, label);
    put(put(cell, "dd", {}, text), "small", {}, small.filter(Boolean).join(", "));
  };
  figure("Peak", bytesText(plan.peak), plan.baseline ? "everything kept" : `${percentText(plan.peak / base.peak)} of everything kept`);
  if (!plan.baseline) {
    figure("Budget", plan.budget === null ? "unlimited" : bytesText(plan.budget), plan.budget === null ? "" : `${bytesText(plan.budget - plan.peak)} to spare`);
  }
  figure("Time", timeText(plan.time), plan.baseline ? "" : `${plan.overhead < 0 ? "" : "+"}${percentText(plan.overhead)}`);
  let again = 0, spent = 0, offloads = 0;
  for (let i = 0; i < plan.n; i++) {
    if (plan.steps[i] === "r") { again++; spent += ops.time[plan.what[i]]; }
    if (plan.steps[i] === "o") offloads++;
  }
  figure("Recomputed", plural(again, "op"), again ? `${timeText(spent)}` : "each op runs once");
  if (offloads) figure("Offloaded", plural(offloads, "value"), `at most ${bytesText(plan.host_peak)} on the host`);
  if (plan.bound !== null) {
    const gap = Math.max(0, plan.overhead - plan.bound);
    figure("Room for better", percentText(gap), plan.status);
  }
  byId("note").textContent = plan.note;
  byId("note").hidden = !plan.note;
}

function listPlans() {
  const box = byId("plans");
  DATA.plans.forEach((plan, index) => {
    const label = put(box, "label");
    const input = put(label, "input", { type: "radio", name: "plan", value: index });
    input.addEventListener("change", () => show(index));
    name(label, plan.label);
  });
}

// As the system has it, light, dark; remembered where the browser lets a page remember.
function listenToTheme() {
  const themes = ["", "light", "dark"], names = { "": "System colours", light: "Light", dark: "Dark" };
  const stored = () => { try { return localStorage.getItem("plimsoll-theme") || ""; } catch { return ""; } };
  const button = byId("theme");
  const set = (theme) => {
    if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
    button.textContent = names[theme];
    button.setAttribute("aria-label", `Colours: ${names[theme]}. Change`);
    try { localStorage.setItem("plimsoll-theme", theme); } catch { /* not remembered */ }
  };
  let now = themes.includes(stored()) ? stored() : "";
  button.addEventListener("click", () => { now = themes[(themes.indexOf(now) + 1) % themes.length]; set(now); });
  set(now);
}

function begin() {
  const about = [plural(ops.time.length, "op"), plural(values.name.length, "value"), `${bytesText(DATA.resident)} resident`];
  byId("about").textContent = about.join(" · ");
  if (DATA.device) put(byId("about"), "bdi", {}, ` · ${DATA.device}`);
  byId("roles").textContent = DATA.about;
  byId("footer").textContent = `plimsoll ${DATA.version} · graph ${DATA.fingerprint}`;
  listPlans();
  listenToTheme();
  byId("more").addEventListener("click", () => { order.all = !order.all; fillValues(); });
  show(0);
  listen();
  new ResizeObserver(() => { if (curveWidth() !== curve.width) drawCurve(); }).observe(byId("curve").parentNode);
}
begin();
