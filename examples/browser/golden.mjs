// node golden.mjs FOLDER: runs every golden case in the browser, on its adapter and on the CPU in WebAssembly.

import fs from 'node:fs';
import path from 'node:path';
import { launch, serve } from './browser.mjs';

const fixtures = path.resolve(import.meta.dirname, '../../tests/fixtures');
const names = fs.readdirSync(fixtures).filter((name) => name.endsWith('.safetensors')).sort();
const server = await serve({ '/fixtures/': fixtures, '/': path.resolve(process.argv[2]) });
const browser = await launch(true);
const failures = [];

async function open(place) {
  const page = await browser.newPage();
  page.setDefaultTimeout(300_000);
  page.panic = '';
  page.on('console', (message) => message.type() === 'error' && (page.panic = message.text()));
  await page.goto(server.url + '/');
  await page.waitForFunction(() => window.isReady);
  page.device = await page.evaluate(([place, names]) => window.start(place, names), [place, names]);
  return page;
}

function within(seconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${seconds} s`)), 1000 * seconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

for (const place of ['cpu', 'gpu']) {
  const began = Date.now();
  let page = await open(place);
  let passed = 0;
  let worst = 0;
  const device = page.device;
  for (const name of names) {
    try {
      const [error, ...wrong] = (await within(240, page.evaluate((name) => window.runCase(name), name))).split('\n');
      const found = wrong.filter(Boolean);
      failures.push(...found.map((text) => `${place}: ${text}`));
      if (!found.length) passed += 1;
      worst = Math.max(worst, Number(error) || 0);
      console.log(`${place}  ${name.padEnd(52)} ${error}${found.length ? '  FAILED' : ''}`);
    } catch (error) {
      failures.push(`${place}: ${name}: ${page.panic || error.message}`);
      console.log(`${place}  ${name.padEnd(52)} FAILED`);
      // What has panicked, or never ends, may leave anything behind.
      await page.close();
      page = await open(place);
    }
  }
  const seconds = ((Date.now() - began) / 1000).toFixed(0);
  console.log(`${device}: ${passed} of ${names.length} golden cases, worst ${worst.toExponential(1)}, ${seconds} s`);
  // A row of docs/platforms.md.
  const where = place === 'cpu' ? 'CPU twin in WebAssembly' : device;
  console.log(`RESULT|Chromium|${browser.version()}|golden cases, ${where}|${passed}|${names.length}|.ci/platforms browser`);
  await page.close();
}
console.log(`in Chromium ${browser.version()}`);
await browser.close();
server.close();
if (failures.length) {
  console.log(`${failures.length} failure(s):\n${failures.join('\n')}`);
  process.exit(1);
}
