// The method that was chosen: its losses beside those of the references, its constraint and multiplier, its figures.

function drawLosses(host, entry) {
  const note = document.getElementById("losses-note");
  const histograms = entry && entry.histograms;
  note.textContent = histograms ? `seed ${entry.shownSeed}` : "";
  if (!histograms || !histograms.edges)
    return host.replaceChildren(el("p", {}, "No losses were kept for this method."));
  const shown = [
    ["original", "original"],
    ["unlearned", entry.method],
    ["retrained", "retrained"],
  ].filter(([name]) => histograms[name]);
  const values = shown.flatMap(([name]) => Object.values(histograms[name]).flat()).filter((value) => value !== null);
  const side = host.clientWidth >= 700;
  const panel = side ? host.clientWidth / shown.length : host.clientWidth;
  const height = 220;
  const { root } = canvas(
    host,
    side ? height : height * shown.length,
    { left: 0, right: 0, top: 0, bottom: 0 },
    "Histograms of the loss of each image, forget set and test set",
  );
  shown.forEach(([name, title], index) => {
    const left = side ? index * panel : 0;
    const top = (side ? 0 : index * height) + 24;
    const plot = { left: left + 46, right: left + panel - 10, top, bottom: top + height - 70 };
    drawHistogram(root, plot, histograms.edges, histograms[name], title, Math.max(...values), name);
  });
  legend(host, [
    [svg("rect", { x: -9, y: -6, width: 18, height: 12, class: "forget-area" }), "forget set, given labels"],
    [svg("path", { d: "M-10 6V-2H-3V-6H4V3H10", class: "test-area" }), "test set"],
  ]);
}

function drawHistogram(root, plot, edges, parts, title, highest, name) {
  const bins = edges.length - 1;
  const at = linear([0, bins], [plot.left, plot.right]);
  // Bins are equally wide on a logarithmic axis; a first edge of zero has no place on it, but its bin has.
  const x = Object.assign((value) => at(edgeIndex(edges, value)), { ticks: () => decades(edges) });
  const y = linear([0, highest * 1.05 || 1], [plot.bottom, plot.top]);
  root.append(
    text((plot.left + plot.right) / 2, plot.top - 9, clipped(title), {
      "text-anchor": "middle",
      class: `head ${name}`,
    }),
  );
  axisX(root, plot, x, "cross-entropy of an image (log axis)", 6, (value) => String(+value.toPrecision(1)));
  axisY(root, plot, y, "", 5, (value) => `${short(value)} %`);
  for (const part of ["forget", "test"]) {
    const shares = parts[part];
    if (!shares) continue;
    const steps = shares.map((share, bin) => `V${y(share || 0)}H${at(bin + 1)}`).join("");
    root.append(svg("path", { d: `M${at(0)} ${plot.bottom}${steps}V${plot.bottom}z`, class: `${part}-area` }));
  }
  root.append(line(plot.left, plot.bottom, plot.right, plot.bottom, "zero"));
}

function edgeIndex(edges, value) {
  const bin = edges.findIndex((edge) => edge > value) - 1;
  if (bin < 0) return value <= edges[0] ? 0 : edges.length - 1;
  const low = Math.max(edges[bin], edges[bin + 1] / 1e3);
  return bin + (Math.log(value) - Math.log(low)) / (Math.log(edges[bin + 1]) - Math.log(low));
}

function decades(edges) {
  const low = edges.find((edge) => edge > 0);
  const all = logTicks(low, edges[edges.length - 1], 1e3).filter((value) =>
    Number.isInteger(Math.round(Math.log10(value) * 1e6) / 1e6),
  );
  const step = Math.ceil(all.length / 6);
  return all.filter((_, index) => index % step === 0);
}

function drawTrace(host, board, entry, choose) {
  const note = document.getElementById("trace-note");
  const trace = entry && entry.trace;
  note.textContent = trace ? `seed ${entry.shownSeed}` : "";
  if (!trace || !trace.step) return host.replaceChildren(...otherTraces(board, entry, choose));
  const panels = [
    ["violation", "violation (satisfied at or below 0)"],
    ["multiplier", "multiplier"],
  ].filter(([name]) => trace[name] && trace[name].some((value) => value !== null));
  const side = host.clientWidth >= 700 && panels.length > 1;
  const panel = side ? host.clientWidth / 2 : host.clientWidth;
  const height = 230;
  const { root } = canvas(
    host,
    side ? height : height * panels.length,
    { left: 0, right: 0, top: 0, bottom: 0 },
    "Violation of the constraint and its multiplier at each step",
  );
  panels.forEach(([name, title], index) => {
    const left = side ? index * panel : 0;
    const top = (side ? 0 : index * height) + 24;
    drawCurve(root, { left: left + 56, right: left + panel - 14, top, bottom: top + height - 72 }, trace, name, title);
  });
  return undefined;
}

