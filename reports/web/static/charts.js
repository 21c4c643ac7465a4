// What the charts of a VM and of a host share: times in the reader's zone, units, colours, tables. Plotly draws.
"use strict";

window.fallow = (() => {
  const HOUR_S = 3600;
  const DAY_S = 86400;
  const STEPS_S = [60, 300, 900, 1800, HOUR_S, 2 * HOUR_S, 3 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S, DAY_S, 2 * DAY_S, 4 * DAY_S, 7 * DAY_S, 14 * DAY_S];
  const MAX_TICKS_WIDE = 9;
  const MAX_TICKS_NARROW = 4;
  const TABLE_ROWS = 60;
  const NOTHING = "–";

  // --- times, on a clock that may change within a chart: places are Unix seconds, only words are local

  function clock(zone) {
    const parts = { hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", weekday: "short", timeZoneName: "short" };
    let format;
    try {
      format = new Intl.DateTimeFormat("en-GB", { ...parts, timeZone: zone });
    } catch {
      format = new Intl.DateTimeFormat("en-GB", { ...parts, timeZone: "UTC" });
    }
    const read = (unixS) => Object.fromEntries(format.formatToParts(unixS * 1000).map((part) => [part.type, part.value]));
    return {
      read,
      words(unixS) {
        const at = read(unixS);
        return `${at.year}-${at.month}-${at.day} ${at.hour}:${at.minute} ${at.timeZoneName}`;
      },
    };
  }

  // Ticks at round hours or midnights of the local clock, which need not lie evenly where the clock changes.
  function ticks(fromS, toS, zone, maxTicks) {
    const stepS = STEPS_S.find((step) => (toS - fromS) / step <= maxTicks) || STEPS_S[STEPS_S.length - 1];
    const local = clock(zone);
    const tryS = Math.min(stepS, 900);
    const values = [];
    const texts = [];
    let lastDay = "";
    for (let at = Math.ceil(fromS / tryS) * tryS; at <= toS; at += tryS) {
      // Most candidates of a long span are far from a tick: look at whole hours alone.
      if (stepS >= HOUR_S && at % 900 !== 0) continue;
      const now = local.read(at);
      const minutes = Number(now.hour) * 60 + Number(now.minute);
      if (stepS < DAY_S ? (minutes * 60) % stepS !== 0 : minutes !== 0) continue;
      if (stepS > DAY_S && Math.round(Date.UTC(now.year, now.month - 1, now.day) / (DAY_S * 1000)) % (stepS / DAY_S) !== 0) continue;
      const day = `${now.weekday} ${now.day}.${now.month}.`;
      values.push(at);
      texts.push(stepS >= DAY_S ? day : day === lastDay ? `${now.hour}:${now.minute}` : `${now.hour}:${now.minute}<br>${day}`);
      lastDay = day;
    }
    return { values, texts };
  }

  // --- numbers with their unit, as the rest of the page writes them

  const RATES = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];

  function scaled(value, unit) {
    for (const [factor, prefix] of RATES) if (Math.abs(value) >= factor) return `${plain(value / factor)} ${prefix}${unit}`;
    return `${plain(value)} ${unit}`;
  }

  function plain(value) {
    return String(Number(value.toPrecision(3)));
  }

  const WRITERS = {
    ratio: (value) => (value > 0 && value < 0.0005 ? "<0.1%" : `${Number((100 * value).toFixed(1))}%`),
    bytes_per_s: (value) => scaled(value, "B/s"),
    bytes: (value) => `${(value / 2 ** 30).toFixed(1)} GiB`,
    vcpus: (value) => `${plain(value)} vCPU`,
    count: (value) => plain(value),
  };

  function words(value, unit) {
    return value === null || value === undefined ? NOTHING : WRITERS[unit](value);
  }

  // Round marks from nothing to a little over the largest value.
  function valueAxis(most, unit) {
    const least = { ratio: 0.01, bytes_per_s: 10, bytes: 2 ** 30, vcpus: 0.1, count: 1.2 }[unit];
    const base = unit === "bytes" ? 2 ** 30 : 1;
    const top = Math.max(most * 1.08, least) / base;
    const rough = top / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough);
    if (unit === "count") step = Math.max(1, Math.round(step));
    const values = [];
    for (let at = 0; at <= top * 1.0001; at += step) values.push(at * base);
    return { range: [0, top * base], values, texts: values.map((value) => words(value, unit)) };
  }

  // Plotly reads some tags in texts.
  function escaped(text) {
    return text.replace(/[&<>]/g, (character) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[character]);
  }

  // --- colours of the page

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    return { ink: of("ink"), muted: of("muted"), line: of("line"), surface: of("surface"), lines: ["idle", "scheduled", "oversized", "insufficient", "active", "bad"].map(of), dashes: ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"] };
  }

  function faded(colour, opacity) {
    const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
    return `rgba(${red},${green},${blue},${opacity})`;
  }

  function layout(box, { fromS, toS, zone, most, unit, showLegend }) {
    const theme = colours();
    const narrow = box.clientWidth < 480;
    const time = ticks(fromS, toS, zone, narrow ? MAX_TICKS_NARROW : MAX_TICKS_WIDE);
    const value = valueAxis(most, unit);
    const axis = { gridcolor: theme.line, zerolinecolor: theme.line, linecolor: theme.line, tickfont: { size: 11, color: theme.muted } };
    return {
      height: 240,
      margin: { l: 62, r: 8, t: 6, b: 40 },
      paper_bgcolor: theme.surface,
      plot_bgcolor: theme.surface,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: theme.ink },
      hovermode: "x",
      hoverlabel: { bgcolor: theme.surface, bordercolor: theme.muted, align: "left", font: { size: 12, color: theme.ink } },
      dragmode: "zoom",
      showlegend: showLegend,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
      xaxis: { ...axis, type: "linear", range: [fromS, toS], tickmode: "array", tickvals: time.values, ticktext: time.texts },
      yaxis: { ...axis, fixedrange: true, range: value.range, tickmode: "array", tickvals: value.values, ticktext: value.texts },
    };
  }

  const CONFIG = { displayModeBar: false, responsive: true, doubleClick: false, showTips: false };

  // --- gaps: buckets without samples are absent, and lines must not run across them

  // Runs of places [first, last] whose ends lie no further apart than a bucket.
  function runs(endsS, stepS, isKnown) {
    const found = [];
    let first = null;
    for (let at = 0; at < endsS.length; at += 1) {
      if (!isKnown(at)) {
        if (first !== null) found.push([first, at - 1]);
        first = null;
      } else if (first === null) {
        first = at;
      } else if (endsS[at] - endsS[at - 1] > stepS) {
        found.push([first, at - 1]);
        first = at;
      }
    }
    if (first !== null) found.push([first, endsS.length - 1]);
    return found;
  }

  // --- tables: what a chart shows, in rows that can be read out

  // Places of buckets by row: at most TABLE_ROWS rows.
  function rowsOf(count) {
    const size = Math.max(1, Math.ceil(count / TABLE_ROWS));
    const rows = [];
    for (let start = 0; start < count; start += size) rows.push([start, Math.min(start + size, count) - 1]);
    return rows;
  }

  function table(heads, rows) {
    const element = document.createElement("table");
    const head = element.createTHead().insertRow();
    for (const text of heads) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = text;
      head.append(cell);
    }
    const body = element.createTBody();
    for (const [first, ...others] of rows) {
      const row = body.insertRow();
      const cell = document.createElement("th");
      cell.scope = "row";
      cell.className = "nowrap";
      cell.textContent = first;
      row.append(cell);
      for (const text of others) {
        const other = row.insertCell();
        other.className = "number";
        other.textContent = text;
      }
    }
    return element;
  }

  // Fills the table of a chart once somebody opens it.
  function offerTable(figure, make) {
    const details = figure.querySelector(".chart-table");
    const box = details.querySelector(".scroll");
    details.ontoggle = () => {
      if (details.open) box.replaceChildren(make());
    };
    details.ontoggle();
  }

  // --- asking

  async function ask(href, parameters) {
    const address = new URL(href, location.href);
    for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
    let answer;
    try {
      answer = await fetch(address, { headers: { Accept: "application/json" } });
    } catch {
      throw new Error("The server does not answer. Reload the page when it is back.");
    }
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(body.detail || `The server answers ${answer.status}.`);
    return body;
  }

  function onThemeChange(redraw) {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  }

  return { CONFIG, DAY_S, NOTHING, clock, ticks, words, escaped, colours, faded, layout, runs, rowsOf, table, offerTable, ask, onThemeChange };
})();
