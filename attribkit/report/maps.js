"use strict";
// Maps: from the pictures that the page holds to numbers, and from numbers to the colours of a view.

const ZERO = 128, FULL = 127;
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const palettes = { signed: bytes(document.body.dataset.signed), absolute: bytes(document.body.dataset.absolute) };

// A browser that guards against fingerprinting gives back other bytes than were drawn. One off cannot be seen.
function readable() {
  const context = new OffscreenCanvas(16, 16).getContext("2d", { willReadFrequently: true });
  const drawn = new ImageData(16, 16);
  for (let i = 0; i < drawn.data.length; i++) drawn.data[i] = i % 4 === 3 ? 255 : i % 251;
  context.putImageData(drawn, 0, 0);
  const read = context.getImageData(0, 0, 16, 16).data;
  return drawn.data.every((value, i) => Math.abs(value - read[i]) <= 1);
}

// The four views: from shares of full strength, red, green and blue, to the bytes of a pixel.
const share = value => Math.max(-1, Math.min(1, value));
const largest = shares => Math.max(Math.abs(shares[0]), Math.abs(shares[1]), Math.abs(shares[2]));
const coloured = (out, at, palette, index) => out.set(palette.subarray(3 * index, 3 * index + 3), at);
const VIEWS = {
  signed(out, at, shares) {
    coloured(out, at, palettes.signed, Math.round(255 + 255 * share(shares[0] + shares[1] + shares[2])));
  },
  absolute(out, at, shares) {
    coloured(out, at, palettes.absolute, Math.round(255 * share(largest(shares))));
  },
  positive(out, at, shares) {
    for (let i = 0; i < 3; i++) out[at + i] = Math.round(255 * Math.max(0, share(shares[i])));
  },
  classic(out, at, shares) {
    for (let i = 0; i < 3; i++) out[at + i] = Math.round(ZERO + FULL * share(shares[i]));
  },
  // No view but a veil over the picture: black, and clear where the map is strong.
  veil(out, at, shares) {
    out[at] = out[at + 1] = out[at + 2] = 0;
    out[at + 3] = Math.round(255 * (1 - Math.sqrt(share(largest(shares)))));
  },
};

/** A map in a view, on a canvas of its own size. */
function drawn(map, view, strength) {
  const image = new ImageData(map.width, map.height);
  const step = map.range / FULL / (strength || 1);
  const grey = map.planes === 1;
  const shares = [0, 0, 0];
  for (let at = 0; at < image.data.length; at += 4) {
    for (let i = 0; i < 3; i++) shares[i] = (map.bytes[at + i] - ZERO) * step;
    // The sum over one channel is that channel.
    if (grey && view === "signed") shares[1] = shares[2] = 0;
    image.data[at + 3] = 255;
    VIEWS[view](image.data, at, shares);
  }
  const canvas = blank(map.width, map.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const read_maps = new Map();

/** What the picture of a map holds; it is read when it is first asked for. */
function read(image) {
  if (!read_maps.has(image)) {
    const width = image.naturalWidth, height = image.naturalHeight;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const data = context.getImageData(0, 0, width, height).data;
    const { planes, range } = image.dataset;
    read_maps.set(image, { width, height, bytes: data, planes: Number(planes), range: Number(range) });
  }
  return read_maps.get(image);
}

const strengths = image => JSON.parse(image.dataset.strengths);

/** The value of a map at a share of its width and height, in words. */
function value(map, across, down) {
  const at = 4 * (Math.floor(down * map.height) * map.width + Math.floor(across * map.width));
  const steps = [0, 1, 2].map(i => map.bytes[at + i] - ZERO).slice(0, map.planes);
  const words = steps => (steps / FULL * map.range).toPrecision(2).replace("-", "−");
  const cut = steps.some(step => Math.abs(step) >= FULL) ? ", cut off" : "";
  if (map.planes === 1) return words(steps[0]) + cut;
  return `${words(steps[0] + steps[1] + steps[2])} (red ${words(steps[0])}, green ${words(steps[1])}, blue ${words(steps[2])}${cut})`;
}

function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// As many whole screen pixels a pixel as fit; where not even one fits, the browser has to scale down.
function fit(width, height, room, high = room) {
  const ratio = window.devicePixelRatio || 1;
  const times = Math.min(room * ratio / width, high * ratio / height);
  return (times >= 1 ? Math.floor(times) : times) / ratio;
}

function sized(element, width, height, scale) {
  element.style.width = `${width * scale}px`;
  element.style.height = `${height * scale}px`;
  element.classList.toggle("smooth", scale * (window.devicePixelRatio || 1) < 1);
}

/** Hand a canvas to the reader as a file, each pixel as a square. */
function save(canvas, name) {
  const times = Math.max(1, Math.floor(672 / Math.max(canvas.width, canvas.height)));
  const large = blank(canvas.width * times, canvas.height * times), context = large.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, 0, 0, large.width, large.height);
  const link = document.createElement("a");
  link.download = `${name}.png`;
  link.href = large.toDataURL();
  link.click();
}