function drawCurve(root, plot, trace, name, title) {
  const known = trace[name].map((value, index) => [trace.step[index], value]).filter(([, value]) => value !== null);
  const x = linear([Math.min(...trace.step), Math.max(...trace.step)], [plot.left, plot.right]);
  const y = linear(extent([0, ...known.map(([, value]) => value)], 0.06, 1e-6), [plot.bottom, plot.top]);
  axisX(root, plot, x, "gradient step", Math.max(3, (plot.right - plot.left) / 80));
  axisY(root, plot, y, "", 5);
  root.append(text(plot.left, plot.top - 9, title, { class: "head" }));
  root.append(line(plot.left, y(0), plot.right, y(0), "budget"));
  // A value that is missing breaks the line.
  let pen = "M";
  const path = trace[name].map((value, index) => {
    const command = value === null || value === undefined ? "" : `${pen}${x(trace.step[index])} ${y(value)}`;
    pen = command ? "L" : "M";
    return command;
  });
  root.append(svg("g", { class: name }, svg("path", { d: path.join(""), class: "curve" })));
}

function otherTraces(board, entry, choose) {
  const others = board.entries.filter((other) => other.trace && other.trace.step);
  const words = `${entry ? entry.method : "This method"} has no constraint that was recorded.`;
  if (!others.length) return [el("p", {}, words)];
  const buttons = others.map((other) => {
    const button = el("button", { type: "button", class: "other" }, other.method);
    button.addEventListener("click", () => choose(other.method));
    return button;
  });
  return [el("p", {}, `${words} Those that have one: `, ...buttons)];
}

function drawDetails(host, data, board, entry) {
  if (!entry) return host.replaceChildren();
  const [original, retrained] = ["original", "retrained"].map((kind) =>
    board.entries.find((other) => other.kind === kind),
  );
  const rows = Object.entries(entry.figures).map(([name, own]) => {
    const fixed = (pair) => withDeviation(pair, data.digits[name]);
    const cells = [
      fixed(own),
      signed(own[2], data.digits[name]),
      own[3] || DASH,
      ...[original, retrained].map((other) => fixed(other && other.figures[name])),
    ];
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, data.titles[name] || name),
      ...cells.map((cell) => el("td", {}, cell)),
    );
  });
  const heads = ["figure", entry.method, "gap", "inside band", "original", "retrained"];
  const table = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", { class: "methods" }, ...rows),
  );
  return host.replaceChildren(
    el(
      "div",
      {},
      el("h3", {}, "All figures"),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All figures of the method" }, table),
    ),
    el(
      "div",
      {},
      el("h3", {}, "Costs"),
      costList(entry),
      el("h3", { class: "later" }, "Flags"),
      flagList(entry),
      el("details", {}, el("summary", {}, "Flags that all methods share"), pairs(namedFlags(data.flags))),
    ),
  );
}

function costList(entry) {
  const { peak_memory_bytes: memory, ...costs } = entry.costs;
  const share = (relative) => (relative === null ? "" : ` (${short(100 * relative)} % of retraining)`);
  const items = Object.entries(costs).map(([name, pair]) => [COST_TITLES[name], withDeviation(pair) + share(pair[2])]);
  if (memory) items.push(["peak memory, MiB", short(memory[0] / 2 ** 20) + share(memory[2])]);
  return pairs(items);
}

function flagList(entry) {
  return pairs([
    ["seeds", entry.seeds.join(", ")],
    ["within budget", entry.kept[1] ? entry.kept.join(" of ") : DASH],
    ...namedFlags(entry.flags),
  ]);
}

const namedFlags = (values) => Object.entries(values).map(([name, value]) => [`--${name}`, value]);

function pairs(items) {
  if (!items.length) return el("p", {}, DASH);
  return el("dl", {}, ...items.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
