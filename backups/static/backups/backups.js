/* The list of backups: tick all of a page, and say how many are ticked. Everything works without it. */
"use strict";
(function () {
  const form = document.getElementById("chosen");
  if (!form) return;
  const boxes = Array.from(form.querySelectorAll("input[name=id]"));
  const all = document.getElementById("all");
  const told = document.getElementById("ticked");
  const buttons = Array.from(form.querySelectorAll(".with-chosen button"));
  function tell() {
    const count = boxes.filter((box) => box.checked).length;
    if (told) told.textContent = count ? count + " of " + boxes.length : "none yet";
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
    buttons.forEach((button) => { button.disabled = count === 0; });
  }
  all.hidden = false;
  all.addEventListener("change", function () { boxes.forEach((box) => { box.checked = all.checked; }); tell(); });
  form.addEventListener("change", tell);
  window.addEventListener("pageshow", tell);
  tell();
})();
