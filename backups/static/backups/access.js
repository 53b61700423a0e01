/* Copy and print buttons: they need a script, so they are hidden until there is one. */
"use strict";
(function () {
  document.querySelectorAll("[data-copy]").forEach(function (button) {
    if (!navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async function () {
      const source = document.getElementById(button.dataset.copy);
      const lines = source.tagName === "OL" ? [...source.children].map((line) => line.textContent) : [source.textContent.replaceAll(" ", "")];
      const said = button.parentElement.querySelector("[data-copied]");
      try {
        await navigator.clipboard.writeText(lines.join("\n"));
        said.textContent = "Copied.";
      } catch {
        said.textContent = "The browser did not allow it; mark and copy it yourself.";
      }
    });
  });
  document.querySelectorAll("[data-print]").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", () => window.print());
  });
})();
