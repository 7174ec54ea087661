"use strict";
const $ = id => document.getElementById(id);
const decompress = async id => {
  const bytes = Uint8Array.from(atob($(id).textContent), c => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const cssColour = name => {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
};
const seriesColours = () => [1, 2, 3, 4, 5, 6, 7, 8].map(n => cssColour(`--s${n}`));
const newOption = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
const shortName = key => data.short[key] ?? key;
const isNumber = value => typeof value === "number" && Number.isFinite(value);
const formatValue = value => (value === null || value === undefined ? "-" : isNumber(value) ? String(+value.toPrecision(5)) : String(value));

let data;
let visibleRuns; // the indices of the runs that match the filter and the selected ranges
const runLabel = run => `${run.name}${run.place ? ` (#${run.place})` : ""}`;
const describeRun = run => `${runLabel(run)}: ${data.settings.map(key => `${shortName(key)}=${run.cells[key]}`).join(", ")}`;
const metricOf = key => (key === data.objective.key ? data.objective : data.metrics.find(m => m.key === key));
const scaled = (key, value) => (isNumber(value) ? +(value * (metricOf(key)?.scale ?? 1)).toPrecision(10) : value); // in the unit of the metric's title
const valueOfRun = (run, key) => (key === data.objective.key ? scaled(key, run.objective) : key in run.settings ? run.settings[key] : scaled(key, run.measured[key]));
function distinctTexts(numbers) { // with as few digits as keep different numbers different
  for (let digits = 3; digits < 17; digits++) {
    const texts = numbers.map(v => String(+v.toPrecision(digits)));
    if (new Set(texts).size === new Set(numbers).size) return texts;
  }
  return numbers.map(String);
}
function roundTicks(low, high, count = 5) { // multiples of 1, 2 or 5 times a power of ten
  const least = (high - low) / count, power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(step => step >= least * (1 - 1e-9)), first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => +((first + i) * step).toPrecision(12));
}

const isLogarithmic = (key, low, high) => low > 0 && low < high && (metricOf(key) ? high / low >= 10 : data.logarithmic.includes(key));
function logTicks(low, high) { // 1, 2 and 5 times powers of ten; without any between, the ends
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), factors = last - first > 3 ? [1] : [1, 2, 5];
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => factors.map(factor => +`${factor}e${first + i}`)).flat().filter(v => v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9));
  return ticks.length > 1 ? ticks : [low, high];
}
function settingAxis(key, values) { // few values are the ticks themselves, as the ranks of a sweep
  const low = Math.min(...values), high = Math.max(...values), different = [...new Set(values)].sort((a, b) => a - b);
  const log = isLogarithmic(key, low, high);
  const ticks = different.length <= 8 ? different : log ? logTicks(low, high) : null;
  return { type: log ? "log" : "linear", ...(ticks ? { tickmode: "array", tickvals: ticks, ticktext: distinctTexts(ticks) } : {}) };
}

function plotLayout(more) {
  const axis = { exponentformat: "power", gridcolor: cssColour("--line"), zerolinecolor: cssColour("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: cssColour("--ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 60, r: 20, t: 20, b: 50 }, showlegend: false, colorway: seriesColours(), hovermode: "closest", ...(printing ? { width: 900, height: 400 } : {}), ...more,
    xaxis: { ...axis, ...(more.xaxis || {}) }, yaxis: { ...axis, ...(more.yaxis || {}) },
  };
}
const plotOptions = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const drawPlot = (id, traces, more, bar = true) => Plotly.react($(id), traces, plotLayout(more), { ...plotOptions, ...(bar ? {} : { displayModeBar: false }) });

// ------------------------------------------------------------------------------------------------------------- the table
function sortTable(heading) {
  const column = [...heading.parentNode.children].indexOf(heading), body = $("runs").tBodies[0];
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => {
    const cell = row.children[column], text = cell.dataset.value ?? cell.textContent.trim();
    const value = text === "" || text === "-" ? NaN : Number(text);
    return Number.isNaN(value) ? (text === "" || text === "-" ? null : text) : value;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  const rows = [...body.rows].map(row => [key(row), row]);
  rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : down ? compare(b, a) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}

function applyFilters() {
  const filterWords = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), rangeTests = selectedRanges();
  visibleRuns = new Set();
  for (const row of $("runs").tBodies[0].rows) {
    const index = Number(row.dataset.run), run = data.runs[index];
    const text = row.textContent.toLowerCase(), exact = data.settings.flatMap(key => [shortName(key), key].map(name => `${name}=${run.cells[key]}`.toLowerCase()));
    const isVisible = filterWords.every(word => (word.includes("=") ? exact.some(setting => setting === word || setting.endsWith(`.${word}`)) : text.includes(word))) && rangeTests.every(test => test(run));
    row.hidden = !isVisible;
    if (isVisible) visibleRuns.add(index);
  }
  $("count").textContent = `${visibleRuns.size} of ${data.runs.length} run${data.runs.length === 1 ? "" : "s"}`;
  if (drawnPlots.has("curves")) drawCurves();
}

