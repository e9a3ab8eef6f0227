// Elements, scales, axes, hints and labels: what all charts are made of. Text from data is only ever set as text.

const DASH = "–";
const SVG = document.getElementById("drawn").namespaceURI;

function build(namespace, name, attributes, children) {
  const node = namespace ? document.createElementNS(namespace, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const el = (name, attributes, ...children) => build(null, name, attributes, children);
const svg = (name, attributes, ...children) => build(SVG, name, attributes, children);

// A number for readers, with as many digits after its point as are asked for, or else four significant ones at most.
function short(value, digits) {
  if (value === null || value === undefined) return DASH;
  const size = Math.abs(value);
  const most = digits ?? (size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3);
  const form = { minimumFractionDigits: digits ?? 0, maximumFractionDigits: most };
  return value.toLocaleString("en", form).replace("-", "−");
}

function signed(value, digits) {
  return value === null || value === undefined ? DASH : (value > 0 ? "+" : "") + short(value, digits);
}

function withDeviation(pair, digits) {
  if (!pair) return DASH;
  return pair[1] ? `${short(pair[0], digits)} ± ${short(pair[1], digits)}` : short(pair[0], digits);
}

// Names may be as long as paths; all of it stands in the table and in hints.
const clipped = (name) => (name.length > 28 ? `${name.slice(0, 27)}…` : name);

// 15K for an axis where numbers stand close.
const compact = (value) => (value >= 1e4 ? value.toLocaleString("en", { notation: "compact" }) : short(value));

function linear([low, high], [from, to]) {
  const scale = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  return Object.assign(scale, { domain: [low, high], ticks: (count) => niceTicks(low, high, count) });
}

function logarithmic([low, high], range) {
  const inner = linear([Math.log10(low), Math.log10(high)], range);
  const scale = (value) => inner(Math.log10(value));
  return Object.assign(scale, { domain: [low, high], ticks: (count) => logTicks(low, high, count) });
}

function niceTicks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => +((first + index) * step).toPrecision(10));
}

// 1, 2 and 5 of each power of ten where there is room, else powers of ten alone, else every second one.
function logTicks(low, high, count) {
  const powers = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) powers.push(power);
  const inside = (value) => value >= low * 0.999 && value <= high * 1.001;
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const found = powers
      .flatMap((power) => factors.map((factor) => +(factor * 10 ** power).toPrecision(6)))
      .filter(inside);
    if (found.length <= count) return found;
  }
  const step = Math.ceil(powers.length / count);
  return powers
    .filter((_, index) => index % step === 0)
    .map((power) => 10 ** power)
    .filter(inside);
}

function extent(values, share = 0.06, least = 1) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = Math.max((high - low) * share, (least - (high - low)) / 2, 0);
  return [low - room, high + room];
}

// An empty drawing as wide as its host; `plot` is what the axes enclose.
function canvas(host, height, margin, label) {
  const width = Math.max(host.clientWidth, 260);
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
  host.replaceChildren(root);
  const plot = { left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
  return { root, width, height, plot };
}

function text(x, y, content, attributes) {
  return svg("text", { x, y, ...attributes }, content);
}

function line(x1, y1, x2, y2, name) {
  return svg("line", { x1, y1, x2, y2, class: name });
}

function axisX(root, plot, scale, title, count, format = short) {
  for (const value of scale.ticks(count)) {
    const x = scale(value);
    root.append(line(x, plot.top, x, plot.bottom, "gridline"));
    root.append(text(x, plot.bottom + 16, format(value), { "text-anchor": "middle" }));
  }
  if (title)
    root.append(
      text((plot.left + plot.right) / 2, plot.bottom + 36, title, { "text-anchor": "middle", class: "title" }),
    );
}

function axisY(root, plot, scale, title, count, format = short) {
  for (const value of scale.ticks(count)) {
    const y = scale(value);
    root.append(line(plot.left, y, plot.right, y, "gridline"));
    root.append(text(plot.left - 7, y + 4, format(value), { "text-anchor": "end" }));
  }
  if (!title) return;
  const middle = (plot.top + plot.bottom) / 2;
  const turned = { transform: `rotate(-90 ${14} ${middle})`, "text-anchor": "middle", class: "title" };
  root.append(text(14, middle, title, turned));
}

// A hint on hover and on focus; readers of screens get it as the mark's name.
function hinted(node, content) {
  const show = () => showHint(node, content);
  for (const event of ["pointerenter", "focus"]) node.addEventListener(event, show);
  for (const event of ["pointerleave", "blur"]) node.addEventListener(event, hideHint);
  // Focus may scroll the mark into view: its hint goes with it.
  node.addEventListener("scrolled", () => (node === document.activeElement ? show() : hideHint()));
  node.setAttribute("tabindex", "0");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", content);
  return node;
}

let hintOwner = null;

function showHint(node, content) {
  const box = document.getElementById("hint");
  hintOwner = node;
  box.textContent = content;
  box.hidden = false;
  const mark = node.getBoundingClientRect();
  const { width, height } = box.getBoundingClientRect();
  const left = Math.min(
    Math.max(mark.left + mark.width / 2 - width / 2, 6),
    document.documentElement.clientWidth - width - 6,
  );
  const above = mark.top - height - 8;
  box.style.left = `${left}px`;
  box.style.top = `${above > 4 ? above : mark.bottom + 8}px`;
}

function hideHint() {
  document.getElementById("hint").hidden = true;
  hintOwner = null;
}

// A mark that chooses its method, by pointer or by Enter.
function choosing(node, method, choose) {
  node.classList.add("clickable");
  node.setAttribute("role", "button");
  node.addEventListener("click", () => choose(method));
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(method);
  });
  return node;
}

