// The viewer of one unit: a map over its picture, enlarged.

class Viewer {
  constructor(unit) {
    this.unit = unit;
    this.root = document.getElementById("viewer").content.firstElementChild.cloneNode(true);
    this.stage = this.find(".stage");
    this.layers = this.find(".layers");
    this.canvas = this.find(".layers canvas");
    this.blend = this.find(".blend");
    this.zoom = this.find(".zoom");
    const { width, height, article, part } = unit;
    this.canvas.width = width;
    this.canvas.height = height;
    for (const svg of all("svg", this.layers)) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.find("use").setAttribute("href", `#${article.dataset.picture}`);
    this.find(".box").append(...all(".whole rect", article).map(line => line.cloneNode()));
    this.stage.setAttribute("aria-label", `${article.dataset.image}, enlarged; scrolls when zoomed`);
    for (const way of all("[type=radio]", this.root)) way.name = `way-${article.id}`;
    if (!part) for (const control of all(".closer, .check", this.root)) control.remove();
    this.listen();
    article.querySelector(".explorer").prepend(this.root);
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  listen() {
    const on = (selector, kind, does) => this.find(selector)?.addEventListener(kind, does);
    for (const way of all("[type=radio]", this.root)) way.addEventListener("change", () => this.draw());
    on(".blend", "input", () => this.mix());
    on(".zoom", "input", () => this.enlarge());
    on(".closer", "click", () => this.closer());
    on(".boxed", "change", event => this.find(".box").toggleAttribute("hidden", !event.target.checked));
    on(".save", "click", () => save(this.composed(), `${this.unit.article.id}-${this.way}`));
    on(".stage", "dblclick", event => this.times(this.zoom.value >= 16 ? 1 : this.zoom.value * 2, event));
    // Only once it was clicked, so that who scrolls through the page does not zoom.
    this.stage.addEventListener("wheel", event => {
      if (!event.ctrlKey && document.activeElement !== this.stage) return;
      event.preventDefault();
      this.times(Number(this.zoom.value) - Math.sign(event.deltaY), event);
    }, { passive: false });
    on(".stage", "pointermove", event => {
      if (event.buttons === 1 && event.pointerType === "mouse") this.stage.scrollBy(-event.movementX, -event.movementY);
    });
  }

  get way() {
    return this.find("[type=radio]:checked").value;
  }

  /** The chosen map onto the stage, in the page's view or as a veil. */
  draw() {
    const card = this.unit.chosen, [strength] = strengthOf(card);
    const veil = this.way === "veil";
    const [top, left, bottom, right] = this.unit.window;
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.clearRect(0, 0, this.unit.width, this.unit.height);
    if (veil) {
      context.fillRect(0, 0, this.unit.width, this.unit.height);
      context.clearRect(left, top, right - left, bottom - top);
    }
    const map = drawn(read(card.querySelector("img")), veil ? "veil" : state.view, strength);
    context.drawImage(map, left, top, right - left, bottom - top);
    this.canvas.setAttribute("aria-label", `map by ${card.dataset.method}, ${veil ? "as a veil over the picture" : `${state.view} view`}`);
    this.find(".slide .words").textContent = veil ? "Veil" : "Blend";
    this.find(".slide .ends span:last-child").textContent = veil ? "strong parts only" : "map";
    this.mix();
  }

  mix() {
    this.canvas.style.opacity = this.blend.value / 100;
  }

  /** What the stage shows, without its zoom. */
  composed() {
    const { width, height, part } = this.unit;
    const whole = blank(width, height), context = whole.getContext("2d");
    context.drawImage(this.unit.picture, 0, 0, width, height);
    context.globalAlpha = this.blend.value / 100;
    context.drawImage(this.canvas, 0, 0);
    context.globalAlpha = 1;
    if (part && this.find(".boxed").checked) {
      const [top, left, bottom, right] = part;
      context.strokeStyle = "#ffc400";
      context.strokeRect(left - .5, top - .5, right - left + 1, bottom - top + 1);
    }
    return whole;
  }

  resize() {
    const { width, height } = this.unit;
    this.scale = fit(width, height, this.root.clientWidth - 2, window.innerHeight * 0.8);
    // No larger than the picture, so that only what is zoomed scrolls; two pixels are its border.
    this.stage.style.width = `${width * this.scale + 2}px`;
    this.stage.style.height = `${height * this.scale + 2}px`;
    this.enlarge();
  }

  /** Zoom so that a point of the picture lies at a place of the stage: the middle stays, unless they are given. */
  enlarge(point = this.point(this.centre()), place = this.centre()) {
    const times = Number(this.zoom.value);
    sized(this.layers, this.unit.width, this.unit.height, this.scale * times);
    this.find("output").textContent = `×${times}`;
    this.root.classList.toggle("zoomed", times > 1);
    this.stage.scrollLeft = point[0] * this.layers.clientWidth - place[0];
    this.stage.scrollTop = point[1] * this.layers.clientHeight - place[1];
  }

  /** Zoom about the pointer. */
  times(times, event) {
    const corner = this.stage.getBoundingClientRect();
    const place = [event.clientX - corner.left - 1, event.clientY - corner.top - 1];
    const point = this.point(place);
    this.zoom.value = times;
    this.enlarge(point, place);
  }

  centre() {
    return [this.stage.clientWidth / 2, this.stage.clientHeight / 2];
  }

  /** Which point of the picture lies at a place of the stage, as shares of its width and height. */
  point([x, y]) {
    const along = (from, at, length) => (length ? (from + at) / length : 0.5);
    return [along(this.stage.scrollLeft, x, this.layers.clientWidth), along(this.stage.scrollTop, y, this.layers.clientHeight)];
  }

  closer() {
    const [top, left, bottom, right] = this.unit.part;
    const across = this.stage.clientWidth / this.scale / (right - left);
    const down = this.stage.clientHeight / this.scale / (bottom - top);
    this.zoom.value = Math.floor(Math.min(across, down));
    this.enlarge([(left + right) / 2 / this.unit.width, (top + bottom) / 2 / this.unit.height]);
  }
}