// ---------------------------------------------------------------------------------------------------- parallel coordinates
let dimensions = [];
function newDimension(key, title) {
  const values = data.runs.filter(run => isNumber(run.objective)).map(run => valueOfRun(run, key)), definedValues = values.filter(v => v !== null && v !== undefined);
  if (definedValues.length === values.length && definedValues.every(isNumber)) {
    const low = Math.min(...definedValues), high = Math.max(...definedValues), different = [...new Set(definedValues)].sort((a, b) => a - b);
    const log = isLogarithmic(key, low, high), scale = log ? Math.log10 : v => v;
    let ticks = different;
    if (different.length > 8 || metricOf(key)) ticks = log ? [0, 1, 2, 3, 4].map(i => low * (high / low) ** (i / 4)) : high > low ? roundTicks(low, high) : [low];
    return { key, title, position: run => { const v = valueOfRun(run, key); return isNumber(v) ? scale(v) : null; }, tickvals: ticks.map(scale), ticktext: distinctTexts(ticks) };
  }
  const text = run => run.cells[key] ?? formatValue(valueOfRun(run, key));
  const names = [...new Set(data.runs.map(text))];
  return { key, title, position: run => names.indexOf(text(run)), tickvals: names.map((_, i) => i), ticktext: names };
}

function drawParallelCoordinates() {
  const finished = data.runs.filter(run => isNumber(run.objective));
  const main = data.metrics.filter(m => finished.every(run => isNumber(valueOfRun(run, m.key)))).slice(0, 1).map(m => [m.key, m.title]);
  const axes = [...data.settings.map(key => [key, shortName(key)]), ...main, [data.objective.key, data.objective.title]];
  const varies = ([key]) => new Set(finished.map(run => run.cells[key] ?? valueOfRun(run, key))).size > 1;
  dimensions = axes.filter(varies).slice(-14).map(([key, title]) => newDimension(key, title));
  const runs = finished;
  if (runs.length < 2 || !dimensions.length) { $("parallel").hidden = true; return; }
  const before = $("parallel-plot").data?.[0]?.dimensions ?? [];
  const trace = {
    type: "parcoords", line: { color: runs.map(run => (data.objective.lower ? -1 : 1) * run.objective), colorscale: [[0, cssColour("--s2")], [0.5, cssColour("--soft")], [1, cssColour("--accent")]] },
    labelfont: { color: cssColour("--ink") }, tickfont: { color: cssColour("--ink") }, rangefont: { color: "rgba(0,0,0,0)" },
    dimensions: dimensions.map((d, i) => ({
      label: d.title, values: runs.map(d.position), ...(d.tickvals ? { tickvals: d.tickvals, ticktext: d.ticktext } : {}),
      ...(before[i]?.constraintrange ? { constraintrange: before[i].constraintrange } : {}),
    })),
  };
  drawPlot("parallel-plot", [trace], { margin: { l: 60, r: 60, t: 50, b: 30 } }, false);
  if (!$("parallel-plot").dataset.hasListener) {
    $("parallel-plot").dataset.hasListener = "yes";
    $("parallel-plot").on("plotly_restyle", applyFilters);
  }
}

function selectedRanges() {
  const now = $("parallel-plot").data?.[0]?.dimensions ?? [];
  return dimensions.flatMap((d, i) => {
    const range = now[i]?.constraintrange;
    if (!range || !range.length) return [];
    const parts = Array.isArray(range[0]) ? range : [range];
    return [run => { const v = d.position(run); return v !== null && parts.some(([a, b]) => v >= a && v <= b); }];
  });
}

