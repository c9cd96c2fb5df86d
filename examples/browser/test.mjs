// node test.mjs FOLDER REFERENCE PICTURES: opens the page in headless Chromium and drives it as a person would. Its
// numbers are compared with those of the program REFERENCE, which computes them on this machine's CPU.

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { launch, serve } from './browser.mjs';

const [folder, reference, pictures] = process.argv.slice(2).map((argument) => path.resolve(argument));
const checkpoint = fs.readFileSync(path.join(folder, 'checkpoints/gp_1d.safetensors'));
const cut = checkpoint.subarray(0, checkpoint.length >> 1);
fs.mkdirSync(pictures, { recursive: true });

const failures = [];
function check(what, isTrue, found = '') {
  console.log(`${isTrue ? 'ok    ' : 'FAILED'}  ${what}${isTrue ? '' : `: ${found}`}`);
  if (!isTrue) failures.push(what);
}

/** What the page answered, to be compared. */
const questions = [];

async function open(browser, url, { noise = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1180, height: 960 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(180_000);
  page.noise = [];
  const hear = (text) => noise.some((expected) => text.includes(expected)) || page.noise.push(text);
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && hear(message.text()));
  page.on('pageerror', (error) => hear(String(error)));
  // So that the test can destroy what the page computes on.
  await page.addInitScript(() => {
    window.devices = [];
    if (!window.GPUAdapter) return;
    const request = GPUAdapter.prototype.requestDevice;
    GPUAdapter.prototype.requestDevice = async function (...rest) {
      const device = await request.apply(this, rest);
      window.devices.push(device);
      return device;
    };
  });
  await page.goto(url);
  await settled(page);
  return page;
}

const live = (page, what) => page.evaluate((what) => new Function('live', `return ${what}`)(window.live), what);

/** Until everything that was done is answered. */
async function settled(page) {
  await page.waitForFunction(() => window.live?.answers > 0 && !window.live.isBusy);
  await page.waitForTimeout(60);
  await page.waitForFunction(() => !window.live.isBusy);
}

const text = (page, selector) => page.textContent(selector);

async function choose(page, what, value) {
  await page.click(`input[name=${what}][value=${value}] + span`);
  await settled(page);
}

/** Where a place of the plot is on the screen. */
async function on(page, x, y) {
  const box = await page.locator('#plot').boundingBox();
  return [box.x + 34 + ((x + 2) / 4) * (box.width - 44), box.y + 10 + ((3 - y) / 6) * (box.height - 34)];
}

async function ask(page) {
  questions.push({
    device: await live(page, 'live.state.device'),
    ...(await live(page, `({
      network: live.state.network, cycle: live.state.cycle, at: [...live.grid],
      x: live.points.map((p) => Math.fround(p.x)), y: live.points.map((p) => Math.fround(p.y)),
      mean: [...live.prediction.mean], std: [...live.prediction.std],
    })`)),
  });
}

