// node dawn.mjs PROGRAM MODULES: the golden cases, compiled to WebAssembly for a browser, on Dawn.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [program, modules] = process.argv.slice(2).map((folder) => path.resolve(folder));
const { create, globals } = await import(pathToFileURL(path.join(modules, 'webgpu/index.js')));
// What a program in a browser looks for.
Object.assign(globalThis, globals);
globalThis.Window = class Window {};
Object.defineProperty(globalThis.navigator, 'gpu', { value: create(['backend=vulkan']) });

const { default: init, choose, give, open, outcome } = await import(
  pathToFileURL(path.join(program, 'wgpu_attention_browser_golden.js'))
);
const bytes = fs.readFileSync(path.join(program, 'wgpu_attention_browser_golden_bg.wasm'));
const run = WebAssembly.promising((await init({ module_or_path: bytes })).run_case);
const folder = path.resolve(import.meta.dirname, '../../tests/fixtures');
const names = fs.readdirSync(folder).filter((name) => name.endsWith('.safetensors')).sort();
for (const name of names) give(name, new Uint8Array(fs.readFileSync(path.join(folder, name))));
console.log(await open('gpu'));
let passed = 0;
for (const name of names) {
  choose(name);
  try {
    await run();
    const [error, ...wrong] = outcome().split('\n').filter(Boolean);
    if (wrong.length === 0) passed++;
    console.log(`${name} ${error} ${wrong.join('; ')}`);
  } catch (error) {
    console.log(`${name} ${error.message}`);
  }
}
console.log(`${passed} ${names.length}`);
process.exit(0);
