// All methods of a forget set as points: forget against retain accuracy. What other charts of methods need, too.

const figure = (entry, name) => entry.figures[name] || null;
const isMethod = (entry) => entry.kind === "method";

function told(entry) {
  const lines = [entry.method + (entry.label ? ` (${entry.label})` : "")];
  for (const [name, title] of [
    ["forget_top1", "forget"],
    ["retain_top1", "retain"],
    ["test_top1", "test"],
  ]) {
    if (figure(entry, name)) lines.push(`${title} ${withDeviation(figure(entry, name), 2)} %`);
  }
  if (figure(entry, "mia_auc")) lines.push(`MIA AUC ${withDeviation(figure(entry, "mia_auc"), 3)}`);
  const gap = entry.kind === "retrained" ? "noise floor" : "AvgGap";
  if (entry.avgGap) lines.push(`${gap} ${withDeviation(entry.avgGap, 2)} points`);
  lines.push(`n = ${entry.seeds.length}`);
  return lines.join("\n");
}

function kindsLegend(entries, chosen) {
  const kinds = [
    [isMethod, "method within the budget", { name: "within", shape: "circle", hollow: false }, (e) => e.within],
    [isMethod, "method not within it in every seed", { name: "over", shape: "circle", hollow: true }, (e) => !e.within],
    [isMethod, "method chosen below", { name: "chosen", shape: "circle", hollow: false }, (e) => e.method === chosen],
    [(e) => e.kind === "original", "original", { name: "original", shape: "square" }, () => true],
    [(e) => e.kind === "retrained", "retrained", { name: "retrained", shape: "diamond" }, () => true],
  ];
  return kinds
    .filter(([first, , , second]) => entries.some((entry) => first(entry) && second(entry)))
    .map(([, words, look]) => [marker(0, 0, look), words]);
}

// Values that a scale must show: those of references and of methods within the budget. Others stretch it only a little
// and else stand at its edge, so that one method that broke everything does not press all others into a corner.
function core(entries, read, everything) {
  const bounds = (entry) => {
    const pair = read(entry);
    return pair ? [pair[0] - (pair[1] || 0), pair[0] + (pair[1] || 0)] : [];
  };
  const all = entries.flatMap(bounds);
  const inner = entries.filter((entry) => !isMethod(entry) || entry.within).flatMap(bounds);
  if (everything || inner.length < 2) return all;
  const [low, high] = extent(inner, 0.5, 2);
  return [...inner, ...all.filter((value) => value >= low && value <= high)];
}

function budgetLevels(board) {
  const original = board.entries.find((entry) => entry.kind === "original");
  const retain = original && figure(original, "retain_top1");
  return retain ? board.budgets.map((budget) => ({ budget, level: retain[0] - budget })) : [];
}

function drawScatter(host, board, state, choose) {
  const entries = board.entries.filter((entry) => figure(entry, "forget_top1") && figure(entry, "retain_top1"));
  if (!entries.length) return host.replaceChildren(el("p", {}, "No cell has both accuracies."));
  const { root, plot } = canvas(
    host,
    Math.min(460, Math.max(330, host.clientWidth * 0.62)),
    { left: 56, right: 14, top: 12, bottom: 46 },
    "Forget accuracy against retain accuracy, a mark for each method",
  );
  const { forget_top1: bandX = [], retain_top1: bandY = [] } = board.bands;
  const levels = budgetLevels(board);
  const everything = state.zoom === "all";
  const spanX = extent([...core(entries, (entry) => figure(entry, "forget_top1"), everything), ...bandX]);
  const spanY = extent([
    ...core(entries, (entry) => figure(entry, "retain_top1"), everything),
    ...bandY,
    ...levels.map(({ level }) => level),
  ]);
  const x = linear(spanX, [plot.left, plot.right]);
  const y = linear(spanY, [plot.bottom, plot.top]);
  axisX(root, plot, x, "forget accuracy, % (given labels)", Math.max(4, plot.right / 90));
  axisY(root, plot, y, "retain accuracy, %", 6);
  if (bandX.length && bandY.length) root.append(bandRectangle(x, y, bandX, bandY));
  for (const { level } of levels) root.append(line(plot.left, y(level), plot.right, y(level), "budget"));
  root.append(
    svg("rect", {
      x: plot.left,
      y: plot.top,
      width: plot.right - plot.left,
      height: plot.bottom - plot.top,
      class: "frame",
    }),
  );
  const beyond = drawPoints(root, plot, entries, { x, y, readX: "forget_top1", readY: "retain_top1" }, state, choose);
  const items = kindsLegend(entries, state.method);
  if (bandX.length)
    items.push([
      svg("rect", { x: -9, y: -6, width: 18, height: 12, class: "band" }),
      `lowest to highest of ${board.retrained} retrained models`,
    ]);
  for (const { budget } of levels)
    items.push([line(-11, 0, 11, 0, "budget"), `retain budget, ${short(budget)} points below the original`]);
  if (beyond) items.push([marker(0, 0, { name: "over", shape: "left", hollow: true }, 4.5), "lies beyond the edge"]);
  legend(host, items);
}

