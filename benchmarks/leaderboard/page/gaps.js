// Signed gaps to the retrained models: a bar for each method in each of the four figures that AvgGap is made of.

const GAPS = [
  { name: "forget_top1", title: "forget accuracy", scale: 1 },
  { name: "retain_top1", title: "retain accuracy", scale: 1 },
  { name: "test_top1", title: "test accuracy", scale: 1 },
  { name: "mia_auc", title: "MIA AUC", scale: 100 },
];

const ROW = 20;

function drawGaps(host, board, state, choose) {
  const entries = board.entries.filter(
    (entry) => entry.kind !== "retrained" && GAPS.some((gap) => gapOf(entry, gap) !== null),
  );
  if (!entries.length) return host.replaceChildren(el("p", {}, "No cell has a retrained model to be compared with."));
  const wide = host.clientWidth >= 760;
  const perLine = wide ? 4 : 2;
  const names = wide ? 180 : 104;
  const blockHeight = entries.length * ROW + 64;
  const { root, width } = canvas(
    host,
    blockHeight * (GAPS.length / perLine),
    { left: 0, right: 0, top: 0, bottom: 0 },
    "Signed gap of each method to the retrained models, four figures",
  );
  const facetWidth = (width - names) / perLine;
  GAPS.forEach((gap, index) => {
    const left = names + (index % perLine) * facetWidth;
    const top = Math.floor(index / perLine) * blockHeight + 24;
    const plot = { left: left + 8, right: left + facetWidth - 8, top, bottom: top + entries.length * ROW };
    if (index % perLine === 0) gapNames(root, entries, names, top, width, state, choose);
    drawFacet(root, plot, entries, gap, board.floors[gap.name], state, choose);
  });
  const items = [...kindsLegend(entries, state.method).map(([mark, words]) => [asBar(mark), words])];
  if (Object.keys(board.floors).length) {
    items.push([svg("rect", { x: -9, y: -6, width: 18, height: 12, class: "band" }), "noise floor of this figure"]);
  }
  legend(host, items);
}

function asBar(mark) {
  const name = mark.getAttribute("class").replace("mark-shape ", "");
  return svg("rect", { x: -9, y: -4, width: 18, height: 8, class: `mark-shape ${name}` });
}

const gapOf = (entry, gap) => {
  const found = figure(entry, gap.name);
  return found && found[2] !== null ? found[2] * gap.scale : null;
};

function gapNames(root, entries, width, top, whole, state, choose) {
  entries.forEach((entry, index) => {
    const y = top + index * ROW;
    if (index % 2) root.append(svg("rect", { x: 0, y, width: whole, height: ROW, class: "stripe" }));
    const look = appearance(entry, entry.method === state.method);
    const node = text(0, y + 14, entry.method, {
      class: `filled ${isMethod(entry) && look.name !== "chosen" ? "label" : look.name}`,
    });
    root.append(node);
    let name = entry.method;
    while (name && node.getComputedTextLength() > width - 6) {
      name = name.slice(0, -1);
      node.textContent = `${name}…`;
    }
    node.append(svg("title", {}, entry.method));
    if (isMethod(entry)) node.addEventListener("click", () => choose(entry.method));
  });
}

// As far as methods within the budget and the noise floor reach; or as all reach, if that is no more than twice as far.
function facetReach(entries, gap, floor) {
  const size = (list) => Math.max(0, ...list.map((entry) => Math.abs(gapOf(entry, gap) || 0)));
  const all = size(entries);
  const inner = Math.max(
    size(entries.filter((entry) => entry.within || !isMethod(entry))),
    2 * (floor || 0) * gap.scale,
  );
  return (inner > 0 && all > 2 * inner ? inner * 1.3 : Math.max(all, inner)) || 1;
}

function drawFacet(root, plot, entries, gap, floor, state, choose) {
  const reach = facetReach(entries, gap, floor);
  const x = linear([-reach * 1.08, reach * 1.08], [plot.left, plot.right]);
  if (plot.right - plot.left < 200) x.ticks = () => threeTicks(reach);
  const noise = (floor || 0) * gap.scale;
  if (noise)
    root.append(
      svg("rect", {
        x: x(-noise),
        y: plot.top,
        width: x(noise) - x(-noise),
        height: plot.bottom - plot.top,
        class: "band",
      }),
    );
  root.append(text((plot.left + plot.right) / 2, plot.top - 9, gap.title, { "text-anchor": "middle", class: "head" }));
  const title = gap.scale === 1 ? "gap, points" : `gap × ${gap.scale}, points`;
  axisX(root, plot, x, title, Math.max(2, (plot.right - plot.left) / 55), signed);
  root.append(line(x(0), plot.top, x(0), plot.bottom, "zero"));
  entries.forEach((entry, index) => {
    const value = gapOf(entry, gap);
    if (value !== null) root.append(...gapBar(plot, x, plot.top + index * ROW, entry, gap, value, state, choose));
  });
}

// Where there is no room for more: zero, and the roundest number on either side of it.
function threeTicks(reach) {
  const power = 10 ** Math.floor(Math.log10(reach));
  const step = +([5, 2, 1].find((factor) => factor * power <= reach) * power).toPrecision(3);
  return [-step, 0, step];
}

// A bar that is cut off ends in its number.
function gapBar(plot, x, top, entry, gap, value, state, choose) {
  const look = appearance(entry, isMethod(entry) && entry.method === state.method);
  const [low, high] = x.domain;
  const cut = value < low || value > high;
  const end = x(Math.min(Math.max(value, low), high));
  const bar = svg("rect", {
    x: Math.min(x(0), end),
    y: top + 3,
    width: Math.max(Math.abs(end - x(0)), 1.5),
    height: ROW - 6,
    class: `mark-shape ${look.name}${look.hollow ? " hollow" : ""}`,
  });
  const whole = withDeviation(figure(entry, gap.name), gap.scale === 1 ? 2 : 3);
  const words = `${entry.method}\n${gap.title}: ${whole}\ngap ${signed(value, 2)} points`;
  hinted(bar, words);
  if (isMethod(entry)) choosing(bar, entry.method, choose);
  if (!cut) return [bar];
  const anchor = value < 0 ? "start" : "end";
  const number = value < 0 ? `◂ ${signed(value)}` : `${signed(value)} ▸`;
  return [bar, text(end + (value < 0 ? 4 : -4), top + 13.5, number, { "text-anchor": anchor, class: "label cut" })];
}