// --------------------------------------------------------------------------------------------------------- curves, scatter plots
const mostSeries = 12; // with a colour and a name of their own
const seriesName = run => `${run.place ? `#${run.place}` : run.name} ${data.settings.map(key => `${shortName(key)}=${run.cells[key]}`).join(", ")}`;
function seriesLook(position, run, colours) { // [colour, dash, width]: colours, and after all of them dashed ones
  if (run.best) return [cssColour("--good"), "solid", 3.5];
  return position < mostSeries ? [colours[position % colours.length], position < colours.length ? "solid" : "dash", 1.8] : [cssColour("--line"), "solid", 1];
}
function legendEntry(text, [colour, dash, width]) {
  const entry = document.createElement("span"), swatch = document.createElement("i");
  swatch.style.borderTop = `${Math.max(2, width)}px ${dash === "dash" ? "dashed" : "solid"} ${colour}`;
  entry.append(swatch, text);
  return entry;
}
function drawCurves() {
  const kind = $("curve-kind").value, { title, decimals } = data.curves.find(curve => curve.key === kind), colours = seriesColours();
  const drawn = data.runs.filter((run, i) => visibleRuns.has(i) && run.curve[kind].length);
  const looks = drawn.map((run, position) => seriesLook(position, run, colours));
  const traces = drawn.map((run, position) => {
    const points = run.curve[kind], kept = run.kept[kind]?.[0], isAlone = points.length === 1, [color, dash, width] = looks[position];
    return {
      x: points.map(p => p[0]), y: points.map(p => p[1]), name: seriesName(run), mode: kept === undefined && !isAlone ? "lines" : "lines+markers", type: "scatter",
      marker: { symbol: points.map(p => (p[0] === kept ? "circle-open" : "circle")), size: points.map(p => (p[0] === kept ? 11 : isAlone ? 7 : 0)), opacity: 1, line: { width: points.map(p => (p[0] === kept ? 2 : 0)) } },
      line: { color, dash, width }, text: describeRun(run), hovertemplate: `%{text}<br>step %{x}: %{y:.${decimals}f}<extra></extra>`,
    };
  });
  const isMarked = drawn.some(run => run.kept[kind]), others = drawn.length - mostSeries;
  $("curve-note").textContent = traces.length ? (isMarked ? "Circles mark the steps whose weights were kept." : "") : visibleRuns.size ? `None of these runs logged a ${title}.` : "The filter and the selections exclude every run.";
  $("curve-plot").hidden = !traces.length;
  $("curve-legend").replaceChildren(...drawn.slice(0, mostSeries).map((run, i) => legendEntry(seriesName(run), looks[i])),
    ...(others > 0 ? [legendEntry(`${others} other run${others === 1 ? "" : "s"}`, [cssColour("--line"), "solid", 2])] : []));
  const lastStep = Math.max(0, ...traces.flatMap(trace => trace.x));
  traces.reverse(); // the best on top
  drawPlot("curve-plot", traces, { xaxis: { title: { text: "optimizer step" }, ...(lastStep <= 10 ? { dtick: 1 } : {}) }, yaxis: { title: { text: title }, type: $("curve-log").checked ? "log" : "linear" } });
}

function drawScatter(id, x, y, more = []) {
  const runs = data.runs.filter(run => isNumber(run.objective) && valueOfRun(run, x) !== null && valueOfRun(run, x) !== undefined && isNumber(valueOfRun(run, y)));
  const xs = runs.map(run => valueOfRun(run, x)), numbers = xs.every(isNumber);
  const intervals = runs.map(run => run.intervals[y]?.map(edge => scaled(y, edge))), ys = runs.map(run => valueOfRun(run, y));
  const titleOf = key => metricOf(key)?.title ?? key;
  const trace = {
    x: numbers ? xs : runs.map(run => run.cells[x] ?? formatValue(valueOfRun(run, x))), y: ys, mode: "markers", type: "scatter", text: runs.map(describeRun), hovertemplate: "%{text}<br>%{x}; %{y}<extra></extra>",
    marker: { size: 9, color: runs.map(run => (run.best ? cssColour("--good") : cssColour("--accent"))), opacity: 0.85 },
    ...(intervals.some(Boolean) && runs.length <= 60 ? { error_y: { type: "data", symmetric: false, thickness: 1, color: cssColour("--soft"),
      array: intervals.map((b, i) => (b ? b[1] - ys[i] : 0)), arrayminus: intervals.map((b, i) => (b ? ys[i] - b[0] : 0)) } } : {}),
  };
  const own = !numbers ? { type: "category" } : metricOf(x) || !runs.length ? {} : settingAxis(x, xs);
  drawPlot(id, [...more, trace], { xaxis: { title: { text: titleOf(x) }, ...own }, yaxis: { title: { text: titleOf(y) } } });
}

