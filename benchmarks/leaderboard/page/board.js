// What the reader chose, kept in the address so that it can be shared, and everything that follows from it.

const data = JSON.parse(document.getElementById("data").textContent);
const sections = [...document.querySelectorAll("section.set")];
const headsOf = (section) => [...section.querySelectorAll("thead th")];
const byId = (name) => document.getElementById(name);
const DEFAULTS = {
  set: 0,
  method: "",
  sort: "rank",
  order: "ascending",
  cost: "gradient_steps",
  zoom: "core",
  columns: "",
};
let state = { ...DEFAULTS };

const board = () => data.sets[state.set];
const methodsOf = (found) => found.entries.filter(isMethod);
const chosenEntry = () => methodsOf(board()).find((entry) => entry.method === state.method);

function fromAddress() {
  const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const set = data.sets.findIndex((found) => found.name === wanted.set);
  state = { ...DEFAULTS, ...wanted, set: Math.max(set, 0) };
  if (!(state.cost in COST_TITLES)) state.cost = DEFAULTS.cost;
  chooseSome();
}

function toAddress() {
  const kept = Object.entries({ ...state, set: board().name }).filter(([name, value]) => value !== DEFAULTS[name]);
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
}

function change(part) {
  const focused = document.activeElement;
  const [chart, name] = [focused.closest(".chart"), focused.getAttribute("aria-label")];
  state = { ...state, ...part };
  chooseSome();
  toAddress();
  render();
  // Charts are drawn anew: whoever came to a mark by keyboard goes on from there.
  if (chart && name)
    [...chart.querySelectorAll("[aria-label]")].find((mark) => mark.getAttribute("aria-label") === name)?.focus();
}

function chooseSome() {
  if (!chosenEntry()) state.method = methodsOf(board()).length ? methodsOf(board())[0].method : "";
}

const choose = (method) => change({ method });

function render() {
  hideHint();
  sections.forEach((section, index) => {
    section.hidden = index !== state.set;
  });
  for (const link of document.querySelectorAll("nav a")) {
    if (+link.dataset.set === state.set) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  renderColumns();
  renderTable(sections[state.set]);
  renderCharts();
}

function renderCharts() {
  const found = board();
  const entry = chosenEntry();
  byId("zoom").textContent = state.zoom === "all" ? "Zoom in on the retrained" : "Show the whole range";
  byId("cost").value = state.cost;
  byId("method").replaceChildren(
    ...methodsOf(found).map((other) =>
      el(
        "option",
        { value: other.method, selected: other === entry ? "" : null },
        other.method + (other.label ? ` (${other.label})` : ""),
      ),
    ),
  );
  drawScatter(byId("scatter"), found, state, choose);
  drawCosts(byId("costs"), found, state, choose);
  drawGaps(byId("gaps"), found, state, choose);
  drawLosses(byId("losses"), entry);
  drawTrace(byId("trace"), found, entry, choose);
  drawDetails(byId("details"), data, found, entry);
}

function renderTable(section) {
  const heads = headsOf(section);
  const column = Math.max(
    heads.findIndex((head) => head.dataset.key === state.sort),
    0,
  );
  heads.forEach((head, index) => {
    if (index === column) head.setAttribute("aria-sort", state.order);
    else head.removeAttribute("aria-sort");
  });
  const body = section.querySelector("tbody.methods");
  body.append(
    ...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column]) || a.dataset.entry - b.dataset.entry),
  );
  for (const row of section.querySelectorAll("tbody tr")) {
    const entry = board().entries[row.dataset.entry];
    const selected = isMethod(entry) && entry.method === state.method;
    row.classList.toggle("selected", selected);
    row.querySelector("button.name")?.setAttribute("aria-pressed", String(selected));
  }
}

// What is missing stands last in either order.
function compare(a, b) {
  const sign = state.order === "descending" ? -1 : 1;
  if (state.sort === "method") return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  const [first, second] = [a, b].map((cell) => cell.dataset.value);
  if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
  return sign * (first - second);
}

// `columns` in the state names those whose showing differs from the page's own choice.
function renderColumns() {
  const changed = new Set(state.columns.split(",").filter(Boolean));
  for (const section of sections) {
    headsOf(section).forEach((head, index) => {
      if (head.dataset.shown === undefined) head.dataset.shown = head.hidden ? "" : "yes";
      const hidden = changed.has(head.dataset.key) === (head.dataset.shown === "yes");
      if (head.hidden === hidden) return;
      for (const row of section.querySelectorAll("tr")) row.cells[index].hidden = hidden;
    });
  }
  const here = new Set(headsOf(sections[state.set]).map((head) => head.dataset.key));
  for (const box of document.querySelectorAll("#columns input")) {
    box.checked = changed.has(box.value) !== (box.dataset.shown === "yes");
    box.parentElement.hidden = !here.has(box.value);
  }
}

// The columns of all tables: one that the first lacks stands behind the one that it stands behind in its own.
function allHeads() {
  const heads = [];
  for (const section of sections) {
    let place = 0;
    for (const head of headsOf(section).slice(2)) {
      const known = heads.findIndex((other) => other.dataset.key === head.dataset.key);
      if (known < 0) heads.splice(place, 0, head);
      place = (known < 0 ? place : known) + 1;
    }
  }
  return heads;
}

function setUpColumns() {
  const boxes = allHeads().map((head) => {
    const box = el("input", { type: "checkbox", value: head.dataset.key, "data-shown": head.hidden ? "" : "yes" });
    box.addEventListener("change", () => {
      const changed = new Set(state.columns.split(",").filter(Boolean));
      if (!changed.delete(box.value)) changed.add(box.value);
      change({ columns: [...changed].join(",") });
    });
    return el("label", {}, box, ` ${head.textContent}`);
  });
  document.querySelector("#columns div").append(...boxes);
}

function setUpTable(section) {
  for (const head of headsOf(section)) {
    const button = el("button", { type: "button" }, head.textContent);
    button.addEventListener("click", () => {
      const turned = state.order === "ascending" ? "descending" : "ascending";
      change({ sort: head.dataset.key, order: state.sort === head.dataset.key ? turned : head.dataset.first });
    });
    head.replaceChildren(button);
  }
  for (const row of section.querySelectorAll("tbody.methods tr")) {
    const name = row.querySelector(".name");
    const method = name.textContent;
    const button = el("button", { type: "button", class: "name" }, ...name.childNodes);
    button.addEventListener("click", () => choose(method));
    name.replaceWith(button);
  }
}

function setUp() {
  document.documentElement.classList.add("scripted");
  setUpColumns();
  sections.forEach(setUpTable);
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      change({ set: +link.dataset.set });
    });
  }
  byId("zoom").addEventListener("click", () => change({ zoom: state.zoom === "all" ? "core" : "all" }));
  byId("cost").addEventListener("change", (event) => change({ cost: event.target.value }));
  byId("method").addEventListener("change", (event) => choose(event.target.value));
  addEventListener("hashchange", () => {
    fromAddress();
    render();
  });
  addEventListener("scroll", () => hintOwner?.dispatchEvent(new Event("scrolled")), { passive: true });
  addEventListener("beforeprint", () => {
    document.querySelector("header details").open = true;
  });
  let width = innerWidth;
  // Phones report a new height whenever their address bar moves: only another width needs another drawing.
  addEventListener("resize", () => {
    if (width !== innerWidth) renderCharts();
    width = innerWidth;
  });
}

if (data.sets.length) {
  setUp();
  fromAddress();
  render();
}
