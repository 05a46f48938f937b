// Tables sort by the column whose head is clicked, then the other way round; what has no number stays last.
const number = (text) => (text === "inf" ? Infinity : parseFloat(text ?? "NaN"));
for (const table of root.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows];
      const numeric = rows.some((row) => row.cells[column].dataset.value !== undefined);
      const key = (row) => {
        const cell = row.cells[column];
        return numeric ? number(cell.dataset.value) : cell.textContent;
      };
      const compare = (a, b) => {
        if (!numeric) return a.localeCompare(b, undefined, { numeric: true });
        if (isNaN(a) || isNaN(b)) return NaN;
        return a === b ? 0 : a - b;
      };
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        const order = compare(x, y);
        if (isNaN(order)) return isNaN(x) - isNaN(y);
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
