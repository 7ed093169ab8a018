// What is live at the step looked at.
function inspect() {
  const { plan, step } = view;
  const { start, stop } = plan.clock;
  const box = byId("inspector");
  box.replaceChildren();
  const when = isCompute(plan, step)
    ? `${PHASES[ops.phase[plan.what[step]]]}, ${timeText(stop[step] - start[step])} from ${timeText(start[step])}`
    : `at ${timeText(start[step])}`;
  put(box, "p", { class: "muted" }, `Step ${count(step)} of ${count(plan.n)} · ${when}`);
  put(put(box, "p", { class: "does" }), "bdi", {}, does(plan, step));
  const live = bytesText(plan.total[step]);
  put(box, "p", { class: "live" }, `${live} live`);
  const left = plan.budget === null ? "" : `${bytesText(plan.budget - plan.total[step])} below the budget`;
  const peak = plan.total[step] === plan.peak ? "the peak" : "";
  put(box, "p", { class: "muted" }, [peak, left].filter(Boolean).join(", ") || `${percentText(plan.total[step] / plan.peak)} of the peak`);
  put(box, "h3", {}, "What for");
  const what = put(box, "ul");
  for (const k of [...plan.used].reverse()) {
    const bytes = plan.level[k][step];
    const row = put(what, "li", { class: bytes ? "category" : "category none" });
    swatch(row, k);
    put(row, "span", {}, CATEGORIES[k]);
    put(row, "span", {}, bytes ? bytesText(bytes) : "–");
  }
  const { all, largest } = liveAt(plan, step, 6);
  put(box, "h3", {}, all > 6 ? `The largest of ${count(all)} live buffers` : "Live buffers");
  const list = put(box, "ul", { id: "live" });
  for (const i of largest) {
    const v = plan.life.value[i];
    const row = put(list, "li");
    swatch(row, plan.life.category[i]);
    valueButton(row, v);
    put(row, "span", {}, bytesText(plan.life.bytes[i]));
  }
  const names = largest.slice(0, 3).map((i) => valueName(plan.life.value[i])).join(", ");
  const plot = byId("plot");
  plot.setAttribute("aria-valuenow", step);
  plot.setAttribute("aria-valuetext", `Step ${step} of ${plan.n}: ${does(plan, step)}, ${live} live. Largest: ${names}`);
}

// A button that shows a value's lives below the lanes.
function valueButton(parent, v) {
  const button = put(parent, "button", { type: "button", class: "link", "aria-pressed": v === view.value, title: `${valueName(v)}: show when it lives`, onclick: () => choose(v) });
  put(button, "bdi", {}, valueName(v));
}
