"use strict";
(() => {
  const ZERO = 128, FULL = 127;
  const LARGEST_CARD = 224;
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
  const coloured = (out, at, palette, index) => out.set(palette.subarray(3 * index, 3 * index + 3), at);
  const VIEWS = {
    signed(out, at, shares) {
      coloured(out, at, palettes.signed, Math.round(255 + 255 * share(shares[0] + shares[1] + shares[2])));
    },
    absolute(out, at, shares) {
      const largest = Math.max(Math.abs(shares[0]), Math.abs(shares[1]), Math.abs(shares[2]));
      coloured(out, at, palettes.absolute, Math.round(255 * share(largest)));
    },
    positive(out, at, shares) {
      for (let i = 0; i < 3; i++) out[at + i] = Math.round(255 * Math.max(0, share(shares[i])));
    },
    classic(out, at, shares) {
      for (let i = 0; i < 3; i++) out[at + i] = Math.round(ZERO + FULL * share(shares[i]));
    },
  };

  function picture(map, view, strength) {
    const image = new ImageData(map.width, map.height);
    const step = map.range / FULL / (strength || 1);
    const grey = map.planes === 1;
    const shares = [0, 0, 0];
    for (let at = 0; at < image.data.length; at += 4) {
      for (let i = 0; i < 3; i++) shares[i] = (map.bytes[at + i] - ZERO) * step;
      // The sum over one channel is that channel.
      if (grey && view === "signed") shares[1] = shares[2] = 0;
      VIEWS[view](image.data, at, shares);
      image.data[at + 3] = 255;
    }
    return image;
  }

  async function read(image) {
    await image.decode();
    const width = image.naturalWidth, height = image.naturalHeight;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const { planes, range, strengths } = image.dataset;
    return {
      width, height, bytes: context.getImageData(0, 0, width, height).data,
      planes: Number(planes), range: Number(range), strengths: JSON.parse(strengths),
    };
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

  class Unit {
    constructor(article, maps) {
      this.article = article;
      this.maps = maps;
      this.width = Number(article.dataset.width);
      this.height = Number(article.dataset.height);
      this.part = article.dataset.part ? article.dataset.part.split(",").map(Number) : null;
      this.stage = this.find(".stage");
      this.layers = this.find(".layers");
      this.canvas = this.find(".layers canvas");
      this.blend = this.find(".blend");
      this.zoom = this.find(".zoom");
      this.find(".layers img").src = this.find(".card img").src;
      this.find(".viewer").hidden = false;
      for (const element of all(".part, .under", article)) element.hidden = false;
      this.listen();
      this.mix();
    }

    find(selector) {
      return this.article.querySelector(selector);
    }

    listen() {
      for (const radio of all("input[type=radio]", this.article)) radio.addEventListener("change", () => this.choose());
      this.blend.addEventListener("input", () => this.mix());
      this.zoom.addEventListener("input", () => this.enlarge());
      this.find(".closer")?.addEventListener("click", () => this.closer());
      const boxed = this.find(".boxed");
      boxed?.addEventListener("change", () => this.find(".layers .box").toggleAttribute("hidden", !boxed.checked));
      this.stage.addEventListener("pointermove", event => {
        if (event.buttons === 1 && event.pointerType === "mouse") this.stage.scrollBy(-event.movementX, -event.movementY);
      });
    }

    /** Draw every map in a view; `largest` has the strength and its words for each method. */
    draw(view, largest) {
      this.view = view;
      for (const card of all("label.card", this.article)) {
        const map = this.maps.get(card), [strength, words] = largest(card, view);
        card.querySelector(".scale").textContent = words;
        map.drawn = picture(map, view, strength);
        card.querySelector(".plate > canvas").getContext("2d").putImageData(map.drawn, 0, 0);
      }
      this.cut();
      this.choose();
    }

    /** What the unit sees, of the picture and of each map. */
    cut() {
      if (!this.part) return;
      const [top, left, bottom, right] = this.part, width = right - left, height = bottom - top;
      for (const card of all(".card", this.article)) {
        const canvas = card.querySelector(".part canvas");
        canvas.width = width;
        canvas.height = height;
        canvas.getContext("2d").drawImage(card.querySelector(".plate > img:not([hidden]), .plate > canvas"), left, top, width, height, 0, 0, width, height);
      }
    }

    /** The chosen method's map onto the stage. */
    choose() {
      const card = this.find("input[type=radio]:checked").closest(".card");
      this.canvas.getContext("2d").putImageData(this.maps.get(card).drawn, 0, 0);
      this.canvas.setAttribute("aria-label", `map by ${card.dataset.method}, ${this.view} view`);
    }

    mix() {
      this.canvas.style.opacity = this.blend.value / 100;
    }

    /** Sizes that follow from the width of the page. */
    resize() {
      for (const card of all(".card", this.article)) {
        // Two pixels are the border.
        const room = Math.min(card.clientWidth - 2, LARGEST_CARD);
        const whole = fit(this.width, this.height, room);
        sized(card.querySelector(".plate").firstElementChild, this.width, this.height, whole);
        const drawn = card.querySelector(".plate > canvas");
        if (drawn) sized(drawn, this.width, this.height, whole);
        if (!this.part) continue;
        const [top, left, bottom, right] = this.part;
        sized(card.querySelector(".part canvas"), right - left, bottom - top, fit(right - left, bottom - top, room));
      }
      this.scale = fit(this.width, this.height, this.find(".viewer").clientWidth - 2, window.innerHeight * 0.8);
      // No larger than the picture, so that only what is zoomed scrolls; two pixels are its border.
      this.stage.style.width = `${this.width * this.scale + 2}px`;
      this.stage.style.height = `${this.height * this.scale + 2}px`;
      this.enlarge();
    }

    /** Zoom about the middle of what is seen, or about a given point. */
    enlarge(middle = this.middle()) {
      const times = Number(this.zoom.value);
      sized(this.layers, this.width, this.height, this.scale * times);
      this.find("output").textContent = `×${times}`;
      this.article.classList.toggle("zoomed", times > 1);
      this.stage.scrollLeft = middle[0] * this.layers.clientWidth - this.stage.clientWidth / 2;
      this.stage.scrollTop = middle[1] * this.layers.clientHeight - this.stage.clientHeight / 2;
    }

    middle() {
      const along = (from, room, length) => (length ? (from + room / 2) / length : 0.5);
      const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.stage;
      return [along(scrollLeft, clientWidth, this.layers.clientWidth), along(scrollTop, clientHeight, this.layers.clientHeight)];
    }

    closer() {
      const [top, left, bottom, right] = this.part;
      const across = this.stage.clientWidth / this.scale / (right - left);
      const down = this.stage.clientHeight / this.scale / (bottom - top);
      this.zoom.value = Math.floor(Math.min(across, down));
      this.enlarge([(left + right) / 2 / this.width, (top + bottom) / 2 / this.height]);
    }
  }

  function key(view) {
    for (const key of all(".key p")) key.hidden = key.dataset.view !== view;
    const stops = { positive: ["black", "white"], classic: ["black", "white"] }[view] ?? colours(palettes[view]);
    document.querySelector(".bar i").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const both = view === "signed" || view === "classic";
    document.querySelector(".bar .low").textContent = both ? "−full strength" : "0";
    document.querySelector(".bar .mid").textContent = both ? "0" : "";
    document.querySelector(".bar .high").textContent = both ? "+full strength" : "full strength";
  }

  function colours(palette) {
    const last = palette.length / 3 - 1;
    return Array.from({ length: 17 }, (_, i) => {
      const at = 3 * Math.round(last * i / 16);
      return `rgb(${palette[at]}, ${palette[at + 1]}, ${palette[at + 2]})`;
    });
  }

  async function start() {
    if (!readable()) {
      document.getElementById("unreadable").hidden = false;
      return;
    }
    const maps = new Map();
    for (const card of all("label.card")) {
      const image = card.querySelector("img");
      const map = await read(image);
      const canvas = document.createElement("canvas");
      canvas.width = map.width;
      canvas.height = map.height;
      canvas.setAttribute("aria-hidden", "true");
      image.after(canvas);
      image.hidden = true;
      maps.set(card, map);
    }
    const units = all("article").map(article => new Unit(article, maps));
    const common = document.getElementById("common");

    function largest(card, view) {
      const own = maps.get(card).strengths[view];
      if (!common?.checked) return own;
      const method = all("label.card").filter(other => other.dataset.method === card.dataset.method);
      return method.map(other => maps.get(other).strengths[view]).reduce((a, b) => (b[0] > a[0] ? b : a), own);
    }

    function draw() {
      const view = document.querySelector("input[name=view]:checked").value;
      key(view);
      for (const unit of units) unit.draw(view, largest);
    }

    document.querySelector(".toolbar").hidden = false;
    for (const control of all(".toolbar input")) control.addEventListener("change", draw);
    await Promise.all(all("article .card img").map(image => image.decode()));
    draw();
    const resize = () => units.forEach(unit => unit.resize());
    resize();
    window.addEventListener("resize", resize);
    document.documentElement.dataset.ready = "";
  }

  start();
})();
