/* Follows the log of a running job: scrolls down while "Follow" is checked. */
"use strict";
(function () {
  const MOST = 2000;  // lines kept on the page; the download has all of them
  const box = () => document.getElementById("log-box");
  const following = () => { const follow = document.getElementById("log-follow"); return follow && follow.checked; };
  function prepare() {
    document.querySelectorAll(".rb-follow[hidden]").forEach((label) => { label.hidden = false; });
    if (following() && box()) box().scrollTop = box().scrollHeight;
  }
  document.addEventListener("htmx:oobAfterSwap", function () {
    if (!following() || !box()) return;
    const lines = document.getElementById("log-lines");
    while (lines.children.length > MOST) lines.firstElementChild.remove();
    box().scrollTop = box().scrollHeight;
  });
  // Scrolling up stops following.
  document.addEventListener("wheel", function (event) {
    const follow = document.getElementById("log-follow");
    if (follow && event.deltaY < 0 && box() && box().contains(event.target)) follow.checked = false;
  }, { passive: true });
  // Announce the end of the job to screen readers.
  let state = (document.getElementById("job") || { dataset: {} }).dataset.state;
  document.addEventListener("htmx:afterSettle", function () {
    const job = document.getElementById("job");
    if (!job || job.dataset.state === state) return;
    state = job.dataset.state;
    document.getElementById("job-announced").textContent = document.getElementById("job-summary").textContent.trim();
    prepare();
  });
  prepare();
})();
