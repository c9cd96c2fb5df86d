// The page: what was chosen, what is drawn, and what is said about it.

import { Engine, FILES, inWords, isPosterior, readWithBias } from './engine.js';
import { Stream, example } from './examples.js';
import { GRID, Plot, nearest } from './plot.js';
import { PRESETS } from './presets.js';

const $ = (selector) => document.querySelector(selector);
const wanted = new URLSearchParams(location.search);

const engine = new Engine();
const points = [];
const state = {
  tab: 'posterior',
  device: 'cpu',
  network: 'scan',
  cycle: 1,
  param: 0.25,
  /** A posterior that was read before the points of the plot: of a stream, or of a file. */
  base: null,
  stream: null,
  examples: 0,
};
const times = { gpu: [], cpu: [] };
/** What ran before: the first time everything is compiled, which is not what an answer takes. */
const warm = new Set();
const broken = new Set();
let answers = 0;
let facts = null;
let rate = null;

const plot = new Plot($('#plot'), points, { changed: refresh, moved: () => (redraw(), read()) });

// --- one answer at a time: what happens meanwhile is answered together

let running = false;
let stale = false;

async function refresh() {
  redraw();
  stale = true;
  if (running) return;
  running = true;
  while (stale) {
    stale = false;
    await answer();
    redraw();
    read();
    await new Promise(requestAnimationFrame);
    answers += 1;
    if (state.stream) stale = true;
  }
  running = false;
}

let drawn = 0;
function redraw() {
  cancelAnimationFrame(drawn);
  drawn = requestAnimationFrame(() => plot.draw());
}

async function answer() {
  const { device, network } = state;
  try {
    await (state.tab === 'bias' ? answerBias(device) : answerPosterior(device, network));
  } catch (error) {
    await failed(error, device, network);
  }
}

/** What was read before by this network. */
const baseOf = (network) => (state.base?.network === network ? state.base : null);

function observed() {
  const kept = points.filter((point) => !point.off);
  return [Float32Array.from(kept, (p) => p.x), Float32Array.from(kept, (p) => p.y)];
}

// --- the neural process

async function answerPosterior(device, network) {
  const model = await engine.model(device, network);
  const base = await baseOn(device, network, model);
  if (!base && !state.stream && !observed()[0].length) return nothing();
  const key = `${device} ${network}`;
  if (!warm.has(key)) {
    facts = device === 'gpu' ? 'The GPU compiles its kernels for the first time …' : null;
    tell();
    await ask(model, base);
    warm.add(key);
  }
  // What was read before may be another by now, or gone: each wait lets the visitor do something.
  if (state.stream && model.isStream()) await takeIn(model, device, network);
  else await keep(baseOf(network));
  const start = performance.now();
  const found = await ask(model, baseOf(network)?.posterior);
  if (!found) return nothing();
  note(device, performance.now() - start);
  plot.prediction = found.prediction;
  plot.weights = null;
  warn(found.prediction.outside);
  facts = [`<b>${found.n.toLocaleString('en')}</b> observations`, `<b>${bytes(found.bytes)}</b> of memory${model.isStream() ? ', however many they are' : ''}`];
  tell();
}

/** What is predicted from what was read before and the points of the plot. */
async function ask(model, base) {
  const [x, y] = observed();
  if (!base && !x.length) return null;
  const posterior = !base ? model.condition(x, y, state.cycle) : x.length ? base.update(x, y) : base;
  try {
    // Of what may be freed while it predicts.
    const [n, bytes] = [posterior.nPoints(), posterior.nBytes()];
    const { mean, std, outside } = await posterior.predict(GRID);
    return { prediction: { mean, std, outside }, n, bytes };
  } finally {
    if (posterior !== base) posterior.free();
  }
}

