// node tint.mjs MODULES FILE..: texts through Tint, without a driver, and a pipeline of each on a device
// with WebGPU's default limits where the text needs no more. The last line: passed, of how many, not tried,
// without a pipeline.
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, ...files] = process.argv.slice(2);
const { create, globals } = await import(pathToFileURL(path.join(modules, 'webgpu/index.js')));
Object.assign(globalThis, globals);
const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
// Features that a text must enable are offered by the browser, so asked for here.
const device = await adapter.requestDevice({ requiredFeatures: ['shader-f16', 'subgroups'].filter((f) => adapter.features.has(f)) });

let [passed, of, other, large] = [0, 0, 0, 0];
for (const file of files) {
  const text = fs.readFileSync(file, 'utf8');
  // naga takes subgroups without this directive, and not with it.
  const code = text.includes('@builtin(subgroup_') && !text.includes('enable ') ? `enable subgroups;\n${text}` : text;
  // An extension of naga's alone.
  if (code.includes('enable wgpu_cooperative_matrix;')) {
    other++;
    continue;
  }
  of++;
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const messages = [...(await module.getCompilationInfo()).messages].map((m) => `${m.type} ${m.lineNum}: ${m.message}`);
  const buffers = (code.match(/var<storage/g) ?? []).length;
  if (buffers > device.limits.maxStorageBuffersPerShaderStage) {
    large++;
  } else if (!messages.some((message) => message.startsWith('error'))) {
    await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: 'main' } })
      // So is a variant that is chosen where there is more workgroup memory.
      .catch(({ message }) => (message.includes('total use of workgroup storage') ? large++ : messages.push(`error: ${message}`)));
  }
  const error = await device.popErrorScope();
  if (error) messages.push(`error: ${error.message}`);
  // Notes come with warnings, so nothing at all is what is wanted.
  if (messages.length === 0) passed++;
  else console.log(`${path.basename(file)}: ${messages.slice(0, 3).join('; ').slice(0, 600)}`);
}
console.log(`${passed} ${of} ${other} ${large}`);
device.destroy();
process.exit(0);
