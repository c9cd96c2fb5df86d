// Points to begin with, and an endless stream.

/** Random numbers that are the same each time. */
export function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function normal(uniform) {
  return Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

const CURVES = [
  (x) => 1.1 * Math.sin(2.2 * x + 0.5) + 0.25 * x,
  (x) => 1.2 * Math.cos(2 * Math.PI * x),
  (x) => 0.8 * Math.sin(1.4 * x) + 0.7 * Math.cos(2 * Math.PI * x + 0.6),
];

/** The n-th example: noisy points with a gap. */
export function example(n) {
  const uniform = random(n + 1);
  const f = CURVES[n % CURVES.length];
  const points = [];
  while (points.length < 16 + 8 * (n % CURVES.length)) {
    const x = -1.9 + 3.4 * uniform();
    if (x < 0.1 || x > 0.75) points.push({ x, y: f(x) + 0.08 * normal(uniform) });
  }
  return points;
}

/** Observations without end, of a record with a cycle. */
export class Stream {
  uniform = random(2026);

  constructor(cycle) {
    this.cycle = cycle;
  }

  next(n) {
    return Array.from({ length: n }, () => {
      const x = -2 + 4 * this.uniform();
      const y = 0.9 * Math.sin(1.3 * x + 0.4) + 0.8 * Math.cos((2 * Math.PI * x) / this.cycle + 0.5);
      return { x, y: y + 0.2 * normal(this.uniform) };
    });
  }
}
