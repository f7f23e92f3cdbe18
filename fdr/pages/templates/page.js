"use strict";
(() => {
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = text === "" ? NaN : Number(text.replace("−", "-"));
    return { text, number };
  };
  const compare = (a, b) => {
    if (a.text === "" || b.text === "") return 0;
    if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return a.number - b.number;
    return a.text.localeCompare(b.text, "en", { numeric: true });
  };
  const sort = (table, column, head) => {
    const descends = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descends ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row, column) }));
    const empty = rows.filter((one) => one.key.text === "");
    const full = rows.filter((one) => one.key.text !== "");
    full.sort((a, b) => (descends ? -1 : 1) * compare(a.key, b.key));
    table.tBodies[0].append(...[...full, ...empty].map((one) => one.row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, column, head));
    });
  }

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  for (const buttons of document.querySelectorAll(".buttons")) buttons.hidden = false;
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      const isData = source.tagName === "SCRIPT";
      await copy(isData ? JSON.stringify(JSON.parse(source.textContent), null, 2) + "\n" : source.textContent);
      const before = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1500);
    });
  }

  const dialog = document.getElementById("picture");
  for (const link of document.querySelectorAll(".tile a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const small = link.querySelector("img");
      const large = dialog.querySelector("img");
      large.src = small.src;
      large.alt = small.alt;
      large.style.imageRendering = small.naturalWidth < 300 ? "pixelated" : "auto";
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", () => dialog.close());
})();
