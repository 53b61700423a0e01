/* What every page shares. The pages work without it. */
"use strict";
(function () {
  // Add the CSRF token to every htmx request.
  document.addEventListener("htmx:configRequest", function (event) {
    const cookie = document.cookie.split("; ").find((part) => part.startsWith("csrftoken="));
    if (cookie) event.detail.headers["X-CSRFToken"] = decodeURIComponent(cookie.slice("csrftoken=".length));
  });
  // Do not poll while the tab is hidden.
  document.addEventListener("htmx:beforeRequest", function (event) {
    const polls = (event.detail.elt.getAttribute("hx-trigger") || "").includes("every");
    if (polls && document.hidden) event.preventDefault();
  });
  // Show errors of the server in place of the answer.
  document.addEventListener("htmx:beforeSwap", function (event) {
    const html = (event.detail.xhr.getResponseHeader("Content-Type") || "").startsWith("text/html");
    if (event.detail.xhr.status >= 400 && html) { event.detail.shouldSwap = true; event.detail.isError = false; }
  });
  // On a narrow screen, scroll the navigation to the current page.
  const current = document.querySelector(".rb-tabs [aria-current]");
  if (current) current.closest("ul").scrollLeft = current.offsetLeft - 80;
  // Close menus with Escape or a click elsewhere.
  document.addEventListener("click", function (event) {
    document.querySelectorAll("details.rb-menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
  });
  document.addEventListener("keydown", function (event) {
    if (event.key !== "Escape") return;
    document.querySelectorAll("details.rb-menu[open]").forEach((menu) => { menu.open = false; menu.querySelector("summary").focus(); });
  });
})();
