import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { readEndpointList } from '../config/endpoint-list.ts';
import { FileDiscovery } from './file-discovery.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});

async function create(text?: string): Promise<{ file: string; told: string[]; discovery: FileDiscovery; write: (text: string) => Promise<void> }> {
  const folder = await mkdtemp(path.join(tmpdir(), 'file-discovery-'));
  const file = path.join(folder, 'endpoints.yaml');
  const write = async (written: string): Promise<void> => {
    await writeFile(`${file}.new`, written);
    await rename(`${file}.new`, file);
  };
  if (text !== undefined) await write(text);
  const told: string[] = [];
  const discovery = new FileDiscovery({
    file,
    read: (path) => readEndpointList(path, { pool: 'chat' }),
    listener: {
      found: (endpoints) => told.push(endpoints.map(({ address, labels }) => `${address} of ${labels['pool'] ?? '?'}`).join(', ')),
      failed: ({ source, causes }) => told.push(`${source === file ? 'failed' : source}: ${causes.map((cause) => `${cause.path} ${cause.message}`).join('; ')}`),
    },
    settleMs: 20,
    pollMs: 100,
  });
  cleanUps.push(
    () => discovery.stop(),
    () => rm(folder, { recursive: true, force: true }),
  );
  return { file, told, discovery, write };
}

it('tells what the file names when it starts, and each time that it is another', async () => {
  const { told, discovery, write } = await create('[{ address: 10.0.0.1:80 }]');
  await discovery.start();
  expect(told).toEqual(['10.0.0.1:80 of chat']);
  await write('- address: 10.0.0.2:80\n  dpSize: 2');
  await expect.poll(() => told[1], { timeout: 5_000 }).toBe('10.0.0.2:80#0 of chat, 10.0.0.2:80#1 of chat');
  await write('[]');
  await expect.poll(() => told[2], { timeout: 5_000 }).toBe('');
});

it('says what is wrong, with its path, and takes the file up again when it can be used', async () => {
  const { file, told, discovery, write } = await create();
  await discovery.start();
  expect(told).toEqual([expect.stringMatching(/^failed: {2}cannot be read: ENOENT/)]);
  await write('[{ address: 10.0.0.1:80 }]');
  await expect.poll(() => told[1], { timeout: 5_000 }).toBe('10.0.0.1:80 of chat');
  await write('[{ address: 10.0.0.1:80 }, { address: model.example:80, colour: red }]');
  await expect.poll(() => told[2], { timeout: 5_000 }).toMatch(/^failed: \[1\]\.address expected ip:port.*; \[1\]\.colour unknown field$/);
  await rm(file);
  await expect.poll(() => told[3], { timeout: 5_000 }).toMatch(/cannot be read: ENOENT/);
  await write('[{ address: 10.0.0.1:80 }]');
  await expect.poll(() => told[4], { timeout: 5_000 }).toBe('10.0.0.1:80 of chat');
});

it('reads at once when told to, and nothing after it was stopped', async () => {
  const { told, discovery, write } = await create('[{ address: 10.0.0.1:80 }]');
  await discovery.start();
  discovery.refresh();
  expect(told).toHaveLength(2);
  discovery.stop();
  discovery.refresh();
  await write('[]');
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(told).toHaveLength(2);
});
