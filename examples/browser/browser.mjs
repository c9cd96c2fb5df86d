// A server of static files, and the browser of the machine.

import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { chromium } from 'playwright-core';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.wasm': 'application/wasm' };

/** Serves folders by the paths that they are at; `change(path, bytes)` may change what is sent. */
export async function serve(folders, change = (_, bytes) => bytes) {
  const server = http.createServer((request, response) => {
    const at = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    const [prefix, folder] = Object.entries(folders).find(([prefix]) => at.startsWith(prefix)) ?? [];
    const file = folder && path.join(folder, path.normalize(at.slice(prefix.length) || 'index.html'));
    if (!file?.startsWith(path.resolve(folder)) || !fs.existsSync(file)) {
      return response.writeHead(404).end();
    }
    const bytes = change(at, fs.readFileSync(file));
    response.writeHead(200, { 'content-type': TYPES[path.extname(file)] ?? 'application/octet-stream' }).end(bytes);
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  return { url: `http://localhost:${server.address().port}`, close: () => server.close() };
}

/** Chromium without a window, with WebGPU on its software adapter if that is asked for. */
export function launch(hasGpu) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    chromiumSandbox: false,
    args: [
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...(hasGpu ? ['--enable-unsafe-webgpu'] : []),
    ],
  });
}
