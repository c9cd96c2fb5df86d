// The plot: what it draws, and what a pointer or a keyboard does to its points.

export const X = [-2, 2];
export const Y = [-3, 3];
export const GRID = Float32Array.from({ length: 161 }, (_, i) => X[0] + ((X[1] - X[0]) * i) / 160);

const MARGIN = { left: 34, right: 10, top: 10, bottom: 24 };

export class Plot {
  /** `changed` is called whenever points come, move or go. */
  constructor(canvas, points, { changed, moved }) {
    Object.assign(this, { canvas, points, changed, moved });
    this.cursor = null; // { x, y } in the units of the data
    this.prediction = null; // { mean, std }
    this.weights = null; // of the points, at each place of the grid
    this.dust = []; // points of a stream, drawn faintly
    this.held = null;
    this.context = canvas.getContext('2d');
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
    this.listen();
  }

  // --- from data to pixels, and back

  area() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return { l: MARGIN.left, t: MARGIN.top, w: w - MARGIN.left - MARGIN.right, h: h - MARGIN.top - MARGIN.bottom };
  }
  at(x, y) {
    const a = this.area();
    return [a.l + ((x - X[0]) / (X[1] - X[0])) * a.w, a.t + ((Y[1] - y) / (Y[1] - Y[0])) * a.h];
  }
  under(event) {
    const a = this.area();
    const box = this.canvas.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const inside = px > -30 && py > -30 && px < box.width + 30 && py < box.height + 30;
    const x = clamp(X[0] + ((px - a.l) / a.w) * (X[1] - X[0]), X);
    const y = clamp(Y[1] - ((py - a.t) / a.h) * (Y[1] - Y[0]), Y);
    return { x, y, px, py, inside };
  }
  near({ px, py }, reach) {
    const far = this.points.map((p) => Math.hypot(this.at(p.x, p.y)[0] - px, this.at(p.x, p.y)[1] - py));
    const i = far.indexOf(Math.min(...far));
    return i >= 0 && far[i] <= reach ? this.points[i] : null;
  }

  // --- what a visitor does

  listen() {
    const { canvas } = this;
    canvas.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      const at = this.under(event);
      canvas.setPointerCapture(event.pointerId);
      this.held = this.near(at, event.pointerType === 'touch' ? 24 : 11);
      if (!this.held) this.points.push((this.held = { x: at.x, y: at.y }));
      this.cursor = null;
      this.changed();
    });
    canvas.addEventListener('pointermove', (event) => {
      const at = this.under(event);
      if (this.held) {
        [this.held.x, this.held.y, this.held.off] = [at.x, at.y, !at.inside];
        this.changed();
      } else if (event.pointerType !== 'touch') {
        this.cursor = { x: at.x, y: null };
        canvas.style.cursor = this.near(at, 11) ? 'grab' : 'crosshair';
        this.moved();
      }
    });
    const drop = () => {
      if (this.held?.off) this.remove(this.held);
      this.held = null;
    };
    canvas.addEventListener('pointerup', drop);
    canvas.addEventListener('pointercancel', drop);
    canvas.addEventListener('pointerleave', () => {
      if (!this.held && this.cursor?.y === null) this.cursor = null;
      this.moved();
    });
    // The first click of the two may have made a point: both it and the one that was there go.
    canvas.addEventListener('dblclick', (event) => {
      for (let point; (point = this.near(this.under(event), 6)); ) this.points.splice(this.points.indexOf(point), 1);
      this.changed();
    });
    canvas.addEventListener('keydown', (event) => this.key(event));
    canvas.addEventListener('focus', () => canvas.matches(':focus-visible') && this.place());
  }

  place() {
    const { x = 0, y } = this.cursor ?? {};
    this.cursor = { x, y: y ?? 0 };
    this.moved();
  }

  key(event) {
    const step = event.shiftKey ? 0.25 : 0.05;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const move = moves[event.key];
    if (move) {
      this.place();
      this.cursor = { x: clamp(this.cursor.x + move[0], X), y: clamp(this.cursor.y + move[1], Y) };
      this.moved();
    } else if (event.key === 'Enter' || event.key === ' ') {
      this.place();
      this.points.push({ ...this.cursor });
      this.changed();
    } else if (event.key === 'Delete' || event.key === 'Backspace') {
      this.place();
      const [px, py] = this.at(this.cursor.x, this.cursor.y);
      this.remove(this.near({ px, py }, Infinity));
    } else return;
    event.preventDefault();
  }

  remove(point) {
    const i = this.points.indexOf(point);
    if (i >= 0) this.points.splice(i, 1);
    this.changed();
  }

  // --- what is drawn

  draw() {
    const { canvas, context: g } = this;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    const style = getComputedStyle(canvas);
    const color = (name) => style.getPropertyValue(name).trim();
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    this.axes(g, color);
    const a = this.area();
    g.save();
    g.beginPath();
    g.rect(a.l, a.t, a.w, a.h);
    g.clip();
    this.band(g, color);
    this.specks(g, color);
    this.line(g, color);
    g.restore();
    this.dots(g, color);
    this.cross(g, color);
  }

  axes(g, color) {
    const a = this.area();
    g.font = '11px system-ui, sans-serif';
    g.lineWidth = 1;
    g.strokeStyle = color('--line');
    g.fillStyle = color('--faint');
    g.textAlign = 'center';
    g.textBaseline = 'top';
    for (let x = X[0]; x <= X[1]; x++) {
      const [px] = this.at(x, 0);
      stroke(g, [[px, a.t], [px, a.t + a.h]]);
      g.fillText(String(x).replace('-', '−'), px, a.t + a.h + 7);
    }
    g.textAlign = 'right';
    g.textBaseline = 'middle';
    for (let y = Y[0]; y <= Y[1]; y++) {
      const [, py] = this.at(0, y);
      stroke(g, [[a.l, py], [a.l + a.w, py]]);
      g.fillText(String(y).replace('-', '−'), a.l - 8, py);
    }
  }

  edge(sigmas) {
    const { mean, std } = this.prediction;
    return Array.from(GRID, (x, i) => this.at(x, mean[i] + sigmas * std[i]));
  }

  band(g, color) {
    if (!this.prediction) return;
    for (const [sigmas, alpha] of [[1.96, 0.16], [1, 0.16]]) {
      g.beginPath();
      for (const [x, y] of this.edge(sigmas)) g.lineTo(x, y);
      for (const [x, y] of this.edge(-sigmas).reverse()) g.lineTo(x, y);
      g.fillStyle = `rgb(${color('--band')} / ${alpha})`;
      g.fill();
    }
    g.lineWidth = 1;
    g.strokeStyle = `rgb(${color('--band')} / .35)`;
    stroke(g, this.edge(1.96));
    stroke(g, this.edge(-1.96));
  }

  line(g, color) {
    if (!this.prediction) return;
    g.lineJoin = 'round';
    g.lineWidth = 2.5;
    g.strokeStyle = color('--accent');
    stroke(g, this.edge(0));
  }

  specks(g, color) {
    g.fillStyle = `rgb(${color('--dust')} / .5)`;
    for (const { x, y } of this.dust) {
      const [px, py] = this.at(x, y);
      g.fillRect(px - 1, py - 1, 2, 2);
    }
  }

  dots(g, color) {
    const row = this.weights && this.cursor ? this.weights[nearest(this.cursor.x)] : null;
    this.points.forEach((point, i) => {
      const [px, py] = this.at(point.x, point.y);
      // With a bias of one's own a point is as large as it counts at the cursor.
      const radius = row ? 3 + 11 * Math.sqrt(row[i] ?? 0) : 5;
      disc(g, px, py, radius + 2, color('--card'));
      disc(g, px, py, radius, point.off ? color('--faint') : color('--point'));
    });
  }

  cross(g, color) {
    if (!this.cursor) return;
    const a = this.area();
    const [px, py] = this.at(this.cursor.x, this.cursor.y ?? 0);
    g.lineWidth = 1;
    g.setLineDash([4, 4]);
    g.strokeStyle = color('--faint');
    stroke(g, [[px, a.t], [px, a.t + a.h]]);
    if (this.cursor.y !== null) {
      stroke(g, [[a.l, py], [a.l + a.w, py]]);
      g.setLineDash([]);
      g.lineWidth = 2;
      g.strokeStyle = color('--accent');
      g.beginPath();
      g.arc(px, py, 8, 0, 7);
      g.stroke();
    }
    g.setLineDash([]);
  }
}

/** The place of the grid beside x. */
export const nearest = (x) => Math.round(((clamp(x, X) - X[0]) / (X[1] - X[0])) * (GRID.length - 1));

const clamp = (v, [least, most]) => Math.min(most, Math.max(least, v));

function stroke(g, points) {
  g.beginPath();
  for (const [x, y] of points) g.lineTo(x, y);
  g.stroke();
}

function disc(g, x, y, radius, color) {
  g.beginPath();
  g.arc(x, y, radius, 0, 7);
  g.fillStyle = color;
  g.fill();
}
