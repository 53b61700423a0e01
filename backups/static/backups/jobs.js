/* A job's log is followed while it runs: the box scrolls down with it as long as the box "Follow" is ticked. */
"use strict";
(function () {
  const MOST = 2000;  // lines kept on the page; all of them are in the download
  const box = () => document.getElementById("log-box");
  const ticked = () => { const follow = document.getElementById("log-follow"); return follow && follow.checked; };
  function prepare() {
    document.querySelectorAll(".rb-follow[hidden]").forEach((label) => { label.hidden = false; });
    if (ticked() && box()) box().scrollTop = box().scrollHeight;
  }
  document.addEventListener("htmx:oobAfterSwap", function () {
    if (!ticked() || !box()) return;
    const lines = document.getElementById("log-lines");
    while (lines.children.length > MOST) lines.firstElementChild.remove();
    box().scrollTop = box().scrollHeight;
  });
  // Whoever scrolls up wants to read: following stops until it is ticked again.
  document.addEventListener("wheel", function (event) {
    const follow = document.getElementById("log-follow");
    if (follow && event.deltaY < 0 && box() && box().contains(event.target)) follow.checked = false;
  }, { passive: true });
  // The end is said once, to those who do not see it.
  let state = (document.getElementById("job") || { dataset: {} }).dataset.state;
  document.addEventListener("htmx:afterSettle", function () {
    const job = document.getElementById("job");
    if (!job || job.dataset.state === state) return;
    state = job.dataset.state;
    document.getElementById("job-announced").textContent = document.getElementById("job-told").textContent.trim();
    prepare();
  });
  prepare();
})();