function drawFront() {
  const x = $("front-x").value, y = $("front-y").value;
  const lowerIsBetter = key => metricOf(key)?.lower ?? true;
  const points = data.runs.filter(run => isNumber(run.objective) && isNumber(valueOfRun(run, x)) && isNumber(valueOfRun(run, y)))
    .map(run => ({ run, a: (lowerIsBetter(x) ? 1 : -1) * valueOfRun(run, x), b: (lowerIsBetter(y) ? 1 : -1) * valueOfRun(run, y) })).sort((p, q) => p.a - q.a || p.b - q.b);
  const paretoFront = [];
  for (const point of points) if (!paretoFront.length || point.b < paretoFront.at(-1).b) paretoFront.push(point);
  const line = { x: paretoFront.map(p => valueOfRun(p.run, x)), y: paretoFront.map(p => valueOfRun(p.run, y)), mode: "lines", type: "scatter", hoverinfo: "skip",
    line: { shape: "linear", color: cssColour("--soft"), dash: "dot" } };
  drawScatter("front-plot", x, y, x === y ? [] : [line]);
  $("front-note").textContent = paretoFront.length ? `Pareto front: ${paretoFront.slice(0, 12).map(p => runLabel(p.run)).join(", ")}.` : "";
}

// -------------------------------------------------------------------------------------------------- two runs, and their answers
function showDifference() {
  const [a, b] = ["diff-a", "diff-b"].map(id => data.runs[Number($(id).value)]), body = $("diff-table").tBodies[0];
  body.replaceChildren();
  const add = (name, first, second) => {
    if (formatValue(first) === formatValue(second)) return;
    const row = body.insertRow();
    for (const text of [name, formatValue(first), formatValue(second)]) row.insertCell().textContent = text;
  };
  for (const key of data.settings) add(key, a.settings[key], b.settings[key]);
  for (const metric of [data.objective, ...data.metrics]) add(metric.title, valueOfRun(a, metric.key), valueOfRun(b, metric.key));
  add("state", a.state, b.state);
  if (!body.rows.length) body.insertRow().insertCell().textContent = "nothing that varies in this comparison";
}

function splitWords(text) { return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? []; }
function markedText(text, reference) { // the words of text that reference does not contain are marked
  const a = splitWords(reference).slice(0, 600), b = splitWords(text).slice(0, 600), rest = splitWords(text).slice(600).join("");
  const table = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--)
    table[i][j] = a[i] === b[j] ? table[i + 1][j + 1] + 1 : Math.max(table[i + 1][j], table[i][j + 1]);
  const pre = document.createElement("pre");
  const add = (kind, word) => {
    if (pre.lastChild?.nodeName.toLowerCase() === kind) pre.lastChild.textContent += word;
    else pre.append(kind === "#text" ? document.createTextNode(word) : Object.assign(document.createElement(kind), { textContent: word }));
  };
  let i = 0, j = 0;
  while (j < b.length) {
    if (i < a.length && a[i] === b[j]) { add("#text", b[j]); i++; j++; }
    else if (i < a.length && table[i + 1][j] >= table[i][j + 1]) i++;
    else { add("ins", b[j]); j++; }
  }
  pre.append(rest);
  return pre;
}

const selectedColumns = () => [...$("answer-runs").querySelectorAll("input:checked")].map(box => Number(box.value));
function updateAnswerRows() {
  const columns = selectedColumns(), select = $("answer-row"), before = select.value;
  const rows = data.rows.map((row, i) => i).filter(i => !$("answer-differ").checked || new Set(columns.map(c => data.rows[i].answers[c])).size > 1);
  select.replaceChildren(...rows.map(i => newOption(i, `${i + 1}: ${data.rows[i].id}`)));
  if (before !== "" && rows.includes(Number(before))) select.value = before;
  $("answer-note").textContent = `${rows.length} of ${data.rows.length} row${data.rows.length === 1 ? "" : "s"}${data.omitted_rows ? ` (${data.omitted_rows} more are in predictions.jsonl)` : ""}; words that the reference does not contain are marked.`;
  showAnswers();
}
function showAnswers() {
  const row = data.rows[Number($("answer-row").value)], view = $("answer-view");
  view.replaceChildren();
  if (!row || $("answer-row").value === "") return;
  const card = (title, content) => {
    const box = Object.assign(document.createElement("div"), { className: "card" });
    box.append(Object.assign(document.createElement("h3"), { textContent: title }), content);
    return box;
  };
  const plain = text => Object.assign(document.createElement("pre"), { textContent: text });
  const cards = Object.assign(document.createElement("div"), { className: "cards" });
  cards.append(card("request", plain(row.request)), card("reference", plain(row.reference)));
  for (const column of selectedColumns()) {
    const answer = row.answers[column];
    cards.append(card(describeRun(data.runs[data.answering[column]]), answer === null ? plain("(no answer)") : markedText(answer, row.reference)));
  }
  view.append(cards);
}

