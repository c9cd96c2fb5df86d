// Devices and networks: opened when they are wanted, kept, and given up when a device is lost.

import init, { Model, Place, isPosterior, readWithBias } from './pkg/wgpu_attention_browser.js';

export { isPosterior, readWithBias };

export const FILES = {
  scan: 'checkpoints/gp_1d.safetensors',
  kernel: 'checkpoints/gp_1d_deep_kernel.safetensors',
  cmanp: 'checkpoints/cmanp_gp_1d.safetensors',
};

export class Engine {
  places = {}; // by 'cpu' and 'gpu'
  files = {}; // by network
  models = {}; // by place and network

  async start() {
    await init({ module_or_path: new URL('pkg/wgpu_attention_browser_bg.wasm', import.meta.url) });
    this.places.cpu = Place.cpu();
  }

  /** The device, opened where it is not. */
  async place(name) {
    this.places[name] ??= await (name === 'cpu' ? Place.cpu() : this.openGpu());
    return this.places[name];
  }

  async openGpu() {
    if (!navigator.gpu) throw named('NoDevice', 'this browser has no WebGPU');
    return Place.gpu();
  }

  async model(place, network) {
    const key = `${place} ${network}`;
    this.models[key] ??= Model.open(await this.place(place), await this.file(network));
    return this.models[key];
  }

  async file(network) {
    this.files[network] ??= await fetched(FILES[network]);
    return this.files[network];
  }

  /** A network from a file of the visitor's, in the place of the page's own; throws if it is none. */
  async replace(network, bytes) {
    const model = Model.open(await this.place('cpu'), bytes);
    const kind = model.isStream() ? 'cmanp' : network === 'cmanp' ? 'scan' : network;
    this.files[kind] = bytes;
    for (const key of Object.keys(this.models)) if (key.endsWith(` ${kind}`)) delete this.models[key];
    this.models[`cpu ${kind}`] = model;
    return kind;
  }

  /** Forgets what was on a device that is gone. */
  lose(name) {
    delete this.places[name];
    for (const key of Object.keys(this.models)) if (key.startsWith(name)) delete this.models[key];
  }
}

async function fetched(path) {
  const answer = await fetch(path).catch(() => null);
  if (!answer?.ok) throw named('Fetch', `${path} could not be fetched${answer ? ` (${answer.status})` : ''}`);
  return new Uint8Array(await answer.arrayBuffer());
}

function named(name, message) {
  return Object.assign(new Error(message), { name });
}

/** What happened, in plain words. */
export function inWords(error) {
  const message = String(error?.message ?? error);
  const words = {
    NoDevice: 'There is no WebGPU to be had here',
    DeviceLost: 'The GPU went away',
    OutOfMemory: 'There is not enough memory',
    Checkpoint: 'This file is not a whole network, so the page goes on with what it had',
    Posterior: 'This file is no posterior of this network, so the page goes on with what it had',
    Validation: 'The GPU refused this',
    Fetch: 'A file of this page is missing',
    RuntimeError: 'The program of this page stopped; load the page again',
  }[error?.name];
  return words ? `${words}: ${message}` : message;
}
