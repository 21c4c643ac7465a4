// The charts of one host: what its VMs use, one upon the other. A bucket that nobody reported for stays a gap.
"use strict";

(() => {
  const section = document.getElementById("charts-section");
  if (!section) return;
  const zone = section.dataset.zone;
  const local = fallow.clock(zone);
  const span = { fromS: Number(section.dataset.from), toS: Number(section.dataset.to), zone };
  const state = section.querySelector(".chart-state");
  // By the key of a chart: the name of its series in the API.
  const SERIES = { cpu: "cpu_vcpus", memory: "mem_used_bytes" };
  const NAMED = 8;
  const HOVERED = 5;
  const OPACITIES = [0.75, 0.45, 0.25];
  const figures = [...section.querySelectorAll(".chart")].map((element) => ({
    element,
    box: element.querySelector(".plot"),
    summary: element.querySelector(".chart-summary"),
    unit: element.dataset.unit,
    name: SERIES[element.dataset.key],
  }));
  let shown = null;

  // The VMs of a chart, the largest lowest, with the sums below and above each.
  function layers(data, name) {
    const known = data.vms.map((vm) => ({ title: vm.name || vm.vm, values: vm[name], mean: meanOf(vm[name]) })).filter((layer) => layer.mean !== null);
    known.sort((one, other) => other.mean - one.mean);
    let below = data.ends_s.map(() => 0);
    for (const layer of known) {
      layer.below = below;
      layer.above = below.map((sum, at) => sum + (layer.values[at] ?? 0));
      below = layer.above;
    }
    return { known, total: below };
  }

  function meanOf(values) {
    const known = values.filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  }

  function isSeen(stack, at) {
    return stack.known.some((layer) => layer.values[at] !== null);
  }

  function area(data, layer, runs, index, theme) {
    const x = [];
    const y = [];
    for (const [first, last] of runs) {
      for (let at = first; at <= last; at += 1) push(data.ends_s[at], layer.above[at]);
      for (let at = last; at >= first; at -= 1) push(data.ends_s[at], layer.below[at]);
      push(null, null);
    }
    function push(atS, value) {
      x.push(atS);
      y.push(value);
    }
    const colour = theme.lines[index % theme.lines.length];
    const opacity = OPACITIES[Math.floor(index / theme.lines.length) % OPACITIES.length];
    return { type: "scatter", mode: "lines", x, y, name: fallow.escaped(layer.title), fill: "toself", fillcolor: fallow.faded(colour, opacity), line: { width: 0.5, color: theme.surface }, hoverinfo: "skip", showlegend: index < NAMED };
  }

  function totalLine(data, stack, runs, unit, theme) {
    const x = [];
    const y = [];
    const text = [];
    for (const [first, last] of runs) {
      for (let at = first; at <= last; at += 1) {
        x.push(data.ends_s[at]);
        y.push(stack.total[at]);
        const most = stack.known.filter((layer) => layer.values[at] !== null).sort((one, other) => other.values[at] - one.values[at]).slice(0, HOVERED);
        text.push([`<b>${local.words(data.ends_s[at])}</b>`, `together: ${fallow.words(stack.total[at], unit)}`, ...most.map((layer) => `${fallow.escaped(layer.title)}: ${fallow.words(layer.values[at], unit)}`)].join("<br>"));
      }
      x.push(data.ends_s[last]);
      y.push(null);
      text.push("");
    }
    return { type: "scatter", mode: "lines", x, y, text, hovertemplate: "%{text}<extra></extra>", line: { width: 1.5, color: theme.ink }, showlegend: false, connectgaps: false };
  }

  function draw() {
    if (!shown) return;
    const theme = fallow.colours();
    for (const figure of figures) {
      const stack = layers(shown, figure.name);
      const runs = fallow.runs(shown.ends_s, shown.step_s, (at) => isSeen(stack, at));
      figure.element.classList.toggle("drawn", runs.length > 0);
      summarise(figure, stack, runs);
      if (!runs.length) continue;
      const most = Math.max(...stack.total);
      const layout = fallow.layout(figure.box, { ...span, most, unit: figure.unit, showLegend: true });
      const traces = [...stack.known.map((layer, index) => area(shown, layer, runs, index, theme)), totalLine(shown, stack, runs, figure.unit, theme)];
      Plotly.react(figure.box, traces, { ...layout, height: 320 }, fallow.CONFIG);
      fallow.offerTable(figure.element, () => tableOf(figure, stack));
    }
  }

  function summarise(figure, stack, runs) {
    if (!runs.length) {
      figure.summary.textContent = "Not measured in this span.";
      return;
    }
    const places = shown.ends_s.map((_, at) => at).filter((at) => isSeen(stack, at));
    const mean = places.reduce((sum, at) => sum + stack.total[at], 0) / places.length;
    const peak = places.reduce((best, at) => (stack.total[at] > stack.total[best] ? at : best), places[0]);
    const largest = stack.known.slice(0, 3).map((layer) => `${layer.title} (${fallow.words(layer.mean, figure.unit)})`);
    const gaps = runs.length > 1 ? ` ${runs.length - 1} ${runs.length === 2 ? "gap" : "gaps"} without samples.` : "";
    figure.summary.textContent = `Together ${fallow.words(mean, figure.unit)} on average, at most ${fallow.words(stack.total[peak], figure.unit)} (${local.words(shown.ends_s[peak])}). Most of it: ${largest.join(", ")}.${gaps}`;
  }

  function tableOf(figure, stack) {
    const rows = stack.known.map((layer) => {
      const known = layer.values.filter((value) => value !== null);
      return [layer.title, fallow.words(layer.mean, figure.unit), fallow.words(Math.max(...known), figure.unit)];
    });
    return fallow.table(["VM", "mean", "largest mean of a bucket"], rows);
  }

  async function load() {
    state.textContent = "Loading …";
    try {
      const points = Math.round(Math.min(Math.max(section.clientWidth / 2, 200), 500));
      shown = await fallow.ask(section.dataset.href, { from: span.fromS, to: span.toS, points });
      const missing = (shown.unavailable || []).map(({ vm, reason }) => `${vm} (${reason})`);
      const without = missing.length ? ` Not drawn: ${missing.slice(0, HOVERED).join(", ")}${missing.length > HOVERED ? ` and ${missing.length - HOVERED} more` : ""}.` : "";
      state.textContent = (shown.ends_s.length ? `${local.words(span.fromS)} to ${local.words(span.toS)}.` : "There are no samples in this span.") + without;
      section.querySelector(".chart-grid").hidden = false;
      draw();
    } catch (error) {
      state.textContent = `The charts cannot be drawn: ${error.message}`;
    }
    section.dataset.state = "done";
  }

  fallow.onThemeChange(draw);
  load();
})();