/** Drags a point along, as fast as a screen is drawn; returns the milliseconds between frames and of an answer. */
async function drag(page) {
  await page.mouse.move(...(await on(page, -1, -1)));
  await page.mouse.down();
  const began = await live(page, 'live.answers');
  const start = Date.now();
  for (let i = 0; i <= 60; i++) await page.mouse.move(...(await on(page, -1 + i / 60, -1 + i / 30)));
  const [seconds, answers] = [(Date.now() - start) / 1000, (await live(page, 'live.answers')) - began];
  await page.mouse.up();
  await settled(page);
  const times = await live(page, 'live.times[live.state.device]');
  return { answer: median(times), frame: (1000 * seconds) / answers };
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

// --- with WebGPU

const frames = [];

async function withGpu(url) {
  const browser = await launch(true);
  const page = await open(browser, `${url}/?device=gpu`, { colorScheme: 'light' });
  await page.waitForFunction(() => window.live.state.device === 'gpu');
  await settled(page);
  check('the page opens on the GPU', (await live(page, 'live.state.device')) === 'gpu', await text(page, '#message'));
  console.log(`        ${await text(page, '#device-name')}, Chromium ${browser.version()}`);

  const before = await live(page, 'live.points.length');
  await page.mouse.click(...(await on(page, 0.4, 1.5)));
  await settled(page);
  check('a click observes', (await live(page, 'live.points.length')) === before + 1);
  check('the page says how many', (await live(page, 'live.facts')).startsWith(`${before + 1} observations`), await live(page, 'live.facts'));
  const near = await live(page, 'live.prediction.mean[96]');
  check('the mean comes near', Math.abs(near - 1.5) < 0.5, near);

  await page.focus('#plot');
  for (const key of ['ArrowRight', 'ArrowUp', 'ArrowUp', 'Enter']) await page.keyboard.press(key);
  await settled(page);
  check('the keyboard observes', (await live(page, 'live.points.length')) === before + 2);
  check('the cursor is read', /expected, 95% between/.test(await text(page, '#reading')), await text(page, '#reading'));
  await page.keyboard.press('Delete');
  await settled(page);
  check('the keyboard removes', (await live(page, 'live.points.length')) === before + 1);
  await page.mouse.dblclick(...(await on(page, 0.4, 1.5)));
  await settled(page);
  check('a double click removes', (await live(page, 'live.points.length')) === before);

  for (const device of ['gpu', 'cpu'])
    for (const network of ['scan', 'kernel', 'cmanp']) {
      await choose(page, 'network', network);
      await choose(page, 'device', device);
      await ask(page);
      const points = await live(page, 'live.points.length');
      frames.push({ device, network, ...(await drag(page)) });
      check(`${network} on the ${device}: a drag observes one point`, (await live(page, 'live.points.length')) === points + 1);
      await ask(page);
      await page.click('#undo');
      await settled(page);
      await page.screenshot({ path: path.join(pictures, `${network}_${device}.png`) });
    }

  await stream(page);
  await interrupted(page);
  await bias(page);
  await files(page);
  await destroyed(page);
  check('the console is clean', !page.noise.length, page.noise.join('\n'));

  await page.emulateMedia({ colorScheme: 'dark' });
  await page.waitForTimeout(200);
  await page.screenshot({ path: path.join(pictures, 'dark.png') });
  await phone(browser, url);
  await browser.close();
}

async function stream(page) {
  for (const device of ['cpu', 'gpu']) {
    await page.click('#clear');
    await choose(page, 'network', 'cmanp');
    await choose(page, 'device', device);
    await page.mouse.click(...(await on(page, 0, 0)));
    await settled(page);
    const memory = (await live(page, 'live.facts')).match(/[\d.]+ kB/)[0];
    await page.click('#stream');
    const n = () => live(page, "Number(live.facts.split(' ')[0].replaceAll(',', ''))");
    for (const start = Date.now(); (await n()) < 5000 && Date.now() - start < 60_000; ) await page.waitForTimeout(100);
    await page.screenshot({ path: path.join(pictures, `stream_${device}.png`) });
    const facts = await live(page, 'live.facts');
    await page.click('#stream');
    await settled(page);
    check(`thousands are taken in on the ${device}, and the state stays as it was: ${facts}`, (await n()) >= 5000 && facts.includes(memory), facts);
    const read = await n();
    await page.mouse.click(...(await on(page, 1, 1)));
    await settled(page);
    check('a click updates what was streamed', (await n()) === read + 1, await live(page, 'live.facts'));
    const mean = await live(page, '[...live.prediction.mean]');
    await choose(page, 'device', device === 'gpu' ? 'cpu' : 'gpu');
    check('the state moves to the other device', (await n()) === read + 1, await live(page, 'live.facts'));
    const moved = await live(page, '[...live.prediction.mean]');
    const apart = Math.max(...mean.map((x, i) => Math.abs(x - moved[i]) / (1 + Math.abs(x))));
    check(`and predicts there what it did here, to ${apart.toExponential(1)}`, apart < 1e-4, apart);
  }
  await page.click('#clear');
}

/** What is waited for is freed meanwhile. */
async function interrupted(page) {
  const during = (method, selector, event) =>
    page.evaluate(([method, selector, event]) => new Promise((done) => {
      const { prototype } = window.live.state.base.posterior.constructor;
      const whole = prototype[method];
      prototype[method] = function (...rest) {
        prototype[method] = whole;
        queueMicrotask(() => done(document.querySelector(selector).dispatchEvent(new Event(event))));
        return whole.apply(this, rest);
      };
    }), [method, selector, event]);
  const streams = async (isOn) => (await live(page, 'live.state.stream !== null')) === isOn || page.click('#stream');
  await choose(page, 'network', 'cmanp');
  for (const [selector, event] of [['#clear', 'click'], ['#example', 'click'], ['#cycle', 'input']]) {
    await choose(page, 'device', 'gpu');
    await streams(true);
    await page.waitForFunction(() => window.live.state.base);
    await during('predict', selector, event);
    await streams(false);
    await settled(page);
    const [device, said] = [await live(page, 'live.state.device'), await text(page, '#message')];
    check(`${selector} while the GPU takes in a stream is no failure of it`, device === 'gpu' && !said, `${device}: ${said}`);
  }
  await page.click('#clear');
  await choose(page, 'device', 'gpu');
  await streams(true);
  await page.waitForFunction(() => window.live.state.base);
  await streams(false);
  await settled(page);
  await page.evaluate(() => delete window.live.state.base.file);
  const cleared = during('save', '#clear', 'click');
  await choose(page, 'device', 'cpu');
  await cleared;
  check('what is cleared while it moves to the other device stays so', await live(page, 'live.state.base === null'), await live(page, 'live.facts'));
}

/** Texts of which the CPU knows all, or says that it does not. */
const TEXTS = [
  ['the length of a vector', true, 'let d = vec2<f32>(q_coord[0] - k_coord[0], 0.0);\nif (length(d) > 0.5) { return MASKED; }\nreturn 0.0;'],
  ['a vector of a vector', true, 'let v = vec3<f32>(vec2<f32>(q_coord[0], k_coord[0]), 7.0);\nreturn v[1];'],
  ['an index beyond the end', true, 'let a = array<f32, 3>(1.0, 0.0, 2.0);\nreturn a[i32(4.0 * (q_coord[0] - k_coord[0]))];'],
  ['a product of matrices', false, 'let m = mat2x2<f32>(1.0, q_coord[0], k_coord[0], 1.0);\nreturn (m * m)[0][0];'],
  ['a shift that few places come to', false, 'if (q_coord[0] > 1.0) { return f32(i32(k_coord[0]) >> 1u); }\nreturn 0.0;'],
];

async function bias(page) {
  await page.click('#example');
  await page.click('#tab-bias');
  for (const device of ['cpu', 'gpu']) {
    await choose(page, 'device', device);
    for (const preset of await page.locator('#presets button').all()) {
      await preset.click();
      await settled(page);
      const isBad = await page.locator('#compiler.bad').count();
      check(`${await preset.textContent()} on the ${device}`, !isBad && (await live(page, 'live.prediction')), await text(page, '#compiler'));
    }
    const means = await live(page, '[...live.prediction.mean]');
    if (device === 'gpu') {
      const apart = Math.max(...means.map((x, i) => Math.abs(x - bias.cpu[i]) / (1 + Math.abs(x))));
      check(`both devices read the same, to ${apart.toExponential(1)}`, apart < 1e-5, apart);
    } else bias.cpu = means;
    for (const [what, isKnown, wgsl] of TEXTS) {
      await page.fill('#wgsl', wgsl);
      await settled(page);
      const [said, isBad] = [await text(page, '#compiler'), (await page.locator('#compiler.bad').count()) > 0];
      if (device === 'cpu' && !isKnown) {
        check(`${what} on the cpu is refused in words`, isBad && /does not know all/.test(said), said);
        continue;
      }
      const means = await live(page, '[...live.prediction.mean]');
      const known = (bias[what] ??= means);
      const apart = Math.max(...means.map((x, i) => Math.abs(x - known[i]) / (1 + Math.abs(x))));
      check(`${what} on the ${device}`, !isBad && apart < 1e-5, isBad ? said : apart);
    }
    await page.fill('#wgsl', 'return -abs(q_coord[0] - k_coord[0]) / paramz(0);');
    await settled(page);
    check('a text that is wrong is refused under it', /paramz[^]*line 1/.test(await text(page, '#compiler')), await text(page, '#compiler'));
    check('and the band stays', await live(page, 'live.prediction !== null'));
    if (device === 'gpu') await page.screenshot({ path: path.join(pictures, 'bias_wrong.png') });
    await page.fill('#wgsl', 'return -8.0 * abs(q_coord[0] - k_coord[0]);');
    await settled(page);
    check('mended it is taken', !(await page.locator('#compiler.bad').count()), await text(page, '#compiler'));
  }
  // The library's compiler takes this, the browser's does not.
  await page.fill('#wgsl', 'return clamp(q_coord[0], 2.0, 1.0);');
  await settled(page);
  const said = await text(page, '#compiler');
  check("what only the browser's compiler refuses is said as well", (await page.locator('#compiler.bad').count()) && /clamp/.test(said), said);
  await page.click('#presets button:nth-child(2)');
  await page.mouse.move(...(await on(page, -0.6, 0)));
  await settled(page);
  await page.screenshot({ path: path.join(pictures, 'bias.png') });
  await page.click('#tab-posterior');
  await settled(page);
}

async function files(page) {
  await choose(page, 'network', 'scan');
  const facts = await live(page, 'live.facts');
  const save = async () => {
    const waiting = page.waitForEvent('download');
    await page.click('#save');
    return fs.readFileSync(await (await waiting).path());
  };
  const saved = await save();
  const mean = await live(page, '[...live.prediction.mean]');
  const give = async (name, buffer) => {
    await page.setInputFiles('#file', { name, mimeType: 'application/octet-stream', buffer });
    await page.waitForFunction((name) => document.querySelector('#message').textContent.startsWith(name), name);
    await settled(page);
  };
  await give('saved.safetensors', saved);
  const again = await live(page, '[...live.prediction.mean]');
  check('a saved posterior is restored with the same bits', mean.every((x, i) => x === again[i]));
  check('and says how many observations it has', (await live(page, 'live.facts')).split(' ')[0] === facts.split(' ')[0]);
  await give('half.safetensors', cut);
  check('a file that is cut in half is refused in words', /not a whole network/.test(await text(page, '#message')), await text(page, '#message'));
  await give('half_posterior.safetensors', saved.subarray(0, saved.length >> 1));
  check('and so is half a posterior', /not a whole/.test(await text(page, '#message')), await text(page, '#message'));
  await page.click('#example');
  await settled(page);
  check('and the page goes on', await live(page, 'live.prediction !== null && live.points.length > 3'));
  await give('mine.safetensors', checkpoint);
  check('a whole one takes its place', /in the place of/.test(await text(page, '#message')), await text(page, '#message'));

  const slide = async (cycle) => (await page.fill('#cycle', cycle), settled(page));
  await choose(page, 'network', 'cmanp');
  await slide('0.7');
  const ofCycle = await live(page, '[...live.prediction.mean]');
  const cycled = await save();
  await slide('1.5');
  await give('cycle.safetensors', cycled);
  const shown = [await page.inputValue('#cycle'), await text(page, '#cycle-value'), (await live(page, 'live.state.cycle')).toFixed(2)];
  check('a file brings its cycle along', shown.join() === '0.7,0.70,0.70', shown);
  const restored = await live(page, '[...live.prediction.mean]');
  check('and is read with it, to the same bits', ofCycle.every((x, i) => x === restored[i]));
  await slide('1');
  await page.click('#example');
  await settled(page);
}

async function destroyed(page) {
  await choose(page, 'network', 'cmanp');
  await choose(page, 'device', 'gpu');
  await page.click('#stream');
  await page.waitForTimeout(4000);
  await page.evaluate(() => window.devices.forEach((device) => device.destroy()));
  await page.waitForFunction(() => window.live.state.device === 'cpu');
  await page.waitForTimeout(500);
  await page.click('#stream');
  await settled(page);
  check('a device that is destroyed is said in words', /GPU went away.*goes on with the CPU/.test(await text(page, '#message')), await text(page, '#message'));
  check('and the stream goes on from what was kept', /^[\d,]+ observations/.test(await live(page, 'live.facts')), await live(page, 'live.facts'));
  await page.screenshot({ path: path.join(pictures, 'destroyed.png') });
  await choose(page, 'network', 'scan');
  await choose(page, 'device', 'gpu');
  await page.click('#clear');
  await page.click('#example');
  await settled(page);
  check('the GPU can be tried again', (await live(page, 'live.state.device')) === 'gpu' && (await live(page, 'live.prediction !== null')), await text(page, '#message'));
  await ask(page);
}

async function phone(browser, url) {
  const page = await open(browser, `${url}/?device=cpu&network=cmanp`, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
  const before = await live(page, 'live.points.length');
  await page.touchscreen.tap(...(await on(page, 0.4, 1)));
  await settled(page);
  check('a touch observes', (await live(page, 'live.points.length')) === before + 1);
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  check('nothing is wider than a phone', width <= 390, width);
  await page.screenshot({ path: path.join(pictures, 'phone.png'), fullPage: true });
  await page.context().close();
}

// --- where something is missing

async function withoutGpu(url) {
  const browser = await launch(false);
  // What Chromium says of that itself.
  const page = await open(browser, `${url}/?device=gpu`, { noise: ['No available adapters'] });
  await page.waitForFunction(() => document.querySelector('#device-name').textContent);
  check('without WebGPU the page says so', /no WebGPU.*CPU/.test(await text(page, '#message')), await text(page, '#message'));
  check('and runs on the CPU', (await live(page, 'live.state.device')) === 'cpu' && (await live(page, 'live.prediction !== null')));
  await choose(page, 'device', 'gpu');
  check('also where the GPU is asked for', (await live(page, 'live.state.device')) === 'cpu', await text(page, '#message'));
  check('the console is clean', !page.noise.length, page.noise.join('\n'));
  await page.screenshot({ path: path.join(pictures, 'no_webgpu.png') });
  await browser.close();
}

async function cutCheckpoint() {
  const isCut = (at) => at.endsWith('/gp_1d.safetensors');
  const server = await serve({ '/': folder }, (at, bytes) => (isCut(at) ? bytes.subarray(0, bytes.length >> 1) : bytes));
  const browser = await launch(false);
  const page = await open(browser, `${server.url}/?device=cpu`);
  await page.waitForFunction(() => window.live.prediction);
  check('a checkpoint that arrives in half is said', /not a whole network/.test(await text(page, '#message')), await text(page, '#message'));
  check('and another network answers', (await live(page, 'live.state.network')) === 'kernel');
  await browser.close();
  server.close();
}

/** The pages' numbers against this machine's CPU, by the rule of the golden cases. */
function compare() {
  const input = questions.map((question) => JSON.stringify(question)).join('\n');
  const { stdout, status, stderr } = spawnSync(reference, { input, encoding: 'utf8', maxBuffer: 1 << 28 });
  check('the reference answers', status === 0, stderr);
  const answers = stdout.trim().split('\n').map((line) => JSON.parse(line));
  questions.forEach((question, i) => {
    const { mean, std, rounding } = answers[i];
    const error = (found, truth) => Math.max(...truth.map((b, j) => Math.abs(found[j] - b) / (1 + Math.abs(b))));
    const worst = Math.max(error(question.mean, mean), error(question.std, std));
    const allowed = question.device === 'cpu' ? Math.max(4 * rounding, 2e-6) : Math.max(10 * rounding, 1e-5);
    const what = `${question.network} on the ${question.device}, ${question.x.length} observations: native numbers to ${worst.toExponential(1)}, allowed ${allowed.toExponential(1)}`;
    check(what, worst <= allowed);
  });
}

const server = await serve({ '/': folder });
try {
  await withGpu(server.url);
  await withoutGpu(server.url);
  await cutCheckpoint();
  compare();
} catch (error) {
  check('the test comes to its end', false, error.stack);
}
server.close();
console.log('\nA point is dragged (headless Chromium; the GPU is a software adapter):');
for (const { device, network, answer, frame } of frames)
  console.log(`  ${device}  ${network.padEnd(6)}  an answer ${answer.toFixed(1)} ms, a frame with one ${frame.toFixed(1)} ms`);
console.log(failures.length ? `${failures.length} failure(s):\n${failures.join('\n')}` : 'all is well');
process.exit(failures.length ? 1 : 0);
