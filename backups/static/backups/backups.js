/* The list of backups: select all of a page, and show how many are selected. The page works without it. */
"use strict";
(function () {
  const form = document.getElementById("chosen");
  if (!form) return;
  const boxes = Array.from(form.querySelectorAll("input[name=id]"));
  const all = document.getElementById("all");
  const output = document.getElementById("ticked");
  const buttons = Array.from(form.querySelectorAll(".with-chosen button"));
  function update() {
    const count = boxes.filter((box) => box.checked).length;
    if (output) output.textContent = count ? count + " of " + boxes.length : "none";
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
    buttons.forEach((button) => { button.disabled = count === 0; });
  }
  all.hidden = false;
  all.addEventListener("change", function () { boxes.forEach((box) => { box.checked = all.checked; }); update(); });
  form.addEventListener("change", update);
  window.addEventListener("pageshow", update);
  update();
})();