const SHAPES = {
  circle: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  square: (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  diamond: (r) => `M0 ${-1.35 * r}L${1.35 * r} 0L0 ${1.35 * r}L${-1.35 * r} 0z`,
  up: (r) => `M0 ${-r}L${r} ${r}H${-r}z`,
  down: (r) => `M0 ${r}L${r} ${-r}H${-r}z`,
  left: (r) => `M${-r} 0L${r} ${-r}V${r}z`,
  right: (r) => `M${r} 0L${-r} ${-r}V${r}z`,
};

// Colour and form tell the kinds apart, each alone: not all readers see colours alike.
function appearance(entry, chosen) {
  if (entry.kind === "original") return { name: "original", shape: "square", hollow: false };
  if (entry.kind === "retrained") return { name: "retrained", shape: "diamond", hollow: false };
  return { name: chosen ? "chosen" : entry.within ? "within" : "over", shape: "circle", hollow: !entry.within };
}

function marker(x, y, look, radius = 5.5) {
  const hollow = look.hollow ? " hollow" : "";
  return svg("path", {
    d: SHAPES[look.shape](radius),
    transform: `translate(${x} ${y})`,
    class: `mark-shape ${look.name}${hollow}`,
  });
}

const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

// Names beside their points, in the order given, where they hide neither a point nor another name; others have none.
function placeLabels(root, plot, points) {
  const taken = points.map(({ x, y }) => ({ left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 }));
  for (const { x, y, name, must } of points) {
    const node = text(0, 0, clipped(name), { class: "label" });
    root.append(node);
    const width = node.getComputedTextLength();
    const places = [
      [x + 9, y + 4],
      [x - 9 - width, y + 4],
      [x - width / 2, y - 10],
      [x - width / 2, y + 19],
      [x + 7, y - 8],
      [x + 7, y + 16],
      [x - 7 - width, y - 8],
      [x - 7 - width, y + 16],
    ];
    const boxes = places.map(([left, base]) => ({ left, right: left + width, top: base - 10, bottom: base + 3, base }));
    const inside = boxes.filter(
      (box) => box.left >= plot.left && box.right <= plot.right && box.top >= plot.top && box.bottom <= plot.bottom,
    );
    const hidden = (candidate) => taken.filter((other) => overlap(candidate, other)).length;
    const box = inside.sort((a, b) => hidden(a) - hidden(b))[0];
    if (!box || (hidden(box) && !must)) {
      node.remove();
      continue;
    }
    node.setAttribute("x", box.left);
    node.setAttribute("y", box.base);
    taken.push(box);
  }
}

function legend(host, items) {
  const lines = items.map(([drawing, words]) =>
    el("li", {}, svg("svg", { width: 22, height: 16, viewBox: "-11 -8 22 16", "aria-hidden": "true" }, drawing), words),
  );
  host.append(el("ul", { class: "legend" }, ...lines));
}
