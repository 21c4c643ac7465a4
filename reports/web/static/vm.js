// The charts of one VM: each series as a line of means in a band from least to largest, with zoom and gaps.
"use strict";

(() => {
  const { CONFIG, DAY_S } = fallow;
  const section = document.getElementById("charts-section");
  if (!section) return;
  const zone = section.dataset.zone;
  const local = fallow.clock(zone);
  const whole = { fromS: Number(section.dataset.from), toS: Number(section.dataset.to) };
  const MIN_SPAN_S = 600;
  const figures = [...section.querySelectorAll(".chart")].map((element) => ({
    element,
    box: element.querySelector(".plot"),
    summary: element.querySelector(".chart-summary"),
    unit: element.dataset.unit,
    series: JSON.parse(element.dataset.series),
  }));
  const state = section.querySelector(".chart-state");
  const grid = section.querySelector(".chart-grid");
  const ranges = section.querySelector(".ranges");
  let span = { ...whole };
  let shown = null;
  let asked = 0;
  let waiting = null;

  function traces(figure, data) {
    const theme = fallow.colours();
    const found = [];
    figure.series.forEach(([name, title], index) => {
      const curve = data.series[name];
      if (!curve) return;
      const colour = theme.lines[index % theme.lines.length];
      const runs = fallow.runs(data.ends_s, data.step_s, (at) => curve.mean[at] !== null);
      if (!runs.length) return;
      found.push(band(data, curve, runs, colour, title), line(data, curve, runs, colour, theme.dashes[index], title));
      // A sample between two gaps has no line: it gets a dot. Dots for all would be an element each.
      const lone = runs.filter(([first, last]) => first === last).map(([at]) => at);
      if (lone.length) found.push(dots(data, curve, lone, colour, title));
    });
    if (found.length) found.push(words(figure, data));
    return found;
  }

  // One outline a run: along the largest values and back along the least.
  function band(data, curve, runs, colour, title) {
    const x = [];
    const y = [];
    for (const [first, last] of runs) {
      for (let at = first; at <= last; at += 1) push(data.ends_s[at], curve.max[at]);
      for (let at = last; at >= first; at -= 1) push(data.ends_s[at], curve.min[at] ?? curve.mean[at]);
      push(data.ends_s[first], curve.max[first]);
      push(null, null);
    }
    function push(atS, value) {
      x.push(atS);
      y.push(value);
    }
    return { type: "scatter", mode: "lines", x, y, fill: "toself", fillcolor: fallow.faded(colour, 0.28), line: { width: 0.5, color: fallow.faded(colour, 0.5) }, hoverinfo: "skip", legendgroup: title, showlegend: false };
  }

  function line(data, curve, runs, colour, dash, title) {
    const x = [];
    const y = [];
    for (const [first, last] of runs) {
      for (let at = first; at <= last; at += 1) {
        x.push(data.ends_s[at]);
        y.push(curve.mean[at]);
      }
      x.push(data.ends_s[last]);
      y.push(null);
    }
    return { type: "scatter", mode: "lines", name: fallow.escaped(title), x, y, hoverinfo: "skip", line: { width: 1.5, color: colour, dash }, legendgroup: title, connectgaps: false };
  }

  function dots(data, curve, places, colour, title) {
    return { type: "scatter", mode: "markers", x: places.map((at) => data.ends_s[at]), y: places.map((at) => curve.mean[at]), hoverinfo: "skip", marker: { size: 5, color: colour }, legendgroup: title, showlegend: false };
  }

  // An unseen line that says under the pointer what every series has there.
  function words(figure, data) {
    const known = figure.series.filter(([name]) => data.series[name]);
    const x = [];
    const y = [];
    const text = [];
    data.ends_s.forEach((endS, at) => {
      const there = known.filter(([name]) => data.series[name].mean[at] !== null);
      if (!there.length) return;
      x.push(endS);
      y.push(data.series[there[0][0]].mean[at]);
      text.push([`<b>${local.words(endS)}</b>`, ...there.map(([name, title]) => `${fallow.escaped(title)}: ${pointWords(data.series[name], at, figure.unit)}`)].join("<br>"));
    });
    return { type: "scatter", mode: "lines", x, y, text, hovertemplate: "%{text}<extra></extra>", line: { width: 0, color: "rgba(0,0,0,0)" }, showlegend: false };
  }

  function pointWords(curve, at, unit) {
    const mean = fallow.words(curve.mean[at], unit);
    return curve.min[at] === curve.max[at] ? mean : `${mean} (${fallow.words(curve.min[at], unit)} to ${fallow.words(curve.max[at], unit)})`;
  }

  function largest(figure, data) {
    let most = 0;
    for (const [name] of figure.series) for (const value of data.series[name]?.max ?? []) if (value !== null && value > most) most = value;
    return most;
  }

  function summarise(figure, data) {
    const parts = [];
    let isMeasured = false;
    for (const [name, title] of figure.series) {
      const curve = data.series[name];
      const known = curve ? curve.mean.map((value, at) => at).filter((at) => curve.mean[at] !== null) : [];
      if (!known.length) {
        parts.push(`${title}: not measured`);
        continue;
      }
      const mean = known.reduce((total, at) => total + curve.mean[at], 0) / known.length;
      const peak = known.reduce((best, at) => (curve.max[at] > curve.max[best] ? at : best), known[0]);
      const low = Math.min(...known.map((at) => curve.min[at] ?? curve.mean[at]));
      if (low === curve.max[peak]) parts.push(`${title}: ${fallow.words(low, figure.unit)} throughout`);
      else parts.push(`${title}: ${fallow.words(mean, figure.unit)} on average, from ${fallow.words(low, figure.unit)} to ${fallow.words(curve.max[peak], figure.unit)} (${local.words(data.ends_s[peak])})`);
      isMeasured = true;
    }
    figure.summary.textContent = `${parts.join("; ")}.${isMeasured ? gapWords(data) : ""}`;
  }

  function gapWords(data) {
    let gaps = 0;
    for (let at = 1; at < data.ends_s.length; at += 1) if (data.ends_s[at] - data.ends_s[at - 1] > data.step_s) gaps += 1;
    return gaps ? ` ${gaps} ${gaps === 1 ? "gap" : "gaps"} without samples.` : "";
  }

  function tableOf(figure, data) {
    const known = figure.series.filter(([name]) => data.series[name]);
    const heads = ["Until", ...known.flatMap(([, title]) => [`${title}, least`, "mean", "largest"])];
    const rows = fallow.rowsOf(data.ends_s.length).map(([first, last]) => [
      local.words(data.ends_s[last]),
      ...known.flatMap(([name]) => {
        const curve = data.series[name];
        const places = [];
        for (let at = first; at <= last; at += 1) if (curve.mean[at] !== null) places.push(at);
        if (!places.length) return [fallow.NOTHING, fallow.NOTHING, fallow.NOTHING];
        const least = Math.min(...places.map((at) => curve.min[at] ?? curve.mean[at]));
        const mean = places.reduce((total, at) => total + curve.mean[at], 0) / places.length;
        const most = Math.max(...places.map((at) => curve.max[at]));
        return [least, mean, most].map((value) => fallow.words(value, figure.unit));
      }),
    ]);
    return fallow.table(heads, rows);
  }

  function draw() {
    if (!shown) return;
    for (const figure of figures) {
      const found = traces(figure, shown);
      figure.element.classList.toggle("drawn", found.length > 0);
      summarise(figure, shown);
      fallow.offerTable(figure.element, () => tableOf(figure, shown));
      if (!found.length) {
        Plotly.purge(figure.box);
        continue;
      }
      const layout = fallow.layout(figure.box, { ...span, zone, most: largest(figure, shown), unit: figure.unit, showLegend: figure.series.length > 1 });
      Plotly.react(figure.box, found, layout, CONFIG);
      if (!figure.isWired) {
        figure.isWired = true;
        figure.box.on("plotly_relayout", onZoom);
        figure.box.on("plotly_doubleclick", () => show(whole));
      }
    }
  }

  function onZoom(change) {
    const [fromS, toS] = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (Number.isFinite(fromS) && Number.isFinite(toS) && (fromS !== span.fromS || toS !== span.toS)) show({ fromS, toS });
  }

  // Moves to another span at once with what is there, and again with what the server has of it.
  function show(wanted) {
    const middleS = (wanted.fromS + wanted.toS) / 2;
    const lengthS = Math.max(wanted.toS - wanted.fromS, MIN_SPAN_S);
    // Behind the newest sample there is nothing to see: the span stays as long as it is and ends there.
    const toS = Math.min(Math.round(middleS + lengthS / 2), whole.toS);
    span = { fromS: Math.max(0, Math.round(toS - lengthS)), toS };
    for (const button of ranges.querySelectorAll("[data-days]")) button.setAttribute("aria-pressed", String(Math.abs(Number(button.dataset.days) * DAY_S - lengthS) < 60 && Math.abs(span.toS - whole.toS) < 60));
    draw();
    clearTimeout(waiting);
    waiting = setTimeout(load, shown ? 150 : 0);
  }

  async function load() {
    const mine = (asked += 1);
    state.textContent = shown ? "" : "Loading …";
    try {
      const points = Math.round(Math.min(Math.max(section.clientWidth, 300), 1200));
      const data = await fallow.ask(section.dataset.href, { from: span.fromS, to: span.toS, points });
      if (mine !== asked) return;
      shown = data;
      grid.hidden = false;
      state.textContent = data.ends_s.length ? `${local.words(span.fromS)} to ${local.words(span.toS)}. The line is the mean of each ${bucketWords(data.step_s)}, the band its least and largest value.` : "There are no samples in this span.";
      for (const words of data.missing || []) state.textContent += ` ${words}.`;
      draw();
    } catch (error) {
      if (mine !== asked) return;
      state.textContent = `The charts cannot be drawn: ${error.message}`;
    }
    section.dataset.state = "done";
  }

  function bucketWords(stepS) {
    if (stepS % 3600 === 0) return stepS === 3600 ? "hour" : `${stepS / 3600} hours`;
    if (stepS % 60 === 0) return stepS === 60 ? "minute" : `${stepS / 60} minutes`;
    return `${stepS} s`;
  }

  function button(text, act) {
    const element = document.createElement("button");
    element.type = "button";
    element.textContent = text;
    element.addEventListener("click", act);
    return element;
  }

  const lengthS = () => span.toS - span.fromS;
  const about = (factor) => {
    const middleS = (span.fromS + span.toS) / 2;
    show({ fromS: middleS - (lengthS() * factor) / 2, toS: middleS + (lengthS() * factor) / 2 });
  };
  for (const element of ranges.querySelectorAll("[data-days]")) element.addEventListener("click", () => show({ fromS: whole.toS - Number(element.dataset.days) * DAY_S, toS: whole.toS }));
  ranges.querySelector("[data-reset]").addEventListener("click", () => show(whole));
  ranges.append(
    button("Earlier", () => show({ fromS: span.fromS - lengthS() / 2, toS: span.toS - lengthS() / 2 })),
    button("Later", () => show({ fromS: span.fromS + lengthS() / 2, toS: span.toS + lengthS() / 2 })),
    button("Zoom in", () => about(0.5)),
    button("Zoom out", () => about(2)),
  );
  ranges.hidden = false;
  fallow.onThemeChange(draw);
  show(whole);
})();
