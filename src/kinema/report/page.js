// One clock plays all clips: each is a sheet of all its frames, moved behind a window of one frame.
"use strict";

const sheets = [...document.querySelectorAll(".clip img")].map((image) => ({
  image,
  frames: Number(image.dataset.frames),
  columns: Number(image.dataset.columns),
  fps: Number(image.dataset.fps),
  shown: 0,
}));
const step = 1 / Math.max(...sheets.map((sheet) => sheet.fps)); // seconds
const steps = Math.round(Math.max(...sheets.map((sheet) => sheet.frames / sheet.fps)) / step);

if (sheets.length > 0 && steps > 1) {
  const player = document.querySelector(".player");
  const button = player.querySelector("button");
  const slider = player.querySelector("input");
  const time = player.querySelector("output");
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  let seconds = 0;
  let before = performance.now();

  const show = () => {
    const place = Math.min(Math.floor(seconds / step + 1e-6), steps - 1);
    if (Number(slider.value) !== place) slider.value = place;
    const text = `${(place * step).toFixed(2)} s`;
    if (time.textContent !== text) {
      time.textContent = text;
      slider.setAttribute("aria-valuetext", text);
    }
    for (const sheet of sheets) {
      // a shorter clip stays at its last frame
      const frame = Math.min(Math.floor(place * step * sheet.fps + 1e-6), sheet.frames - 1);
      if (frame === sheet.shown) continue;
      const rows = Math.ceil(sheet.frames / sheet.columns);
      const left = (frame % sheet.columns) / sheet.columns;
      const top = Math.floor(frame / sheet.columns) / rows;
      sheet.image.style.transform = `translate(${-100 * left}%, ${-100 * top}%)`;
      sheet.shown = frame;
    }
  };
  const play = (yes) => {
    playing = yes;
    button.textContent = playing ? "Pause" : "Play";
    before = performance.now();
    if (playing) requestAnimationFrame(tick);
  };
  const tick = (now) => {
    if (!playing) return;
    seconds = (seconds + Math.max(0, now - before) / 1000) % (steps * step);
    before = now;
    show();
    requestAnimationFrame(tick);
  };

  button.addEventListener("click", () => play(!playing));
  slider.addEventListener("input", () => {
    playing = false;
    button.textContent = "Play";
    seconds = Number(slider.value) * step;
    show();
  });
  slider.max = steps - 1;
  player.hidden = false;
  show();
  play(playing);
}
