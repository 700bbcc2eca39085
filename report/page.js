"use strict";
// The values at the pointer, of every chart on the page: mouse, touch, and the arrow keys.
for (const chart of document.querySelectorAll(".chart")) {
  const data = JSON.parse(chart.dataset.chart), plot = chart.querySelector(".plot");
  const [left, right, bottom, top] = data.lim, isScatter = data.lines.some(line => line.t);
  const cursor = plot.appendChild(document.createElement("div")), tip = plot.appendChild(document.createElement("div"));
  cursor.className = "cursor"; tip.className = "tip"; cursor.hidden = tip.hidden = true;
  const along = (log, low, high, v) => log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low);
  const across = x => along(data.log[0], left, right, x), up = y => along(data.log[1], bottom, top, y);
  const every = [...new Set(data.lines.flatMap(line => line.v[0]))].sort((a, b) => a - b);
  let at = -1;

  const nearest = (xs, part) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (across(xs[middle]) < part) low = middle; else high = middle;
    }
    return Math.abs(across(xs[low]) - part) <= Math.abs(across(xs[high]) - part) ? low : high;
  };
  const row = (text, line) => {
    const div = tip.appendChild(document.createElement("div"));
    if (line) div.appendChild(document.createElement("i")).className = "c" + line.c + " " + line.s;
    div.append(text);
  };
  const show = part => {
    cursor.hidden = tip.hidden = false;
    cursor.style.left = 100 * part + "%";
    tip.style.left = part < 0.5 ? 100 * part + 2 + "%" : "auto";
    tip.style.right = part < 0.5 ? "auto" : 102 - 100 * part + "%";
  };
  const showLines = index => {
    at = index;
    const x = every[at], part = across(x);
    tip.textContent = "";
    row(data.x + " " + x);
    for (const line of data.lines) {
      const [xs, ys, lows, highs] = line.v, i = nearest(xs, part);
      if (Math.abs(across(xs[i]) - part) > 0.02) continue;
      row(line.n + ": " + ys[i] + (lows ? " (" + lows[i] + " to " + highs[i] + ")" : ""), line);
    }
    show(part);
  };
  const showDot = (px, py, width, height) => {
    let best = null, distance = 900;
    for (const line of data.lines) line.v[0].forEach((x, i) => {
      const dx = (across(x) - px) * width, dy = (1 - up(line.v[1][i]) - py) * height, d = dx * dx + dy * dy;
      if (d < distance) { distance = d; best = [line, i]; }
    });
    if (!best) return hide();
    const [line, i] = best;
    tip.textContent = "";
    row(line.n, line);
    if (line.t[i]) row(line.t[i]);
    row(line.v[0][i] + ", " + line.v[1][i]);
    show(across(line.v[0][i]));
  };
  const hide = () => { cursor.hidden = tip.hidden = true; };
  const point = event => {
    const box = plot.getBoundingClientRect();
    const part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    if (isScatter) showDot(part, (event.clientY - box.top) / box.height, box.width, box.height);
    else showLines(nearest(every, part));
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hide(); });
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -every.length, End: every.length }[event.key];
    if (event.key === "Escape") hide();
    if (!step || isScatter) return;
    showLines(Math.min(Math.max(at + step, 0), every.length - 1));
    event.preventDefault();
  });
}
// Pictures over time: the slider shows one of them; without a script all stand side by side.
for (const strip of document.querySelectorAll(".strip[data-slider]")) {
  const pictures = [...strip.children], slider = document.createElement("input");
  if (pictures.length < 2) continue;
  slider.type = "range"; slider.min = 0; slider.max = slider.value = pictures.length - 1;
  slider.setAttribute("aria-label", strip.dataset.slider);
  const show = () => pictures.forEach((picture, i) => { picture.hidden = i !== Number(slider.value); });
  slider.addEventListener("input", show);
  strip.before(slider);
  show();
}
document.documentElement.dataset.ready = "yes";
