// The page: its units, which of them are shown, and how.

const LARGEST_CARD = 224;
const state = { view: "classic", common: false, own: true };
const main = document.getElementById("units");
const units = [];

class Unit {
  constructor(article) {
    const numbers = text => text.split(",").map(Number);
    this.article = article;
    this.cards = all("label.card", article);
    [this.width, this.height] = numbers(article.dataset.size);
    this.window = numbers(article.dataset.window);
    this.part = article.dataset.part ? numbers(article.dataset.part) : null;
    this.near = false;
    this.viewer = null;
    for (const card of this.cards) card.querySelector("input").addEventListener("change", () => refresh([this]));
    article.addEventListener("pointermove", event => this.tell(event));
  }

  /** Unfolded, with its viewer and all its maps; in the overview the others show one map only. */
  get open() {
    return main.dataset.mode === "full" || this.article.matches(":target");
  }

  get chosen() {
    return this.cards.find(card => card.querySelector("input").checked);
  }

  paint() {
    for (const card of this.open ? this.cards : [this.chosen]) this.draw(card);
  }

  /** Whether the pictures of maps are there that are to be read; a large page loads them late. */
  get loaded() {
    if (!this.open && state.own) return true;
    const images = all("label.card img", this.article).filter(image => !image.naturalWidth);
    for (const image of images) image.loading = "eager";
    if (images.length) Promise.all(images.map(image => image.decode())).then(() => refresh([this]));
    return !images.length;
  }

  unfold() {
    this.picture = new Image();
    this.picture.src = document.getElementById(this.article.dataset.picture).getAttribute("href");
    this.viewer = new Viewer(this);
    for (const card of all(".card", this.article)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "save";
      button.textContent = "Save";
      button.setAttribute("aria-label", `Save ${card.dataset.method ? `the map by ${card.dataset.method}` : "the picture"}`);
      button.addEventListener("click", event => {
        event.preventDefault();
        const name = card.dataset.method ? `${card.dataset.method}-${state.view}` : "picture";
        save(card.dataset.method ? this.map(card) : this.cut(), `${this.article.id}-${name}`.replace(/[^\w.-]+/g, "-"));
      });
      card.append(button);
    }
    const back = document.createElement("a");
    back.href = "#units";
    back.className = "back";
    back.textContent = "Back to the overview";
    this.article.querySelector("header").append(back);
  }

  map(card) {
    return drawn(read(card.querySelector("img")), state.view, strengthOf(card)[0]);
  }

  /** The page's own picture shows the classic view at its own scale; any other is drawn beside it. */
  draw(card) {
    const image = card.querySelector("img"), [strength, words] = strengthOf(card);
    card.querySelector(".scale").textContent = words;
    card.querySelector("canvas")?.remove();
    image.hidden = !state.own;
    if (state.own) return;
    const canvas = drawn(read(image), state.view, strength);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", image.alt);
    image.after(canvas);
  }

  /** The picture, as far as it is shown large. */
  cut() {
    const [top, left, bottom, right] = this.window;
    const part = blank(right - left, bottom - top);
    const wide = this.picture.naturalWidth / this.width, high = this.picture.naturalHeight / this.height;
    part.getContext("2d").drawImage(this.picture, left * wide, top * high, part.width * wide, part.height * high, 0, 0, part.width, part.height);
    return part;
  }

  /** Each card that is shown, and how wide it is. */
  measure() {
    const cards = this.open ? all(".card", this.article) : [this.chosen];
    this.rooms = cards.map(card => [card, Math.min(card.clientWidth - 2, LARGEST_CARD)]);
  }

  /** Sizes that follow from the width of the page. */
  resize() {
    const [top, left, bottom, right] = this.window, width = right - left, height = bottom - top;
    for (const [card, room] of this.rooms) {
      const scale = fit(width, height, room);
      for (const each of all("svg.plate, span.plate > *", card)) sized(each, width, height, scale);
    }
    if (this.open) this.viewer.resize();
  }

