import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileWatch } from './file-watch.ts';

let folder: string;
let watch: FileWatch | undefined;
let changes: number;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'file-watch-'));
  changes = 0;
});
afterEach(async () => {
  watch?.stop();
  await rm(folder, { recursive: true, force: true });
});

const at = (...names: string[]): string => path.join(folder, ...names);

async function start(names: readonly string[], settleMs = 20, pollMs = 60_000): Promise<void> {
  watch = new FileWatch({ files: names.map((name) => at(name)), onChange: () => (changes += 1), settleMs, pollMs });
  await watch.start();
}

const expectChanges = (count: number): Promise<void> => expect.poll(() => changes, { timeout: 5_000 }).toBe(count);

describe('FileWatch tells of a file that', () => {
  it('is written, replaced by another of the same text, taken away, and there again', async () => {
    await writeFile(at('a.yaml'), 'one');
    await start(['a.yaml']);
    await writeFile(at('a.yaml'), 'another');
    await expectChanges(1);
    await writeFile(at('b'), 'another');
    await rename(at('b'), at('a.yaml'));
    await expectChanges(2);
    await rm(at('a.yaml'));
    await expectChanges(3);
    await writeFile(at('a.yaml'), 'again');
    await expectChanges(4);
  });

  it('leads elsewhere because a link above it was swapped, as Kubernetes does it', async () => {
    for (const version of ['..1', '..2']) {
      await mkdir(at(version));
      await writeFile(at(version, 'a.yaml'), version);
    }
    await symlink('..1', at('..data'));
    await symlink('..data/a.yaml', at('a.yaml'));
    await start(['a.yaml']);
    await symlink('..2', at('..data_tmp'));
    await rename(at('..data_tmp'), at('..data'));
    await rm(at('..1'), { recursive: true });
    await expectChanges(1);
  });

  it('nobody notifies of, by looking', async () => {
    await mkdir(at('v1'));
    await mkdir(at('v2'));
    await writeFile(at('v1', 'a.yaml'), '1');
    await writeFile(at('v2', 'a.yaml'), '2');
    await symlink('v1', at('current'));
    // The watched folder is a link: whoever swaps it tells nobody who watches where it led.
    await start(['current/a.yaml'], 20, 50);
    await symlink('v2', at('next'));
    await rename(at('next'), at('current'));
    await expectChanges(1);
  });

  it('is written piece by piece once, when all is there', async () => {
    await writeFile(at('a.yaml'), 'a');
    await start(['a.yaml'], 1_000);
    for (let i = 0; i < 10; i += 1) {
      await writeFile(at('a.yaml'), 'a'.repeat(i + 2));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await expectChanges(1);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect(changes).toBe(1);
  });
});

describe('FileWatch says nothing', () => {
  it('of other files, and nothing once it was stopped', async () => {
    await writeFile(at('a.yaml'), 'a');
    await start(['a.yaml', 'missing.yaml'], 20, 50);
    await writeFile(at('b.yaml'), 'b');
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(changes).toBe(0);
    watch?.stop();
    await writeFile(at('a.yaml'), 'other');
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(changes).toBe(0);
  });
});
