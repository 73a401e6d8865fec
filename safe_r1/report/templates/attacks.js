"use strict";
// Shows the rows that hold what is looked for, in whatever case it is written.
const rows = [...document.querySelectorAll("details.found")];
const texts = rows.map((row) => row.textContent.toLowerCase());
document.getElementById("find").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  rows.forEach((row, number) => { row.hidden = !texts[number].includes(wanted); });
});
