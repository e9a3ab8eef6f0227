// All methods of a forget set as points: average gap against cost, both on logarithmic axes.

const COST_TITLES = { gradient_steps: "gradient steps", seconds: "seconds", images: "images seen" };

function drawCosts(host, board, state, choose) {
  const cost = (entry) => (entry.costs[state.cost] ? entry.costs[state.cost][0] : null);
  const entries = board.entries.filter((entry) => isMethod(entry) && entry.avgGap && cost(entry) !== null);
  if (!entries.length) return host.replaceChildren(el("p", {}, "No method has both an AvgGap and this cost."));
  const { root, plot } = canvas(
    host,
    Math.min(460, Math.max(330, host.clientWidth * 0.62)),
    { left: 56, right: 14, top: 12, bottom: 46 },
    `Average gap against ${COST_TITLES[state.cost]}, a mark for each method`,
  );
  const lines = costLines(board, state.cost);
  const positive = [...entries.map(cost), ...lines.vertical.map(({ value }) => value)].filter((value) => value > 0);
  const free = entries.some((entry) => cost(entry) <= 0);
  const x = costScale(positive, free, plot);
  const gaps = [...entries.map((entry) => entry.avgGap[0]), ...lines.horizontal.map(({ value }) => value)];
  const above = gaps.filter((value) => value > 0);
  const y = logarithmic(above.length ? [Math.min(...above) / 1.25, Math.max(...above) * 1.25] : [0.1, 10], [
    plot.bottom,
    plot.top,
  ]);
  axisX(root, plot, x, COST_TITLES[state.cost], plot.right / 60, compact);
  axisY(root, plot, y, "AvgGap, points", 8);
  if (free) root.append(text(x(0), plot.bottom + 16, "0", { "text-anchor": "middle" }));
  drawCostLines(root, plot, x, y, lines);
  root.append(
    svg("rect", {
      x: plot.left,
      y: plot.top,
      width: plot.right - plot.left,
      height: plot.bottom - plot.top,
      class: "frame",
    }),
  );
  const points = [...entries]
    .sort((a, b) => weight(a, state) - weight(b, state))
    .map((entry) => ({
      x: x(cost(entry)),
      y: y(Math.max(entry.avgGap[0], y.domain[0])),
      entry,
      name: entry.method,
      look: appearance(entry, entry.method === state.method),
      must: entry.method === state.method,
    }));
  for (const { x: left, y: top, look, entry } of points) {
    root.append(choosing(hinted(marker(left, top, look), costTold(entry, state.cost)), entry.method, choose));
  }
  placeLabels(root, plot, points.reverse());
  legend(host, [...kindsLegend(entries, state.method), ...lines.legend]);
}

// No step at all has no place on a logarithmic axis, so it gets one of its own to the left.
function costScale(positive, free, plot) {
  const from = plot.left + (free ? 44 : 0);
  const span = positive.length ? [Math.min(...positive) / 1.4, Math.max(...positive) * 1.4] : [1, 10];
  const inner = logarithmic(span, [from, plot.right]);
  return Object.assign((value) => (value > 0 ? inner(value) : plot.left + 18), {
    domain: inner.domain,
    ticks: inner.ticks,
  });
}

function costTold(entry, name) {
  const [mean, deviation, relative] = entry.costs[name];
  const share = relative === null ? "" : `, ${short(100 * relative)} % of retraining`;
  return `${told(entry)}\n${COST_TITLES[name]}: ${withDeviation([mean, deviation])}${share}`;
}

function costLines(board, name) {
  const [original, retrained] = ["original", "retrained"].map((kind) =>
    board.entries.find((entry) => entry.kind === kind),
  );
  const vertical = retrained && retrained.costs[name] ? [{ value: retrained.costs[name][0], kind: "retrained" }] : [];
  const horizontal = [];
  if (original && original.avgGap) horizontal.push({ value: original.avgGap[0], kind: "original" });
  const words = [];
  if (vertical.length) words.push([line(0, -8, 0, 8, "reference stroked retrained"), "cost of retraining"]);
  if (horizontal.length) words.push([line(-11, 0, 11, 0, "reference stroked original"), "AvgGap of the original"]);
  if (board.floor) {
    horizontal.push({ value: board.floor, kind: "floor" });
    words.push([svg("rect", { x: -9, y: -5, width: 18, height: 10, class: "band" }), "below the noise floor"]);
  }
  return { vertical, horizontal, legend: words };
}

function drawCostLines(root, plot, x, y, { vertical, horizontal }) {
  for (const { value, kind } of horizontal) {
    const height = y(value);
    if (kind === "floor") {
      root.append(
        svg("rect", {
          x: plot.left,
          y: height,
          width: plot.right - plot.left,
          height: plot.bottom - height,
          class: "band",
        }),
      );
    } else root.append(line(plot.left, height, plot.right, height, `reference stroked ${kind}`));
  }
  for (const { value, kind } of vertical)
    root.append(line(x(value), plot.top, x(value), plot.bottom, `reference stroked ${kind}`));
}
