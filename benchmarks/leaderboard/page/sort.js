"use strict";
// A click on a heading sorts the methods of its table by that column, a second click in the other direction.
// Cells without a value stay at the end; references stay above.
for (const table of document.querySelectorAll("table")) {
  const body = table.querySelector("tbody.methods");
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      body.append(...[...body.rows].sort((one, other) => compare(one.cells[column], other.cells[column], ascending)));
    });
  });
}

function compare(one, other, ascending) {
  const sign = ascending ? 1 : -1;
  if (one.tagName === "TH") return sign * one.textContent.localeCompare(other.textContent);
  const [a, b] = [one, other].map((cell) => ("value" in cell.dataset ? Number(cell.dataset.value) : null));
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (a - b);
}