/** What was read before, on this device: it moves as the bytes that it is saved as. */
async function baseOn(device, network, model) {
  const base = baseOf(network);
  if (!base) return null;
  if (!model.isStream() && observed()[0].length) {
    forget();
    say('This network reads its observations at once: the restored ones made room for yours.', false);
    return null;
  }
  if (base.device !== device) {
    const file = base.file ?? (await base.posterior.save());
    if (state.base !== base) return baseOn(device, network, model);
    const posterior = model.restore(file, state.cycle);
    base.posterior.free();
    state.base = { posterior, device, network, file };
  }
  return state.base.posterior;
}

/** The next observations of the stream, and the points of the plot, become a part of the state. */
async function takeIn(model, device, network) {
  const news = state.stream.next(128);
  plot.dust = [...plot.dust, ...points, ...news].slice(-3000);
  const all = [...points.splice(0), ...news];
  const [x, y] = [Float32Array.from(all, (p) => p.x), Float32Array.from(all, (p) => p.y)];
  const before = baseOf(network);
  const posterior = before ? before.posterior.update(x, y) : model.condition(x, y, state.cycle);
  before?.posterior.free();
  state.base = { posterior, device, network, older: before?.file ?? before?.older };
  const now = performance.now();
  rate ??= { since: now, n: 0, kept: now };
  rate.n += all.length;
  if (now - rate.kept < 2000) return;
  rate.kept = now;
  await keep(state.base);
}

/** What a lost device does not take with it. */
async function keep(base) {
  if (base && !base.file) base.file = await base.posterior.save();
}

function forget() {
  state.base?.posterior.free();
  state.base = null;
  plot.dust = [];
}

// --- a bias of the visitor's own

async function answerBias(device) {
  const [x, y] = observed();
  if (!x.length) return nothing();
  const place = await engine.place(device);
  const text = $('#wgsl').value;
  const ask = () => readWithBias(place, text, Float32Array.of(state.param), x, y, GRID);
  try {
    if (!warm.has(`${device} ${text}`)) await ask();
    warm.add(`${device} ${text}`);
    const start = performance.now();
    const { mean, std, weights, weighed } = await ask();
    note(device, performance.now() - start);
    plot.prediction = { mean, std, outside: '' };
    plot.weights = Array.from(GRID, (_, i) => weights.subarray(i * weighed, (i + 1) * weighed));
    compiled(`compiled for the ${device.toUpperCase()}`, false);
    facts = [`<b>${x.length}</b> observations`, 'a point is drawn as large as it counts at the cursor'];
    warn('');
    tell();
  } catch (error) {
    if (!['BiasShader', 'Validation', 'Refused'].includes(error.name)) throw error;
    compiled(error.message, true);
  }
}

function compiled(message, isBad) {
  $('#compiler').textContent = message;
  $('#compiler').classList.toggle('bad', isBad);
  $('#wgsl').setAttribute('aria-invalid', isBad);
}

// --- what goes wrong

async function failed(error, device, network) {
  console.info(error);
  if (error.name === 'Checkpoint' || error.name === 'Fetch') {
    broken.add(network);
    const other = ['scan', 'kernel', 'cmanp'].find((name) => !broken.has(name));
    if (other) choose('network', other);
    return say(`${inWords(error)}.${other ? ' Another network takes its place.' : ''}`);
  }
  if (device !== 'gpu') return say(inWords(error));
  const { base } = state;
  if (error.name === 'DeviceLost') engine.lose('gpu');
  if (error.name === 'DeviceLost' && base?.device === 'gpu') await rescue(base);
  for (const key of warm) if (key.startsWith('gpu')) warm.delete(key);
  choose('device', 'cpu');
  say(`${inWords(error)}. The page goes on with the CPU; choose GPU to try it again.`);
}

/** What was on a lost device is lost, too, but for what was kept. */
async function rescue(base) {
  const model = await engine.model('cpu', base.network);
  if (state.base !== base) return;
  const file = base.file ?? base.older;
  const posterior = file && model.restore(file, state.cycle);
  base.posterior.free();
  state.base = posterior ? { ...base, posterior, device: 'cpu' } : null;
}

// --- what is said

function nothing() {
  Object.assign(plot, { prediction: null, weights: null });
  facts = ['Press on the plot to observe something'];
  warn('');
  tell();
}

