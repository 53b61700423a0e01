/* Small things that every page shares. Everything works without this file, less prettily. */
"use strict";
(function () {
  // The admin's CSRF token goes with every request that htmx sends.
  document.addEventListener("htmx:configRequest", function (event) {
    const cookie = document.cookie.split("; ").find((part) => part.startsWith("csrftoken="));
    if (cookie) event.detail.headers["X-CSRFToken"] = decodeURIComponent(cookie.slice("csrftoken=".length));
  });
  // No polling while nobody looks: a part of the page that asks every second is skipped while its tab is hidden.
  document.addEventListener("htmx:beforeRequest", function (event) {
    const polls = (event.detail.elt.getAttribute("hx-trigger") || "").includes("every");
    if (polls && document.hidden) event.preventDefault();
  });
  // Errors of the server are shown where the answer would have been.
  document.addEventListener("htmx:beforeSwap", function (event) {
    const html = (event.detail.xhr.getResponseHeader("Content-Type") || "").startsWith("text/html");
    if (event.detail.xhr.status >= 400 && html) { event.detail.shouldSwap = true; event.detail.isError = false; }
  });
  // A menu closes with Escape and by a click elsewhere.
  document.addEventListener("click", function (event) {
    document.querySelectorAll("details.rb-menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
  });
  document.addEventListener("keydown", function (event) {
    if (event.key !== "Escape") return;
    document.querySelectorAll("details.rb-menu[open]").forEach((menu) => { menu.open = false; menu.querySelector("summary").focus(); });
  });
})();
