// Building elements. Names come from problem files that anyone may have written: they are set as text and
// never as markup.
function put(parent, tag, attributes = {}, ...children) {
  const isSvg = tag === "svg" || parent.namespaceURI === "http://www.w3.org/2000/svg";
  const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") node.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children);
  parent.append(node);
  return node;
}
const byId = (id) => document.getElementById(id);

function name(parent, text) {
  return put(parent, "bdi", { title: text }, text);
}

// A square of a category's colour, hatched where its picture is.
function swatch(parent, category) {
  const svg = put(parent, "svg", { class: "swatch", viewBox: "0 0 12 12", "aria-hidden": "true" });
  put(svg, "rect", { width: 12, height: 12, class: `k${category}` });
  if (category === RECOMPUTED) put(svg, "rect", { width: 12, height: 12, class: "kh" });
}

// Round numbers from `low` to `high`, about `wanted` of them, in units of 1, 2 or 5.
function ticks(low, high, wanted, unit = 1) {
  const rough = (high - low) / unit / Math.max(1, wanted);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough * 0.999) * power * unit;
  const list = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + step * 1e-9; x += step) list.push(x);
  return list;
}
function byteTicks(low, high, wanted) {
  const unit = 1024 ** Math.max(0, Math.min(5, Math.floor(Math.log(Math.max(1, high)) / Math.log(1024))));
  const list = ticks(low, high, wanted, unit).map((x) => [x, x === 0 ? "0" : short(bytesText(x))]);
  return list.filter(([, label], i) => i === 0 || label !== list[i - 1][1]);
}
// Without zeros that say nothing: 1.50 MiB is 1.5 MiB.
const short = (text) => text.replace(/(\.\d*?)0+( |$)/, "$1$2").replace(/\.( |$)/, "$1");
function timeTicks(low, high, wanted) {
  const step = (high - low) / Math.max(1, wanted);
  const unit = high >= 1e9 ? [1e9, "s"] : high >= 1e6 ? [1e6, "ms"] : high >= 1e3 ? [1e3, "µs"] : [1, "ns"];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / unit[0])));
  return ticks(low, high, wanted).map((x) => [x, x === 0 ? "0" : `${(x / unit[0]).toFixed(digits)} ${unit[1]}`]);
}

const stepTicks = (low, high, wanted) => ticks(low, high, wanted).filter(Number.isInteger).map((x) => [x, count(x)]);

// A stair through `heights`, one a column of `width` pixels from `x0` on, and back through `floors`.
function band(heights, floors, x0, width) {
  let path = "";
  const n = heights.length;
  for (let i = 0; i < n; i++) {
    if (i === 0) path += `M${x0} ${heights[0].toFixed(1)}`;
    else if (heights[i] !== heights[i - 1]) path += `H${(x0 + i * width).toFixed(1)}V${heights[i].toFixed(1)}`;
  }
  path += `H${(x0 + n * width).toFixed(1)}V${floors[n - 1].toFixed(1)}`;
  for (let i = n - 2; i >= 0; i--) {
    if (floors[i] !== floors[i + 1]) path += `H${(x0 + (i + 1) * width).toFixed(1)}V${floors[i].toFixed(1)}`;
  }
  return `${path}H${x0}Z`;
}