function note(device, ms) {
  times[device].push(ms);
  if (times[device].length > 15) times[device].shift();
  $(`#ms-${device}`).textContent = `${median(times[device]).toFixed(median(times[device]) < 10 ? 1 : 0)} ms`;
}

export const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

function tell() {
  const all = Array.isArray(facts) ? [...facts] : [facts ?? '…'];
  if (state.stream && rate) {
    const perSecond = rate.n / Math.max(0.2, (performance.now() - rate.since) / 1000);
    all.push(`<b>${Math.round(perSecond).toLocaleString('en')}</b> a second`);
  }
  $('#state').innerHTML = all.join(' · ');
}

const bytes = (n) => (n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(2)} MB`);

function warn(text) {
  $('#outside').hidden = !text;
  $('#outside').textContent = text && `Not what this network was trained on: ${text}`;
}

function say(text, isStrong = true) {
  $('#message').hidden = !text;
  $('#message').textContent = text;
  $('#message').classList.toggle('strong', isStrong);
}

/** What is expected at the cursor, in words. */
function read() {
  const { cursor, prediction } = plot;
  const say = (text) => {
    if ($('#reading').textContent !== text) $('#reading').textContent = text;
  };
  const number = (x) => x.toFixed(2).replace('-', '−');
  if (!cursor) return say(prediction ? 'The line is what is expected, the band should hold 95% of what is seen.' : '');
  const where = cursor.y === null ? `At ${number(cursor.x)}` : `Cursor at ${number(cursor.x)}, ${number(cursor.y)}`;
  if (!prediction) return say(where);
  const [mean, std] = [prediction.mean[nearest(cursor.x)], prediction.std[nearest(cursor.x)]];
  say(`${where}: ${number(mean)} expected, 95% between ${number(mean - 1.96 * std)} and ${number(mean + 1.96 * std)}`);
}

// --- what is chosen

function choose(what, value) {
  if (state[what] !== value) say('');
  state[what] = value;
  $(`input[name=${what}][value=${value}]`).checked = true;
  const isCmanp = state.network === 'cmanp' && state.tab === 'posterior';
  $('#cycle-label').hidden = !isCmanp;
  $('#stream').disabled = !isCmanp;
  $('#stream').title = isCmanp ? '' : 'Only CMANP takes in a stream';
  if (!isCmanp) play(false);
  refresh();
}

function play(isOn) {
  if (Boolean(state.stream) === isOn) return;
  state.stream = isOn ? new Stream(state.cycle) : null;
  rate = null;
  $('#stream').setAttribute('aria-pressed', isOn);
  refresh();
}

/** The cycle of the slider, or of a file. */
function turn(cycle) {
  state.cycle = cycle;
  $('#cycle').value = cycle;
  $('#cycle-value').textContent = cycle.toFixed(2);
  if (state.stream) state.stream = new Stream(cycle);
}

function show(tab) {
  state.tab = tab;
  for (const name of ['posterior', 'bias']) {
    $(`#tab-${name}`).setAttribute('aria-selected', name === tab);
    $(`#tab-${name}`).tabIndex = name === tab ? 0 : -1;
  }
  $('#panel').setAttribute('aria-labelledby', `tab-${tab}`);
  $('#editor').hidden = tab !== 'bias';
  $('#panel').classList.toggle('split', tab === 'bias');
  $('#networks').hidden = tab === 'bias';
  for (const id of ['stream', 'save']) $(`#${id}`).hidden = tab === 'bias';
  $('label[for=file]').hidden = tab === 'bias';
  plot.prediction = null;
  choose('network', state.network);
}

for (const name of ['device', 'network'])
  for (const input of document.querySelectorAll(`input[name=${name}]`))
    input.addEventListener('change', () => {
      if (name === 'network') {
        broken.delete(input.value);
        times.gpu.length = times.cpu.length = 0;
      }
      choose(name, input.value);
    });

