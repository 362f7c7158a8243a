"use strict";
(() => {
  const G = window.GALLERY;
  const $ = id => document.getElementById(id);
  if (!G) {
    $("lost").hidden = false;
    return;
  }
  const TOP = G.top, WIDE = Math.ceil(Math.sqrt(TOP)), BANDS = ["99th percentile", "90th", "50th"];
  const main = $("rows");
  const number = value => String(Number(Number(value).toPrecision(3)));

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // A tile of a sheet as a background; sheets are loaded when a row comes near, and shared by the rows of a group.
  function paint(target, kind, place, column) {
    const group = Math.floor(place / G.group), high = Math.min(G.group, G.channels.length - group * G.group);
    const wide = kind === "map" ? TOP : G.columns, row = place % G.group;
    const style = target.style;
    style.backgroundImage = `url("sheets/${String(group).padStart(3, "0")}-${kind}.webp")`;
    style.backgroundSize = `${wide * 100}% ${high * 100}%`;
    style.backgroundPosition = `${wide > 1 ? column / (wide - 1) * 100 : 0}% ${high > 1 ? row / (high - 1) * 100 : 0}%`;
  }

  const name = held => G.names[held[0]];
  const label = held => G.labels[held[0]] ?? "";
  const words = held => [name(held), label(held), number(held[1])].filter(Boolean).join(", ");

  class Row {
    constructor(channel, place) {
      this.channel = channel;
      this.place = place;
      this.id = `${G.layer}-${channel.c}`;
      const images = [...channel.w, ...channel.b];
      this.text = [channel.c, this.id, ...Object.keys(channel.classes), ...images.map(name)].join("\n").toLowerCase();
      this.root = element("section", { class: "row", id: this.id, tabindex: "0", "aria-label": `channel ${channel.c}` });
      this.filled = false;
    }

    fill() {
      if (this.filled) return;
      this.filled = true;
      this.root.append(this.info(), this.block("patches", "strongest", "patch"), this.block("maps", G.method, "map"));
      if (this.channel.b.length) this.root.append(this.bands());
    }

    info() {
      const { c, fires, mean, q, h, lo, hi, classes, entropy, dead, unsure, w } = this.channel;
      const info = element("div", { class: "info" });
      info.append(element("h2", {}, element("a", { href: `#${this.id}` }, `${G.layer} ${c}`)));
      const strong = w.length ? number(w[0][1]) : "none";
      const told = element("p", { class: "told" });
      told.append(dead ? "dead: fires on no image" : "fires on ", dead ? "" : element("b", {}, share(fires)));
      if (!dead) told.append(`; strongest ${strong}, mean ${number(mean)}`);
      info.append(told);
      const found = Object.entries(classes);
      if (found.length) {
        const listed = found.slice(0, 3).map(([of, count]) => `${of} ${count}`).join(", ") + (found.length > 3 ? ", ..." : "");
        info.append(element("p", { class: "told" }, `${listed}; ${number(entropy)} bits`));
      }
      if (unsure) info.append(element("p", { class: "told" }, "others may be as strong as the last ones"));
      const most = Math.max(...h, 1);
      const bars = element("div", { class: "hist", role: "img", "aria-label": `scores from ${number(lo)} to ${number(hi)}; median ${number(q[2])}` });
      for (const count of h) {
        const bar = element("i");
        bar.style.height = `${Math.sqrt(count / most) * 100}%`;
        bars.append(bar);
      }
      const ends = element("div", { class: "ends" }, element("span", {}, number(lo)), element("span", {}, number(hi)));
      info.append(element("div", { class: "scores" }, bars, ends));
      return info;
    }

    block(kind, caption, sheet) {
      const tiles = element("div", { class: "tiles" });
      this.channel.w.forEach((held, column) => {
        const tile = element("button", { class: "tile", type: "button", "aria-label": `${sheet}: ${words(held)}`, title: words(held) });
        paint(tile, sheet, this.place, column);
        tile.addEventListener("click", () => closer(this, column));
        tiles.append(tile);
      });
      return element("div", { class: `block ${kind}` }, element("p", {}, caption), tiles);
    }

    bands() {
      const tiles = element("div", { class: "tiles three" });
      this.channel.b.forEach((held, column) => {
        const tile = element("span", { class: "tile", role: "img", "aria-label": `patch: ${words(held)}`, title: words(held) });
        paint(tile, "patch", this.place, TOP + column);
        tiles.append(tile);
      });
      tiles.style.setProperty("--wide", 3);
      return element("div", { class: "block bands" }, element("p", {}, BANDS.join(", ")), tiles);
    }
  }

  const share = part => part > 0 && part < 0.001 ? "under 0.1%" : `${number(part * 100)}%`;

  // What is looked at closer.
  function closer(row, column) {
    const held = row.channel.w[column], [, value, y, x, top, left, bottom, right] = held;
    $("closer-name").textContent = `${G.layer} ${row.channel.c}, number ${column + 1}`;
    paint($("big-patch"), "patch", row.place, column);
    paint($("big-map"), "map", row.place, column);
    const facts = { image: name(held), class: label(held), score: number(value) };
    if (y >= 0) facts.position = `row ${y}, column ${x}`;
    facts.sees = `rows ${top} to ${bottom - 1}, columns ${left} to ${right - 1}`;
    const shown = Object.entries(facts).filter(([, text]) => text !== "");
    $("closer-facts").replaceChildren(...shown.map(([key, text]) => element("div", {}, element("dt", {}, key), element("dd", {}, text))));
    $("closer").showModal();
  }

  const rows = G.channels.map((channel, place) => new Row(channel, place));
  document.documentElement.style.setProperty("--wide", WIDE);
  document.documentElement.style.setProperty("--high", Math.ceil(TOP / WIDE));
  main.dataset.show = "both";
  document.documentElement.classList.toggle("coarse", G.side < 60);
  const near = new IntersectionObserver(seen => {
    for (const entry of seen) if (entry.isIntersecting) byRoot.get(entry.target).fill();
  }, { rootMargin: "800px" });
  const byRoot = new Map(rows.map(row => [row.root, row]));
  main.append(...rows.map(row => row.root));
  for (const row of rows) near.observe(row.root);

  // Which rows are shown, and in which order.
  const first = channel => channel.w.length ? channel.w[0][1] : -Infinity;
  const common = channel => Object.keys(channel.classes)[0] ?? "\uffff";
  const ORDERS = {
    index: (a, b) => a.c - b.c,
    strength: (a, b) => first(b) - first(a),
    selectivity: (a, b) => a.dead - b.dead || a.fires - b.fires,
    class: (a, b) => common(a).localeCompare(common(b)) || a.entropy - b.entropy,
    entropy: (a, b) => a.entropy - b.entropy,
  };
  function arrange() {
    const order = ORDERS[$("order").value];
    main.append(...[...rows].sort((a, b) => order(a.channel, b.channel) || a.place - b.place).map(row => row.root));
    const wanted = $("search").value.trim().toLowerCase();
    const exact = /^\d+$/.test(wanted);
    let count = 0;
    for (const row of rows) {
      row.root.hidden = wanted !== "" && !(exact ? String(row.channel.c).startsWith(wanted) : row.text.includes(wanted));
      count += !row.root.hidden;
    }
    $("count").textContent = count === rows.length ? `${count} channels` : `${count} of ${rows.length} channels`;
  }
  $("search").addEventListener("input", arrange);
  $("order").addEventListener("change", arrange);
  const shows = [...document.querySelectorAll("input[name=show]")];
  for (const radio of shows) radio.addEventListener("change", () => { main.dataset.show = radio.value; });

  // A link to a unit.
  function follow() {
    const id = decodeURIComponent(location.hash.slice(1));
    const row = rows.find(each => each.id === id);
    if (!row) return;
    if (row.root.hidden) {
      $("search").value = "";
      arrange();
    }
    row.fill();
    row.root.scrollIntoView();
    row.root.focus({ preventScroll: true });
  }
  window.addEventListener("hashchange", follow);

  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("closer").open) return;
    if (/^(input|select|textarea)$/i.test(event.target.tagName) && event.target.type !== "radio") {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const shown = [...main.children].filter(root => !root.hidden);
    const here = shown.indexOf(document.activeElement.closest(".row"));
    if (event.key === "j" || event.key === "k") {
      const to = shown[here < 0 ? 0 : Math.max(0, Math.min(shown.length - 1, here + (event.key === "j" ? 1 : -1)))];
      to?.focus({ preventScroll: true });
      to?.scrollIntoView({ block: "start" });
    } else if (event.key === "Enter" && document.activeElement === shown[here]) {
      const row = byRoot.get(shown[here]);
      if (row.channel.w.length) closer(row, 0);
    } else if (event.key === "/") {
      $("search").focus();
    } else if (event.key === "m") {
      const next = shows[(shows.findIndex(radio => radio.checked) + 1) % shows.length];
      next.checked = true;
      main.dataset.show = next.value;
    } else {
      return;
    }
    event.preventDefault();
  });

  arrange();
  follow();
  document.documentElement.dataset.ready = "";
})();
