// tables that a click on a column's name sorts; cells tell their value, as a number or, with data-text, as text
const compare = (a, b, sign) => {
  // cases without a value stay at the end, whichever way the column is sorted
  if (typeof a === "string") return sign * a.localeCompare(b, undefined, { numeric: true });
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return sign * (a - b);
};
for (const table of document.querySelectorAll("table.sortable")) {
  const value = (cell) => {
    const text = cell.dataset.value;
    return cell.tagName === "TH" || cell.dataset.text ? text : text === "" ? NaN : Number(text);
  };
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    body.append(...[...body.rows].sort((a, b) => compare(value(a.cells[column]), value(b.cells[column]), sign)));
  }));
}
