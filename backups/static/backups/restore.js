/* The steps of a restore. The pages work without it. */
"use strict";
(function () {
  const print = document.getElementById("print");
  if (print) {
    print.hidden = false;
    print.addEventListener("click", function () { window.print(); });
    // Print collapsed parts too.
    window.addEventListener("beforeprint", function () { document.querySelectorAll(".rb details:not(.rb-menu)").forEach((part) => { part.open = true; }); });
  }
  // A form is submitted once.
  document.querySelectorAll("form").forEach(function (form) {
    if (form.method !== "post") return;
    form.addEventListener("submit", function () {
      window.setTimeout(function () { form.querySelectorAll("button").forEach((button) => { button.disabled = true; }); }, 0);
    });
  });
  window.addEventListener("pageshow", function (event) {
    if (event.persisted) document.querySelectorAll("form button").forEach((button) => { button.disabled = false; });
  });
  // Typing a folder name selects the folder as the target.
  const folder = document.getElementById("folder");
  if (folder) folder.addEventListener("input", function () { document.querySelector("input[name=target][value=folder]").checked = true; });
})();
