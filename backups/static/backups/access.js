/* Copy and print buttons, which are hidden without scripts. */
"use strict";
(function () {
  document.querySelectorAll("[data-copy]").forEach(function (button) {
    if (!navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async function () {
      const source = document.getElementById(button.dataset.copy);
      const lines = source.tagName === "OL" ? [...source.children].map((line) => line.textContent) : [source.textContent.replaceAll(" ", "")];
      const status = button.parentElement.querySelector("[data-copied]");
      try {
        await navigator.clipboard.writeText(lines.join("\n"));
        status.textContent = "Copied.";
      } catch {
        status.textContent = "The browser did not allow copying. Select the text and copy it.";
      }
    });
  });
  document.querySelectorAll("[data-print]").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", () => window.print());
  });
})();