// ------------------------------------------------------------------------------------------------------------------- start
// A plot is drawn when it becomes visible, or when the page is printed.
const plots = { effects: drawSettingEffects, parallel: drawParallelCoordinates, curves: drawCurves, scatter: drawFront };
const drawnPlots = new Set();
function drawSettingEffects() { if ($("setting-x")) drawScatter("setting-plot", $("setting-x").value, $("setting-y").value); }
function redrawPlots() { for (const id of drawnPlots) plots[id](); }
function drawWhenVisible() {
  const observer = new IntersectionObserver(entries => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      observer.unobserve(target);
      drawnPlots.add(target.id);
      plots[target.id]();
    }
  }, { rootMargin: "300px" });
  for (const id of Object.keys(plots)) observer.observe($(id));
  addEventListener("beforeprint", () => { setPrinting(true); for (const id of Object.keys(plots)) { drawnPlots.add(id); plots[id](); } });
  addEventListener("afterprint", () => { setPrinting(false); redrawPlots(); });
}
let printing = false; // paper is light and narrow, whatever the screen is
function setPrinting(on) { printing = on; document.documentElement.toggleAttribute("data-print", on); }

async function main() {
  data = JSON.parse(await decompress("data"));
  const script = document.createElement("script");
  script.textContent = await decompress("plotly");
  document.head.append(script);
  visibleRuns = new Set(data.runs.keys());
  const metrics = [[data.objective.key, data.objective.title], ...data.metrics.map(m => [m.key, m.title])];
  if ($("setting-x")) {
    $("setting-x").append(...data.settings.map(key => newOption(key, key)));
    $("setting-y").append(...metrics.map(([key, title]) => newOption(key, title)));
    for (const id of ["setting-x", "setting-y"]) $(id).onchange = drawSettingEffects;
  }
  for (const id of ["front-x", "front-y"]) { $(id).append(...metrics.map(([key, title]) => newOption(key, title))); $(id).onchange = drawFront; }
  $("front-x").value = data.fronts[0]?.x ?? metrics.at(-1)[0];
  $("front-y").value = data.fronts[0]?.y ?? data.objective.key;
  for (const id of ["diff-a", "diff-b"]) { $(id).append(...data.runs.map((run, i) => newOption(i, describeRun(run)))); $(id).onchange = showDifference; }
  if (data.runs.length > 1) $("diff-b").value = 1;
  data.answering.forEach((index, column) => {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: column, checked: column < 3, onchange: updateAnswerRows });
    const tag = document.createElement("label");
    tag.append(box, ` ${runLabel(data.runs[index])}`);
    $("answer-runs").append(tag);
  });
  if (!data.rows.length) $("answers").hidden = true;
  for (const button of $("runs").tHead.querySelectorAll("button")) button.parentNode.onclick = () => sortTable(button.parentNode);
  $("filter").oninput = applyFilters;
  $("curve-kind").onchange = $("curve-log").onchange = drawCurves;
  $("answer-differ").onchange = updateAnswerRows;
  $("answer-row").onchange = showAnswers;
  $("answer-next").onclick = () => { const s = $("answer-row"); s.selectedIndex = (s.selectedIndex + 1) % s.options.length; showAnswers(); };
  $("unbrush").onclick = () => { Plotly.restyle($("parallel-plot"), Object.fromEntries(dimensions.map((_, i) => [`dimensions[${i}].constraintrange`, null]))); };
  drawWhenVisible(); showDifference(); updateAnswerRows();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawPlots);
  document.documentElement.dataset.ready = Math.round(performance.now());
}
main().catch(error => {
  const note = Object.assign(document.createElement("p"), { className: "warn", textContent: `The plots cannot be drawn in this browser (${error.message}); a browser of 2023 or later is needed.` });
  document.body.prepend(note);
});