const tabs = ['posterior', 'bias'];
for (const tab of tabs) {
  $(`#tab-${tab}`).addEventListener('click', () => show(tab));
  $(`#tab-${tab}`).addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
    const other = tabs[1 - tabs.indexOf(tab)];
    show(other);
    $(`#tab-${other}`).focus();
  });
}

$('#example').addEventListener('click', () => {
  forget();
  points.splice(0, Infinity, ...example(state.examples++));
  refresh();
});
$('#undo').addEventListener('click', () => (points.pop(), refresh()));
$('#clear').addEventListener('click', () => {
  play(false);
  forget();
  points.length = 0;
  say('');
  refresh();
});
$('#stream').addEventListener('click', () => play(!state.stream));
$('#cycle').addEventListener('input', (event) => {
  turn(Number(event.target.value));
  // A state has read the phases of the cycle before.
  forget();
  refresh();
});
$('#param').addEventListener('input', (event) => {
  state.param = Number(event.target.value);
  $('#param-value').textContent = state.param.toFixed(2);
  refresh();
});
$('#wgsl').addEventListener('input', refresh);
$('#wgsl').value = PRESETS.Gaussian;
for (const [name, text] of Object.entries(PRESETS)) {
  const button = document.createElement('button');
  button.textContent = name;
  button.addEventListener('click', () => (($('#wgsl').value = text), refresh()));
  $('#presets').append(button);
}

// --- files

$('#save').addEventListener('click', async () => {
  const { device, network } = state;
  try {
    const model = await engine.model(device, network);
    const base = baseOf(network)?.posterior;
    const [x, y] = observed();
    if (!base && !x.length) return say('There is nothing to save yet: observe something first.', false);
    const posterior = !base ? model.condition(x, y, state.cycle) : x.length ? base.update(x, y) : base;
    const file = await posterior.save();
    if (posterior !== base) posterior.free();
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([file]));
    link.download = `posterior_${network}.safetensors`;
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    await failed(error, device, network);
  }
});

$('#file').addEventListener('change', async (event) => {
  const [chosen] = event.target.files;
  event.target.value = '';
  if (!chosen) return;
  try {
    await open(new Uint8Array(await chosen.arrayBuffer()), chosen.name);
  } catch (error) {
    say(`${chosen.name}: ${inWords(error)}`);
  }
});

async function open(file, name) {
  const { device, network } = state;
  if (!isPosterior(file)) {
    const replaced = await engine.replace(network, file);
    for (const key of warm) if (key.endsWith(replaced)) warm.delete(key);
    forget();
    choose('network', replaced);
    return say(`${name} is drawn in the place of the page's own network.`, false);
  }
  const model = await engine.model(device, network);
  const posterior = model.restore(file, state.cycle);
  forget();
  points.length = 0;
  state.base = { posterior, device, network, file };
  if (model.isStream()) turn(posterior.cycle);
  say(`${name} goes on with ${posterior.nPoints().toLocaleString('en')} observations.`, false);
  refresh();
}

// --- the beginning

async function start() {
  try {
    await engine.start();
  } catch (error) {
    return say(`This browser cannot run the page, which needs WebAssembly with SIMD: ${error.message ?? error}`);
  }
  points.push(...example(state.examples++));
  const network = wanted.get('network');
  choose('network', network in FILES ? network : 'scan');
  const names = [engine.places.cpu.name()];
  try {
    const gpu = await engine.place('gpu');
    names.unshift(gpu.name());
    if ((gpu.isHardware() || wanted.get('device') === 'gpu') && wanted.get('device') !== 'cpu') choose('device', 'gpu');
  } catch (error) {
    say(`${inWords(error)}. Everything runs on the CPU.`, false);
  }
  $('#device-name').textContent = `Here: ${names.join(', and ')}.`;
}

// What a test reads.
window.live = {
  state,
  points,
  times,
  grid: GRID,
  get answers() {
    return answers;
  },
  get isBusy() {
    return running;
  },
  get prediction() {
    return plot.prediction;
  },
  get facts() {
    return $('#state').textContent;
  },
};

start();
