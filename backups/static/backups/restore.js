/* The steps of a restore. Everything works without it. */
"use strict";
(function () {
  const print = document.getElementById("print");
  if (print) {
    print.hidden = false;
    print.addEventListener("click", function () { window.print(); });
    // What is folded away belongs on paper too.
    window.addEventListener("beforeprint", function () { document.querySelectorAll(".rb details:not(.rb-menu)").forEach((part) => { part.open = true; }); });
  }
  // The button that begins is pressed once.
  document.querySelectorAll("form").forEach(function (form) {
    if (form.method !== "post") return;
    form.addEventListener("submit", function () {
      window.setTimeout(function () { form.querySelectorAll("button").forEach((button) => { button.disabled = true; }); }, 0);
    });
  });
  window.addEventListener("pageshow", function (event) {
    if (event.persisted) document.querySelectorAll("form button").forEach((button) => { button.disabled = false; });
  });
  // Typing a folder's name means a folder.
  const folder = document.getElementById("folder");
  if (folder) folder.addEventListener("input", function () { document.querySelector("input[name=target][value=folder]").checked = true; });
})();
