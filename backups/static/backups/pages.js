/* What every page shares. The pages work without it. */
"use strict";
(function () {
  // Add the CSRF token to every htmx request.
  document.addEventListener("htmx:configRequest", function (event) {
    const token = document.querySelector('meta[name="csrf-token"]');
    if (token) event.detail.headers["X-CSRFToken"] = token.content;
  });
  // Do not poll while the tab is hidden.
  document.addEventListener("htmx:beforeRequest", function (event) {
    const polls = (event.detail.elt.getAttribute("hx-trigger") || "").includes("every");
    if (polls && document.hidden) event.preventDefault();
  });
  // Do not reload because work has ended while another page is on its way: the reload would end that. A download does not leave the page.
  let left = 0;
  const isLeaving = () => Date.now() - left < 10000;
  window.addEventListener("beforeunload", () => { left = Date.now(); });
  window.addEventListener("pageshow", () => { left = 0; });
  document.addEventListener("htmx:beforeOnLoad", function (event) {
    if (event.detail.xhr.getResponseHeader("HX-Refresh") && isLeaving()) event.preventDefault();
  });
  // Show errors of the server in place of the answer.
  document.addEventListener("htmx:beforeSwap", function (event) {
    const html = (event.detail.xhr.getResponseHeader("Content-Type") || "").startsWith("text/html");
    if (event.detail.xhr.status >= 400 && html) { event.detail.shouldSwap = true; event.detail.isError = false; }
  });
  // Close menus with Escape or a click elsewhere.
  document.addEventListener("click", function (event) {
    document.querySelectorAll("details.rb-menu[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
  });
  document.addEventListener("keydown", function (event) {
    if (event.key !== "Escape") return;
    document.querySelectorAll("details.rb-menu[open]").forEach((menu) => { menu.open = false; menu.querySelector("summary").focus(); });
  });
  // Tell when a job of this account has ended, on whatever page it happens; a notice stays when another page is opened.
  const notices = document.getElementById("notices"), SINCE = "rb-told-until", SHOWN = "rb-notices", SECONDS = { good: 15, bad: 120, warn: 60 };
  const stored = () => JSON.parse(sessionStorage.getItem(SHOWN) || "[]").filter((one) => one.until > Date.now());
  const store = (list) => sessionStorage.setItem(SHOWN, JSON.stringify(list));
  function show(notice) {
    const line = document.createElement("p"), link = document.createElement("a"), close = document.createElement("button");
    line.className = "rb-note " + notice.tone;
    link.href = notice.address;
    link.textContent = notice.text + (notice.more ? ". " + notice.more : "");
    close.type = "button";
    close.className = "rb-close";
    close.textContent = "×";
    close.setAttribute("aria-label", "Close");
    const remove = function () {
      line.remove();
      store(stored().filter((one) => one.address !== notice.address));
    };
    close.addEventListener("click", remove);
    line.append(link, close);
    notices.append(line);
    setTimeout(remove, notice.until - Date.now());
  }
  function tell(notice) {
    notice.until = Date.now() + 1000 * (SECONDS[notice.tone] || 15);
    store([...stored(), notice]);
    show(notice);
  }
  // A form may end this session, as a sign-in or a second factor does: the answer to an older request would delete the new cookie.
  const leaving = new AbortController();
  document.addEventListener("submit", () => leaving.abort());
  function ask() {
    if (document.hidden || leaving.signal.aborted) return;
    const since = sessionStorage.getItem(SINCE) || "";
    fetch(notices.dataset.address + "?since=" + encodeURIComponent(since), { credentials: "same-origin", redirect: "manual", signal: leaving.signal })
      .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(String(answer.status)))))
      .then(function (found) {
        sessionStorage.setItem(SINCE, found.now);
        if (since) found.notices.forEach(tell);
      })
      .catch(() => {});  // the next attempt follows
  }
  if (notices) {
    stored().forEach(show);
    ask();
    setInterval(ask, 4000);
  }
})();
