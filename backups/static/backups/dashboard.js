/* Charts of the overview, and arrow keys in its timeline. Without this file there is a table instead of the charts. */
"use strict";
(function () {
  const units = {
    bytes: function (value) {
      for (const unit of ["B", "kB", "MB", "GB"]) {
        if (Math.abs(value) < 1000) return (unit === "B" ? Math.round(value) : trim(value)) + " " + unit;
        value /= 1000;
      }
      return trim(value) + " TB";
    },
    seconds: duration,
    ms: (value) => duration(value / 1000),
  };
  function trim(value) { return String(Math.round(value * 10) / 10); }
  // The same rule as backups.engine.progress.duration.
  function duration(value) {
    const [size, unit] = value < 0.9995 ? [0.001, "ms"] : value < 60 ? [1, "s"] : value < 3600 ? [60, "min"] : value < 172800 ? [3600, "h"] : [86400, "days"];
    return value ? (value / size < 9.95 ? trim(value / size) : Math.round(value / size)) + " " + unit : "0 s";
  }
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  const short = uPlot.fmtDate("{D} {MMM}"), clock = uPlot.fmtDate("{HH}:{mm}");
  function when(plot, moment) {
    const local = uPlot.tzDate(new Date(moment * 1000), columns.zone);
    return local.getHours() || local.getMinutes() ? clock(local) : short(local);
  }

  let columns = null;
  let plots = [];
  function draw(box, columns) {
    plots.forEach((plot) => plot.destroy());
    plots = [];
    box.querySelectorAll(".rb-plot").forEach(function (place) {
      const show = units[place.dataset.unit];
      const line = colour("--rb-busy"), quiet = colour("--body-quiet-color"), grid = colour("--hairline-color");
      const caption = place.parentNode.querySelector("figcaption");
      const output = caption.querySelector("output") || caption.appendChild(document.createElement("output"));
      const values = columns[place.dataset.series], last = values.length - 1;
      const axis = { stroke: quiet, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
      const bars = place.dataset.draw === "bars";
      const tell = (at) => { output.textContent = at == null || values[at] == null ? "" : show(values[at]); };
      plots.push(new uPlot({
        width: place.clientWidth, height: 150, padding: [8, 4, 0, 0], cursor: { y: false, points: { size: 6 } }, legend: { show: false },
        scales: { x: { range: () => [columns.from, columns.to] }, y: { range: (plot, low, high) => [0, high > 0 ? high * 1.15 : 1] } },
        tzDate: (moment) => uPlot.tzDate(new Date(moment * 1000), columns.zone),
        axes: [{ ...axis, grid: { show: false }, space: 60, size: 30, values: (plot, ticks) => ticks.map((tick) => when(plot, tick)) }, { ...axis, size: 64, space: 34, values: (plot, ticks) => ticks.map(show) }],
        series: [{}, {
          stroke: line, width: bars ? 0 : 1.75, fill: bars ? line : line + "1f", points: { show: !bars && values.length < 3, size: 6, fill: line },
          paths: bars ? uPlot.paths.bars({ size: [0.7, 14, 1] }) : undefined,
        }],
        hooks: { setCursor: [(plot) => tell(plot.cursor.idx == null ? last : plot.cursor.idx)] },
      }, [columns.time, values], place));
      place.setAttribute("role", "img");
      const most = values.length ? values.reduce((one, two) => Math.max(one, two)) : 0;
      place.setAttribute("aria-label", caption.firstChild.textContent + ": " + (values.length ? "newest " + show(values[last]) + ", maximum " + show(most) : "no data"));
      tell(last);
    });
  }

  const box = document.querySelector(".rb-charts");
  function load() {
    if (!box) return;
    fetch(box.dataset.address, { credentials: "same-origin" })
      .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(String(answer.status)))))
      .then(function (found) {
        columns = found;
        box.hidden = false;
        document.getElementById("sizes").hidden = !columns.time.length;
        draw(box, columns);
      })
      .catch(function () { box.hidden = true; });  // the table remains
  }
  const again = () => { if (columns) draw(box, columns); };
  let waiting = 0;
  window.addEventListener("resize", function () { clearTimeout(waiting); waiting = setTimeout(again, 150); });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  new MutationObserver(again).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  document.addEventListener("jobs-changed", load);
  load();

  // In the timeline, Tab moves to one point per lane, and arrow keys to its neighbours.
  function prepare() {
    document.querySelectorAll(".rb-timeline .lane").forEach(function (lane) {
      const points = Array.from(lane.querySelectorAll("a.point"));
      points.forEach((point, number) => point.setAttribute("tabindex", number === points.length - 1 ? "0" : "-1"));
    });
  }
  document.addEventListener("keydown", function (event) {
    const point = event.target.closest && event.target.closest(".rb-timeline a.point");
    if (!point || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    const points = Array.from(point.closest(".lane").querySelectorAll("a.point")), here = points.indexOf(point);
    const there = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: points.length - 1 }[event.key];
    if (!points[there]) return;
    event.preventDefault();
    point.setAttribute("tabindex", "-1");
    points[there].setAttribute("tabindex", "0");
    points[there].focus();
  });
  // Announce a changed verdict to screen readers.
  function sentence() {
    const say = document.querySelector("#overview .say");
    return say ? say.textContent.trim() : "";
  }
  const ageless = (text) => text.replace(/[\d.]+ (s|min|h|days) ago/, "");
  let announced = sentence();
  document.addEventListener("htmx:afterSettle", function () {
    prepare();
    if (ageless(sentence()) === ageless(announced)) return;
    announced = sentence();
    document.getElementById("announced").textContent = announced;
  });
  prepare();
})();