function bandRectangle(x, y, bandX, bandY) {
  // A band of no width is still seen.
  const width = Math.max(x(bandX[1]) - x(bandX[0]), 4);
  const height = Math.max(y(bandY[0]) - y(bandY[1]), 4);
  const middle = [(x(bandX[0]) + x(bandX[1])) / 2, (y(bandY[0]) + y(bandY[1])) / 2];
  return svg("rect", { x: middle[0] - width / 2, y: middle[1] - height / 2, width, height, class: "band" });
}

// Chosen one last, so that it lies on top; its name is placed first. Returns whether some lie beyond the edge.
function drawPoints(root, plot, entries, { x, y, readX, readY }, state, choose) {
  const ordered = [...entries].sort((a, b) => weight(a, state) - weight(b, state));
  const points = ordered.map((entry) => {
    const [meanX, deviationX] = figure(entry, readX);
    const [meanY, deviationY] = figure(entry, readY);
    const place = pinned(plot, x(meanX), y(meanY));
    const look = { ...appearance(entry, entry.method === state.method && isMethod(entry)), ...place.edge };
    if (!place.edge) root.append(...errorBars(plot, x, y, [meanX, deviationX], [meanY, deviationY], look.name));
    return { ...place, look, entry, name: entry.method, must: look.name === "chosen" || !isMethod(entry) };
  });
  // References lie below and are larger: a method that reaches the retrained model must not hide it.
  for (const { x: left, y: top, look, entry } of [...points].sort((a, b) => isMethod(a.entry) - isMethod(b.entry))) {
    const mark = hinted(marker(left, top, look, isMethod(entry) ? 5.5 : 7), told(entry));
    root.append(isMethod(entry) ? choosing(mark, entry.method, choose) : mark);
  }
  placeLabels(root, plot, points.reverse());
  return points.some((point) => point.edge);
}

function weight(entry, state) {
  if (isMethod(entry) && entry.method === state.method) return 1000;
  if (!isMethod(entry)) return 900;
  return entry.within ? 500 - entry.rank : 0;
}

// A point beyond the edge stands at it, as an arrow.
function pinned(plot, x, y) {
  const left = Math.min(Math.max(x, plot.left + 6), plot.right - 6);
  const top = Math.min(Math.max(y, plot.top + 6), plot.bottom - 6);
  if (Math.abs(left - x) < 7 && Math.abs(top - y) < 7) return { x, y };
  const sideways = Math.abs(left - x) > Math.abs(top - y);
  const shape = sideways ? (x < left ? "left" : "right") : y < top ? "up" : "down";
  return { x: left, y: top, edge: { shape } };
}

function errorBars(plot, x, y, [meanX, deviationX], [meanY, deviationY], name) {
  const clampX = (value) => Math.min(Math.max(x(value), plot.left), plot.right);
  const clampY = (value) => Math.min(Math.max(y(value), plot.top), plot.bottom);
  const bars = [];
  if (deviationX) bars.push(line(clampX(meanX - deviationX), y(meanY), clampX(meanX + deviationX), y(meanY)));
  if (deviationY) bars.push(line(x(meanX), clampY(meanY - deviationY), x(meanX), clampY(meanY + deviationY)));
  for (const bar of bars) bar.setAttribute("class", `error stroked ${name}`);
  return bars;
}