  /** The value under the pointer. */
  tell(event) {
    if (!this.viewer) return;
    const plate = event.target.closest(".layers, label.card .plate");
    const words = this.viewer.find(".value");
    words.textContent = "";
    if (!plate) return;
    const card = event.target.closest(".card") ?? this.chosen;
    const box = plate.getBoundingClientRect();
    const [top, left, bottom, right] = this.window;
    let across = (event.clientX - box.left) / box.width, down = (event.clientY - box.top) / box.height;
    if (plate.matches(".layers")) {
      across = (across * this.width - left) / (right - left);
      down = (down * this.height - top) / (bottom - top);
    }
    if (!(across >= 0 && across < 1 && down >= 0 && down < 1)) return;
    const row = top + Math.floor(down * (bottom - top)), column = left + Math.floor(across * (right - left));
    words.textContent = `row ${row}, column ${column}, ${card.dataset.method}: ${value(read(card.querySelector("img")), across, down)}`;
  }
}

/** The full strength of a map in the view of the page, and in words: its own, or the largest of its method. */
function strengthOf(card) {
  if (!state.common) return strengths(card.querySelector("img"))[state.view];
  const method = card.dataset.method;
  state.common[method] ??= all("label.card").filter(other => other.dataset.method === method)
    .map(other => strengths(other.querySelector("img"))[state.view]).reduce((a, b) => (b[0] > a[0] ? b : a));
  return state.common[method];
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

/** Draw what can be seen; a unit that is far away waits until it comes near. Measured first, as to write is to lay out. */
function refresh(some = units) {
  const near = some.filter(unit => unit.near && unit.loaded);
  for (const unit of near) if (unit.open && !unit.viewer) unit.unfold();
  for (const unit of near) unit.measure();
  for (const unit of near) {
    unit.paint();
    unit.resize();
    if (unit.open) unit.viewer.draw();
  }
}

/** Everything is drawn again as the toolbar says. */
function redraw() {
  state.view = document.querySelector("input[name=view]:checked").value;
  state.common = document.getElementById("common")?.checked ? {} : false;
  state.own = state.view === "classic" && !state.common;
  // What is printed is drawn in this view, too.
  if (!state.own) for (const image of all("label.card img")) image.loading = "eager";
  key(state.view);
  refresh();
}

// Which units are shown.
const filters = all(".filters select");

function offer() {
  for (const filter of filters) {
    const found = [...new Set(units.map(unit => unit.article.dataset[filter.name]))].filter(Boolean);
    found.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    filter.append(...found.map(text => new Option(text, text)));
    filter.parentElement.hidden = found.length < 2;
  }
}

function choose() {
  let count = 0;
  for (const { article } of units) {
    article.hidden = filters.some(filter => filter.value && filter.value !== article.dataset[filter.name]);
    count += !article.hidden;
  }
  document.querySelector(".count").textContent = count === units.length ? `${count} units` : `${count} of ${units.length} units`;
}

/** A link to a unit: it is shown, whatever was filtered. */
function follow() {
  const unit = units.find(each => each.article.matches(":target"));
  if (unit?.article.hidden) {
    for (const filter of filters) filter.value = "";
    choose();
  }
  refresh();
  (unit?.article ?? document.querySelector(":target"))?.scrollIntoView();
}

function start() {
  if (!readable()) {
    document.getElementById("unreadable").hidden = false;
    return;
  }
  units.push(...all("article").map(article => new Unit(article)));
  for (const part of all(".toolbar, .filters")) part.hidden = false;
  for (const control of all("input[name=view], #common")) control.addEventListener("change", redraw);
  for (const mode of all("input[name=mode]")) mode.addEventListener("change", () => {
    main.dataset.mode = mode.value;
    refresh();
  });
  const method = document.getElementById("method");
  method?.addEventListener("change", () => {
    for (const { cards } of units) for (const card of cards) if (card.dataset.method === method.value) card.querySelector("input").checked = true;
    refresh();
  });
  for (const filter of filters) filter.addEventListener("change", choose);
  if (filters.length) {
    offer();
    choose();
  }
  key(state.view);
  const byArticle = new Map(units.map(unit => [unit.article, unit]));
  const seen = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) byArticle.get(target).near = isIntersecting;
    refresh(entries.map(entry => byArticle.get(entry.target)));
    document.documentElement.dataset.ready = "";
  }, { rootMargin: main.matches(".many") ? "1500px" : "1000000px" });
  for (const { article } of units) seen.observe(article);
  window.addEventListener("resize", () => refresh());
  window.addEventListener("hashchange", follow);
  window.addEventListener("beforeprint", () => units.forEach(unit => unit.paint()));
  follow();
}

// The maps of a large page are loaded late; those of a small one are all there, so that nothing has to wait for them.
if (main.matches(".many")) start();
else window.addEventListener("load", start);
